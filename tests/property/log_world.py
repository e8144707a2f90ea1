"""One pipe's log on a machine that is killed, loses power and has a failing disk, and the oracle that watches it.

The oracle knows nothing of segments, checksums or syncs: it keeps what was issued and what was acknowledged,
and judges what a reopened log replays.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mpy6a.errors import DamagedLog, DiskFailed
from mpy6a.framing import Frame, FrameType
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import POWER_CUT, FakeFiles, PowerCut

DIRECTORY = "/data"
SEGMENT_BYTES = 16 * 1024
FRAME_BYTES_MAX = 8 * 1024
INTERVAL_MS = 10


# What can happen, and how often.
MOVES = (
    ("append", 40),
    ("mark", 8),
    ("prepare", 4),
    ("trim", 3),
    ("sync", 4),
    ("read", 5),
    ("kill", 4),
    ("crash", 6),
    ("cut_power", 8),
    ("break_disk", 5),
    ("close", 2),
)


class Violation(AssertionError):
    """The log broke its promise."""


@dataclass
class TurnedClock:
    """A clock that the world moves."""

    now_ms: int = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms


class World:
    """A log, its lives, and what each of them promised."""

    def __init__(self, rng: random.Random, store: type[SegmentLog] = SegmentLog) -> None:
        self.rng = rng
        self.store = store
        self.files = FakeFiles(rng)
        self.clock = TurnedClock()
        self.interval = rng.random() < 0.25
        self.resend = rng.random() < 0.5  # lost frames come again as they were, byte for byte
        self.kept: list[Frame] = []  # acknowledged or replayed: may never go away again
        self.loose: list[Frame] = []  # acknowledged without being durable (`fsync: interval`), or never
        self.forgotten: list[Frame] = []  # issued in the life before and gone
        self.trimmed = 1
        self.life = 0
        self.lives = 0
        self.replays = 0
        self.log = self.reopen()

    def run(self, moves: Sequence[str]) -> None:
        """Make these moves, and lose the power after the last."""
        for name in moves:
            move: Callable[[], None] = getattr(self, name)
            move()
        self.crash()

    def append(self) -> None:
        self._append(self._group())

    def mark(self) -> None:
        self._try(self.log.mark)
        if self.loose and self.log.sync_due() is None:
            self._settle()

    def prepare(self) -> None:
        self._try(self.log.prepare)

    def sync(self) -> None:
        self.clock.now_ms += self.rng.randrange(2 * INTERVAL_MS)
        self._try(self.log.sync)
        self._settle()

    def trim(self) -> None:
        if self.kept:
            index = self.rng.choice(self.kept).first_index
            self.trimmed = max(self.trimmed, index)
            self._try(lambda: self.log.trim(index))

    def read(self) -> None:
        here = [frame for frame in self.kept + self.loose if frame.first_index >= self.log.first_index]
        if here:
            frame = self.rng.choice(here)
            start = self.rng.randrange(len(frame.batch) + 1)
            length = self.rng.randrange(len(frame.batch) - start + 1)
            if self.log.read(frame.position + start, length) != frame.batch[start : start + length]:
                raise Violation(f"other bytes read back for index {frame.first_index}")

    def kill(self) -> None:
        self.files.kill()
        self.log = self.reopen()

    def crash(self) -> None:
        self.files.crash(self.rng)
        self.log = self.reopen()

    def close(self) -> None:
        try:
            self.log.close()
        except DiskFailed:
            pass  # a fault planted earlier
        else:
            self._settle()
        self.files.kill()
        self.log = self.reopen()

    def cut_power(self) -> None:
        """The machine goes down in the middle of a group, or of what else that group needs."""
        operation = self.rng.choice(("write", "sync", "sync", "sync_dir", "rename"))
        self.files.fail(operation, 1 + self.rng.randrange(2), POWER_CUT)
        for _ in range(3):
            try:
                if not self._append(self._group(), reopen=False):
                    break
            except PowerCut:
                break
        self.crash()
        if self.rng.random() < 0.5:  # and again, before much could be written over what the first one left
            self.append()
            self.crash()

    def break_disk(self) -> None:
        """A fault at one of the next operations; then the process ends, as it has to."""
        operation = self.rng.choice(("write", "sync", "sync_dir", "rename"))
        error = errno.ENOSPC if operation == "write" and self.rng.random() < 0.2 else errno.EIO
        self.files.fail(operation, 1 + self.rng.randrange(3), error, lasting=self.rng.random() < 0.5)
        for _ in range(3):
            if not self._append(self._group(), reopen=False):
                break
        if self.rng.random() < 0.3:
            # The next life fails while it opens.
            self.files.kill()
            self.files.fail(self.rng.choice(("write", "sync")), 1 + self.rng.randrange(2))
            try:
                self.log = self.reopen()
            except DiskFailed:
                pass
            else:
                return
        self.rng.choice((self.kill, self.crash))()

    def reopen(self) -> SegmentLog:
        """The next life: what it replays is judged, and from then on promised."""
        self.lives += 1
        self.life += 1
        log = self.store.open(
            self.files, DIRECTORY, 1, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX,
            sync_interval_ms=INTERVAL_MS if self.interval else None, clock=self.clock, draw=self.rng.randbytes,
        )  # fmt: skip
        self._judge(list(log.replay()), log)
        return log

    def _judge(self, found: list[Frame], log: SegmentLog) -> None:
        if log.first_index > self.trimmed:
            raise Violation(f"begins at {log.first_index}, trimmed below {self.trimmed} only")
        index = log.first_index
        for frame in found:
            if frame.first_index != index:
                raise Violation(f"index {frame.first_index} where {index} is due")
            index += frame.count
        if log.next_index != index:
            raise Violation(f"next index {log.next_index} where {index} is due")
        kept = [frame for frame in self.kept if frame.first_index >= log.first_index]
        if found[: len(kept)] != kept:
            raise Violation(f"acknowledged frames lost or changed: {len(kept)} kept, {len(found)} found")
        more = found[len(kept) :]
        if more != self.loose[: len(more)]:
            raise Violation("a frame that this life did not issue")
        if any(log.read(frame.position, len(frame.batch)) != frame.batch for frame in found[-3:]):
            raise Violation("other bytes read back than replayed")
        self.replays += bool(more)
        self.forgotten = self.loose[len(more) :]
        self.kept, self.loose = kept + more, []

    def _group(self) -> list[Frame]:
        if self.resend and self.forgotten:
            count = self.rng.choice((1, self.rng.randrange(1, len(self.forgotten) + 1)))
            group, self.forgotten = self.forgotten[:count], self.forgotten[count:]
            return [replace(frame) for frame in group]
        self.forgotten = []
        index, group = self.log.next_index, []
        for _ in range(self.rng.randrange(1, 5)):
            size = self.rng.choice((0, 1, 47, 48, 49, 300, 1000, 3000))
            count = self.rng.choice((1, 1, 3))
            type_ = self.rng.choice((FrameType.BATCH,) * 2 + (FrameType.OPENING, FrameType.PROPOSALS))
            batch = (b"%d/%d " % (self.life, index) * (size // 4 + 1))[:size]
            verdicts = bytes(8 * self.rng.randrange(3))
            group.append(Frame(type_, 0, 1, self.log.term, index, count, self.life, 7, bytes(16), batch, verdicts))
            index += count
        return group

    def _append(self, group: list[Frame], *, reopen: bool = True) -> bool:
        return self._try(lambda: self.log.append(group), group, reopen=reopen)

    def _try(self, act: Callable[[], object], group: list[Frame] | None = None, *, reopen: bool = True) -> bool:
        """Do something that may end this life; False if it did."""
        self.loose += group or []
        try:
            act()
            committed = self.log.committed()
        except DiskFailed:
            if reopen:
                self.rng.choice((self.kill, self.crash))()
            return False
        if committed != (group or []):
            raise Violation("committed other frames than appended")
        dispatched = any(frame.type == FrameType.PROPOSALS for frame in committed)
        if not self.interval or dispatched or (group and self.log.sync_due() is None):
            self._settle()
        return True

    def _settle(self) -> None:
        """All that was acknowledged is durable now."""
        self.kept += self.loose
        self.loose = []


def run_history(seed: int, steps: int, store: type[SegmentLog] = SegmentLog) -> World:
    """One history, the same for a seed. Raises Violation, or what the log itself raises on an honest crash."""
    rng = random.Random(seed)
    world = World(rng, store)
    world.run(rng.choices([name for name, _ in MOVES], [weight for _, weight in MOVES], k=steps))
    return world


def caught(store: type[SegmentLog], seeds: range, steps: int) -> int | None:
    """The first seed whose history shows that `store` breaks its promise."""
    for seed in seeds:
        try:
            run_history(seed, steps, store)
        except (Violation, DamagedLog):
            return seed
    return None
