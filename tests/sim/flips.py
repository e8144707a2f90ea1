"""One bit turns at rest, in a copy of the disk: what is opened there is refused, or says what was said before."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import TYPE_CHECKING

from mpy6a.errors import Mpy6aError
from mpy6a.framing import FrameType
from mpy6a.log.directory import list_log, segment_path
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import FakeFiles, Inode

from .oracle import Violation
from .pipes import DIRECTORY, FRAME_BYTES_MAX, NUMBER, SEGMENT_BYTES
from .sight import seen

if TYPE_CHECKING:
    from .world import World

TRIES = 4


def copied(world: World, chance: Random) -> FakeFiles:
    """The files of a machine whose process was killed just now."""
    files = FakeFiles(chance)
    files.root = deepcopy(world.files.root)
    return files


def flip(files: FakeFiles, chance: Random) -> tuple[int, int]:
    """A bit of what is written turns: in which segment and byte; every other one near the log's end."""
    numbers = list_log(files, DIRECTORY).segments
    number = chance.choice((*numbers, numbers[-1]))
    node = files._node(segment_path(DIRECTORY, number))
    assert isinstance(node, Inode)
    used = node.shown.rstrip(b"\0")
    first = max(0, len(used) - 600) if number == numbers[-1] and chance.random() < 0.5 else 0
    place = chance.randrange(first, max(first + 1, len(used)))
    files.flip(segment_path(DIRECTORY, number), place, chance.randrange(8))
    return number, place


def opened(world: World, files: FakeFiles, chance: Random, durable_below: int) -> SegmentLog:
    """The log of a copy, as the next start opens it."""
    return SegmentLog.open(
        files, DIRECTORY, NUMBER, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX,
        durable_below=durable_below, clock=world.pipe, draw=chance.randbytes,
    )  # fmt: skip


def flip_copy(world: World, chance: Random) -> None:
    """A few flips, each in a copy of its own."""
    if world.interval or not world.pipe.alive:
        return
    header = world.pipe.writer.disk.header()
    for _ in range(TRIES):
        files = copied(world, chance)
        last = list_log(files, DIRECTORY).segments[-1]
        number, place = flip(files, chance)
        filed = 1 if header is None else header.next_index
        try:
            log = opened(world, files, chance, filed)
            found = [seen(frame, items=False) for frame in log.replay(log.first_index)]
            marked = log.tail.marked
        except Mpy6aError as problem:
            world.note("flip", f"refused by {type(problem).__name__}")
            continue
        if log.first_index > filed:
            raise Violation("flip", f"bit {place} of segment {number} cuts what is below index {log.first_index}")
        # Of the copy: segments may be given back beside the loop, and the running pipe not know it yet.
        expected = world.pipe.frames_from(log.first_index)
        if any(not one.same(other) for one, other in zip(found, expected, strict=False)) or len(found) > len(expected):
            raise Violation("flip", f"bit {place} of segment {number} is served")
        if len(found) < len(expected):
            # The last group has no mark behind it: FORMAT.md, "Downsides".
            lost = expected[len(found)]
            if marked and lost.type != FrameType.BATCH and number != last:
                raise Violation("flip", f"bit {place} of segment {number} cuts index {lost.first_index}")
            if lost.first_index < world.oracle._group_index:
                raise Violation("flip", f"bit {place} of segment {number} cuts more than the last group")
            world.note("flip", "last group cut")
        else:
            world.note("flip", "harmless")
