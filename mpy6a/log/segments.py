"""The local log: append-only segments in a directory, one write and one sync a group (FORMAT.md).

Single-threaded, syncs inline. `fsync: always` (the default) returns a frame as committed once it is durable;
with a sync interval a committed frame may be lost with the machine, and `durable` says so. Fail-stop: after a
failed write or sync every call raises DiskFailed, and the process has to end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence

from mpy6a.clock import Clock, OsClock
from mpy6a.errors import DiskFailed
from mpy6a.files import Aside, File, Files, Lock, Space
from mpy6a.framing import (
    HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameType,
    SegmentHeader,
    encode_group,
    frame_bytes,
    mark,
    place_of,
    position_of,
)
from mpy6a.limits import LOG_FRAME_BYTES_MAX, OPEN_SEGMENTS_MAX, PREPARE_BYTES, SEGMENT_BYTES
from mpy6a.log import LogStats, Progress, check_group
from mpy6a.log.directory import backup_lock_path, damaged, segment_path
from mpy6a.log.opening import Draw, Opened, check_sizes, draw_salt, open_directory, start_segment
from mpy6a.log.replaying import replay_segments
from mpy6a.log.spares import Freed, free


class SegmentLog:
    """A Log on the local disk. Made by `open`; see mpy6a.log.Log for what each method promises."""

    def __init__(
        self,
        files: Files,
        directory: str,
        lock: Lock,
        opened: Opened,
        *,
        draw: Draw,
        frame_bytes_max: int,
        sync_interval_ms: int | None,
        clock: Clock,
        progress: Progress | None,
    ) -> None:
        tail, header = opened.tail, opened.headers[-1]
        self._files = files
        self._directory = directory
        self._lock = lock
        self._draw = draw
        self._frame_bytes_max = frame_bytes_max
        self._interval_ms = sync_interval_ms
        self._clock = clock
        self._progress = progress
        self._spares = opened.spares
        self._freeing: Aside | None = None  # a trim that waits for the disk
        self._freed: list[Freed] = []  # what of it is done
        self._headers = opened.headers
        self._open: dict[int, File] = {header.number: opened.file}
        self._use(header, opened.file)
        self._offset = tail.offset
        self._chain = tail.chain
        self._level, self._log_ms = tail.level, tail.log_ms
        self._marked = tail.marked
        self._term, self._next_index = tail.term, tail.next_index
        self._synced = tail.next_index - 1  # the highest index known durable
        self._unsynced_bytes = 0
        self._unsynced_since_ms = 0
        self._committed: list[Frame] = []
        self._replayed: bool | None = None  # None: not begun
        self._replayed_bytes = 0
        self._failed: str | None = None
        self._closed = False
        self.tail = tail  # what opening found, for the driver to report
        self.stats = LogStats(segments=len(self._headers), spares=len(self._spares))
        self.stats.rewritten_bytes = tail.offset - tail.rewrite_from
        self.stats.cut_bytes = tail.behind.until - tail.offset
        self.stats.cut_frames = tail.behind.frames

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        pipe: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        frame_bytes_max: int = LOG_FRAME_BYTES_MAX,
        durable_below: int = 1,
        sync_interval_ms: int | None = None,
        clock: Clock | None = None,
        progress: Progress | None = None,
        draw: Draw = os.urandom,
    ) -> SegmentLog:
        """Open the log of pipe number `pipe` in `directory`, or make it. The lock is held until `close`.

        A checkpoint says that everything below index `durable_below` was durable: a log that ends below is damage,
        never a tear. `sync_interval_ms` None is `fsync: always`. `progress` is told the bytes that `replay` has read.
        Raises ConfigError (segment too small), CannotStart (in use, another pipe's, unusable path),
        FormatVersion, DamagedLog, DiskFailed (the tail could not be written again).
        """
        check_sizes(segment_bytes, frame_bytes_max)
        lock, opened = open_directory(files, directory, pipe, segment_bytes, draw, durable_below)
        return cls(
            files, directory, lock, opened, draw=draw, frame_bytes_max=frame_bytes_max,
            sync_interval_ms=sync_interval_ms, clock=clock or OsClock(), progress=progress,
        )  # fmt: skip

    @property
    def uuid(self) -> bytes:
        """Of the log, 16 bytes; drawn when it was made."""
        return self._headers[-1].log

    @property
    def term(self) -> int:
        return self._term

    @property
    def first_index(self) -> int:
        return self._headers[0].first_index

    @property
    def next_index(self) -> int:
        return self._next_index

    @property
    def durable(self) -> bool:
        return self._interval_ms is None

    @property
    def unsynced_bytes(self) -> int:
        """Appended and not durable yet: 0 unless there is a sync interval."""
        return self._unsynced_bytes

    @property
    def replayed_bytes(self) -> int:
        """Of the frames that `replay` yielded."""
        return self._replayed_bytes

    @property
    def disk_full(self) -> bool:
        """Another spare is wanting, and there is no room to prepare it; what is left is `room_bytes`."""
        return self._spares.disk_full

    @property
    def room_bytes(self) -> int:
        """Prepared and not written yet: writing there needs nothing more of the file system."""
        return self._size - self._offset + len(self._spares) * (self._spares.segment_bytes - SEGMENT_HEADER_BYTES)

    @property
    def segment(self) -> int:
        """Number of the segment that is written."""
        return self._number

    @property
    def segment_bytes(self) -> int:
        """Size of the segments to come."""
        return self._spares.segment_bytes

    def space(self) -> Space:
        """Of the file system that the log is on. Raises DiskFailed."""
        try:
            return self._files.space(self._directory)
        except OSError as error:
            raise self._fail("asking for the free space of", self._directory, error) from error

    def spare(self, keep: int, fillable: int, *, tight: bool) -> None:
        """Keep so many spares ready, filling at most so many bytes; `tight`: give back what is more than that."""
        self._spares.keep, self._spares.tight = keep, tight
        self._spares.allow(fillable)

    def replay(self, from_index: int = 1) -> Iterator[Frame]:
        self._check_alive()
        if self._replayed is not None:
            raise RuntimeError("a log is replayed once")
        self._replayed = False
        first = 0
        while first + 1 < len(self._headers) and self._headers[first + 1].first_index <= from_index:
            first += 1
        headers = self._headers[first:]
        for frame in replay_segments(self._files, self._directory, headers, self._offset, self._progress):
            if frame.first_index + frame.count > from_index:
                self._replayed_bytes += frame_bytes(len(frame.batch), len(frame.verdicts))
                yield frame
        self._replayed = True

    def append(self, frames: Sequence[Frame]) -> None:
        self._check_ready()
        if self._freeing is not None:
            self._take_freed()  # no ack after a sync that failed, whoever's it was
        total = self._check_group(frames)
        # A dispatch is durable before its push in every sync mode (semantics.md), and its whole group with it.
        durable = self._interval_ms is None or any(frame.type == FrameType.PROPOSALS for frame in frames)
        if total <= self._size - self._offset and self._unsynced_bytes + total <= WINDOW_BYTES:
            if total:
                self._write(frames, total, durable)
        else:
            self._write_in_pieces(frames, durable)
        spares = self._spares
        if spares.wanting and (len(spares) + 1 < spares.keep or self._size - self._offset < self._size // 2):
            # Twice what came in, more for a larger spare, so that it is ready when the second half is full.
            for _ in range(1 + 2 * total * spares.segment_bytes // (self._size * PREPARE_BYTES)):
                if not self.prepare():
                    break

    def committed(self) -> list[Frame]:
        self._check_alive()
        committed, self._committed = self._committed, []
        return committed

    def read(self, position: int, length: int) -> bytes:
        self._check_alive()
        number, offset = place_of(position)
        try:
            data = (self._open.get(number) or self._file_of(number)).read(length, offset)
        except OSError as error:
            raise self._fail("reading", segment_path(self._directory, number), error) from error
        if len(data) != length:
            raise damaged(segment_path(self._directory, number), offset, None, "the file ends before the record")
        return data

    def mark(self) -> None:
        self._check_ready()
        if self._marked:
            return
        if self._unsynced_bytes:
            self.sync()
        frame = mark(term=self._term, level=self._level, first_index=self._next_index, log_ms=self._log_ms)
        if frame_bytes(0, 0) > self._size - self._offset:
            if self.disk_full and not self._spares:
                return  # it can wait for a segment; only the last group's damage is taken for a tear until then
            self._roll()  # the header of the next segment says the same
        else:
            self._put([frame], durable=True)
        self._marked = True
        self.stats.marks += 1

    def trim(self, index: int, keep_bytes: int = 0) -> bool:
        """As the contract says, beside the caller: segments count until the disk has let them go, which the next call
        takes note of. Of what goes below `index`, the newest `keep_bytes` stay, in whole segments.
        False, and nothing is done, while a backup is taken or an earlier trim is not done: ask again.
        """
        self._check_ready()
        self._take_freed()
        if self._freeing is not None or self._is_held():
            return False
        below = [header for header, after in itertools.pairwise(self._headers) if after.first_index <= index]
        kept = 0
        while below and kept < keep_bytes:
            kept += below.pop().segment_bytes
        if not below:
            return True
        numbers = [header.number for header in below]
        try:
            plan = self._spares.plan(numbers)
        except OSError as error:
            raise self._fail("trimming", segment_path(self._directory, numbers[0]), error) from error
        files, directory, freed = self._files, self._directory, self._freed
        self._freeing = files.aside(lambda: freed.extend(free(files, directory, plan)))
        self._take_freed()
        return True

    def _is_held(self) -> bool:
        """Whether a backup is taken."""
        path = backup_lock_path(self._directory)
        try:
            return self._files.locked_by(path) is not None
        except OSError as error:
            raise self._fail("looking at", path, error) from error

    def _take_freed(self) -> None:
        """Take note of the segments that were let go beside us, once all of one `trim` are."""
        if self._freeing is not None and self._freeing.done:
            self.wait_trimmed()

    def wait_trimmed(self) -> None:
        """Wait until what `trim` began is done, durably. Raises DiskFailed."""
        freeing, self._freeing = self._freeing, None
        if freeing is None:
            return
        try:
            freeing.result()
            for step in self._freed:
                file = self._open.pop(step.segment, None)
                if file is not None:
                    file.close()
                del self._headers[0]
                self._spares.freed(step)
        except OSError as error:
            raise self._fail("trimming a segment in", self._directory, error) from error
        self._freed.clear()
        self.stats.segments, self.stats.spares = len(self._headers), len(self._spares)

    def prepare(self) -> bool:
        """Work at most about a millisecond at the next segment; True if there is more to do.

        For the idle turns of a loop, after the acks went out. Append does it by itself from half a segment
        on. A full disk is no error while the current segment has room: `disk_full` says so, and it is tried
        again.
        """
        self._check_ready()
        self._take_freed()
        try:
            more = self._spares.prepare()
        except OSError as error:
            raise self._fail("preparing a segment in", self._directory, error) from error
        self.stats.spares = len(self._spares)
        return more

    def sync_due(self) -> int | None:
        """The monotonic ms at which `sync` has to be called; None while all is synced (always in `fsync: always`)."""
        if self._interval_ms is None or not self._unsynced_bytes:
            return None
        return self._unsynced_since_ms + self._interval_ms

    def sync(self) -> None:
        """Make everything durable that was appended."""
        self._check_ready()
        if not self._unsynced_bytes:
            return
        started = time.perf_counter_ns()
        try:
            self._file.sync()
        except OSError as error:
            raise self._fail("syncing", segment_path(self._directory, self._number), error) from error
        self.stats.syncs += 1
        self.stats.sync_ns.append(time.perf_counter_ns() - started)
        self._unsynced_bytes = 0
        self._synced = self._next_index - 1

    def close(self) -> None:
        if self._closed:
            return
        try:
            if self._failed is None and self._replayed:
                self.wait_trimmed()
                self.mark()
        finally:
            self._closed = True
            if self._freeing is not None:
                with contextlib.suppress(OSError):  # the log failed before: that is what is told
                    self._freeing.result()
            for file in self._open.values():
                file.close()
            self._spares.close()
            self._lock.release()

    def _check_alive(self) -> None:
        if self._failed is not None:
            raise DiskFailed(self._failed)
        if self._closed:
            raise RuntimeError("the log is closed")

    def _check_ready(self) -> None:
        self._check_alive()
        if not self._replayed:
            raise RuntimeError("a log is replayed, to its end, before it is used")

    def _check_group(self, frames: Sequence[Frame]) -> int:
        check_group(frames, self._next_index, self._term)
        total = 0
        for frame in frames:
            size = frame_bytes(len(frame.batch), len(frame.verdicts))
            if size > self._frame_bytes_max:
                raise ValueError(f"a frame of {size} bytes, {self._frame_bytes_max} are allowed")
            total += size
        return total

    def _write_in_pieces(self, frames: Sequence[Frame], durable: bool) -> None:
        """Write a group that does not fit into one segment, or into one window, each piece durable before the next."""
        piece: list[Frame] = []
        total = 0
        for frame in frames:
            size = frame_bytes(len(frame.batch), len(frame.verdicts))
            full = total + size > self._size - self._offset
            if full or self._unsynced_bytes + total + size > WINDOW_BYTES:
                if piece:
                    self._write(piece, total, durable)
                if self._unsynced_bytes:
                    self.sync()
                if full:
                    self._roll()
                piece, total = [], 0
            piece.append(frame)
            total += size
        if piece:
            self._write(piece, total, durable)

    def _write(self, frames: Sequence[Frame], total: int, durable: bool) -> None:
        if not durable and not self._unsynced_bytes:
            self._unsynced_since_ms = self._clock.monotonic_ms()
        position = position_of(self._number, self._offset + HEADER_BYTES)
        self._put(frames, durable=durable)
        stats = self.stats
        for frame in frames:
            frame.position = position
            position += frame_bytes(len(frame.batch), len(frame.verdicts))
            stats.entries += frame.count
        last = frames[-1]
        self._next_index = last.first_index + last.count
        self._term, self._level, self._log_ms = last.term, last.level, last.log_ms
        self._marked = False
        self._committed += frames
        stats.frames += len(frames)
        stats.groups += 1
        if durable:
            self._synced = self._next_index - 1
            self._unsynced_bytes = 0
            return
        self._unsynced_bytes += total
        due = self.sync_due()
        if due is not None and self._clock.monotonic_ms() >= due:
            self.sync()

    def _put(self, frames: Sequence[Frame], *, durable: bool) -> None:
        data, chain = encode_group(frames, salt=self._salt, chain=self._chain, synced=self._synced)
        started = time.perf_counter_ns()
        try:
            if not durable:
                self._file.write(data, self._offset)
            elif self._unsynced_bytes:
                self._file.write(data, self._offset)
                self._file.sync()
            else:
                self._file.write_synced(data, self._offset)
        except OSError as error:
            raise self._fail("writing", segment_path(self._directory, self._number), error) from error
        if durable:
            self.stats.syncs += 1
            self.stats.sync_ns.append(time.perf_counter_ns() - started)
        self.stats.bytes += len(data)
        self._offset += len(data)
        self._chain = chain

    def _roll(self) -> None:
        """Go on in a new segment. Its header says that all before it is durable: so it is, here."""
        header = SegmentHeader(
            self._headers[-1].log, self._number + 1, draw_salt(self._draw, self._salt), self._chain,
            self._next_index, self._term, self._spares.segment_bytes,
        )  # fmt: skip
        if not self._spares:
            self.wait_trimmed()  # shorter than filling one now
        try:
            file = start_segment(self._files, self._directory, self._spares, header)
        except OSError as error:
            raise self._fail("starting a segment in", self._directory, error) from error
        self._headers.append(header)
        self._make_room()
        self._open[header.number] = file
        self._use(header, file)
        self._offset = SEGMENT_HEADER_BYTES
        self._chain = header.seed
        self.stats.segments, self.stats.spares = len(self._headers), len(self._spares)

    def _use(self, header: SegmentHeader, file: File) -> None:
        self._file = file
        self._number, self._salt, self._size = header.number, header.salt, header.segment_bytes

    def _file_of(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            if not self._headers[0].number <= number <= self._number:
                raise ValueError(f"no segment {number}: the position was trimmed or never committed")
            file = self._files.open(segment_path(self._directory, number), write=False)
            self._make_room()
            self._open[number] = file
        return file

    def _make_room(self) -> None:
        if len(self._open) >= OPEN_SEGMENTS_MAX:
            oldest = next(number for number in self._open if number != self._number)
            self._open.pop(oldest).close()

    def _fail(self, doing: str, path: str, error: OSError) -> DiskFailed:
        self._failed = (
            f"{doing} {path} failed ({error.strerror}): nothing above index {self._synced} is known to be durable; "
            "check the disk, then start the pipe again"
        )
        return DiskFailed(self._failed)
