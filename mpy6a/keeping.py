"""Keeps the store small: has checkpoints written, lets go of memory and log, makes clients wait when it falls behind.

    log grew -> ask(index) -> the writer follows the log, commits -> done(index, position)
             -> rows of the file count, waiting sessions leave memory, segments below are used again

Never holds up the loop: the writer is another process, and memory is let go in slices. Source: design, "Checkpoint".
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mpy6a import limits
from mpy6a.filed import Filed
from mpy6a.log import LogStats
from mpy6a.pipe import Pipe

logger = logging.getLogger(__name__)


class Done(Protocol):
    """A checkpoint is committed."""

    @property
    def index(self) -> int:
        """Everything below it is in the file."""
        ...

    @property
    def position(self) -> int:
        """The log's position behind the last frame of it."""
        ...

    @property
    def took_ms(self) -> int:
        """What writing it took."""
        ...

    @property
    def settled(self) -> bool:
        """It stands in the file itself, not only in SQLite's journal beside it."""
        ...


class Writer(Protocol):
    """Whoever writes checkpoints, one at a time, and tells of it later."""

    full: bool  # the last one found no room on the disk

    @property
    def busy(self) -> bool:
        """One is asked for and not committed."""
        ...

    def ask(self, index: int) -> None:
        """Have one written that holds everything below `index`: durable, and the end of a frame."""
        ...

    def receive(self) -> Sequence[Done]:
        """What was committed since the last call. Raises DiskFailed when there will be no more."""
        ...


class KeptLog(Protocol):
    """What of a log matters here."""

    stats: LogStats

    @property
    def next_index(self) -> int:
        """Index of the next entry."""
        ...

    @property
    def unsynced_bytes(self) -> int:
        """Appended and not durable yet: 0 unless `fsync: interval`."""
        ...

    def sync(self) -> None:
        """Make everything durable that was appended."""
        ...

    def trim(self, index: int, keep_bytes: int = 0) -> bool:
        """Nothing below `index` is needed any more; so many bytes of it are to stay. False: not now, ask again."""
        ...


@dataclass(slots=True)
class Kept:
    """Figures for `status`."""

    index: int = 0  # of the last checkpoint
    position: int = 0
    checkpoints: int = 0  # since this process began
    took_ms: int = 0  # of the last one
    done_ms: int = 0  # when it was told of, monotonic


class Keeper:
    """One pipe's. Call `turn` after every turn of the loop, `receive` when the writer has something to say."""

    def __init__(
        self,
        pipe: Pipe,
        log: KeptLog,
        writer: Writer,
        open_file: Callable[[], Filed],
        replayed: int,
        checkpoint_bytes: int = limits.CHECKPOINT_BYTES,
        keep_bytes: int = 0,
        *,
        stopwatch_ns: Callable[[], int] = int,
    ) -> None:
        """`open_file` gives the file's reading side after the first commit; `replayed` are the bytes of log above the
        last checkpoint, `checkpoint_bytes` those after which the next one begins, `keep_bytes` those of log that stay
        below it, for whoever wants to read them. `stopwatch_ns` ends a turn's work for memory after SETTLE_NS: it
        decides how soon memory is free, and nothing else; without one the number of slices does."""
        self._stopwatch_ns = stopwatch_ns
        self._keep_bytes = keep_bytes
        self._trim_index = 0  # below it the log is in the file
        self._trimmed = (0, 0)  # of the last trim: this index, and the bytes kept below it
        self._checkpoint_bytes = checkpoint_bytes
        self._backlog_bytes_max = max(limits.CHECKPOINT_BACKLOG_BYTES_MIN, limits.CHECKPOINT_BACKLOG * checkpoint_bytes)
        self.kept = Kept()
        self._pipe = pipe
        self._log = log
        self._writer = writer
        self._open_file = open_file
        self._logged = log.stats.bytes - replayed  # stats.bytes at the last checkpoint's end
        self._asked = self._logged  # and at the last question
        self._full_since_ms = 0

    @property
    def backlog_bytes(self) -> int:
        """Log that no checkpoint holds."""
        return self._log.stats.bytes - self._logged

    @property
    def is_busy(self) -> bool:
        """`turn` has work that waits for nobody."""
        return self._pipe.due.is_settling

    def receive(self, now_ms: int) -> None:
        """Take what the writer tells. Raises DiskFailed when it gave up, DamagedLog when its file cannot be read."""
        for done in self._writer.receive():
            sessions = self._pipe.state.sessions
            if sessions.source is None:
                sessions.source = self._open_file()
            sessions.filed_below = done.position
            self._pipe.due.settle_memory(done.index)
            if done.settled:  # else a flipped bit in the journal would leave neither: the next one gives it back
                self._trim_index = done.index
                self._trim()
            if not self._writer.busy:
                self._logged = self._asked
            self.kept = Kept(done.index, done.position, self.kept.checkpoints + 1, done.took_ms, now_ms)
            logger.debug("checkpoint", extra={"facts": {"index": done.index, "ms": done.took_ms}})

    def _trim(self) -> None:
        """Give back the log that nobody needs and nobody wants; when the disk is low, also what somebody wants."""
        trimmed = self._trim_index, 0 if self._pipe.disk_level else self._keep_bytes
        if trimmed != self._trimmed and self._log.trim(*trimmed):
            self._trimmed = trimmed

    def turn(self, now_ms: int) -> None:
        """Let go of some memory; ask for the next checkpoint when there is enough to write."""
        due, log, writer = self._pipe.due, self._log, self._writer
        if due.is_settling:
            until_ns = self._stopwatch_ns() + limits.SETTLE_NS
            for _ in range(limits.SETTLE_SLICES):
                due.settle_some(limits.SETTLE_SESSIONS)
                if not due.is_settling or self._stopwatch_ns() >= until_ns:
                    break
            gc.freeze()  # a heap of 100,000 is being built: Python's collector would walk through it once, for 10 ms
        if self._pipe.disk_level and self._trim_index:
            self._trim()
        backlog = log.stats.bytes - self._logged
        self._pipe.behind = backlog > self._backlog_bytes_max
        if not self.kept.done_ms:
            self.kept.done_ms = now_ms  # of no checkpoint: the first one waits like any other
        least, rest_ms = self._pace
        if writer.busy or due.is_settling or backlog < least:
            return
        if backlog < self._checkpoint_bytes and now_ms - self.kept.done_ms < rest_ms:
            return
        if writer.full and now_ms - self._full_since_ms < limits.CHECKPOINT_REST_MS:
            return
        self._full_since_ms = now_ms
        if log.unsynced_bytes:
            log.sync()
        self._asked = log.stats.bytes
        writer.ask(log.next_index)

    def deadline(self, now_ms: int) -> int | None:
        """When `turn` has to be called next, whatever comes in before; None for never."""
        if self._pipe.due.is_settling:
            return now_ms
        least, rest_ms = self._pace
        if self._writer.busy or self.backlog_bytes < least:
            return None
        ready_ms = self.kept.done_ms + rest_ms
        if self._writer.full:
            ready_ms = max(ready_ms, self._full_since_ms + limits.CHECKPOINT_REST_MS)
        return max(now_ms, ready_ms)

    @property
    def _pace(self) -> tuple[int, int]:
        """Bytes of log that are worth a checkpoint, and ms between two for so little. When the disk is low anything
        is: it gives segments back, and the pages of what was finished."""
        if self._pipe.disk_level:
            return 1, limits.DISK_CHECKPOINT_MS
        return limits.CHECKPOINT_IDLE_BYTES, limits.CHECKPOINT_MS
