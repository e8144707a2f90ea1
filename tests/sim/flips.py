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

if TYPE_CHECKING:
    from .world import World

TRIES = 4


def flip_copy(world: World, chance: Random) -> None:
    """A few flips, each in a copy of its own, of a machine whose process was killed."""
    from .pipes import DIRECTORY, FRAME_BYTES_MAX, NUMBER, SEGMENT_BYTES, seen

    if world.interval or not world.pipe.alive:
        return
    for _ in range(TRIES):
        files = FakeFiles(chance)
        files.root = deepcopy(world.files.root)
        numbers = list_log(files, DIRECTORY).segments
        number = chance.choice((*numbers, numbers[-1]))
        node = files._node(segment_path(DIRECTORY, number))
        assert isinstance(node, Inode)
        used = node.shown.rstrip(b"\0")
        first = max(0, len(used) - 600) if number == numbers[-1] and chance.random() < 0.5 else 0
        place = chance.randrange(first, max(first + 1, len(used)))
        files.flip(segment_path(DIRECTORY, number), place, chance.randrange(8))
        expected = world.oracle.frames
        try:
            log = SegmentLog.open(
                files, DIRECTORY, NUMBER, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX,
                clock=world.pipe, draw=chance.randbytes,
            )  # fmt: skip
            found = [seen(frame, items=False) for frame in log.replay()]
            marked = log.tail.marked
        except Mpy6aError as problem:
            world.note("flip", f"refused by {type(problem).__name__}")
            continue
        if any(not one.same(other) for one, other in zip(found, expected, strict=False)) or len(found) > len(expected):
            raise Violation("flip", f"bit {place} of segment {number} is served")
        if len(found) < len(expected):
            # The last group has no mark behind it: FORMAT.md, "Downsides".
            last = expected[len(found)]
            if marked and last.type != FrameType.BATCH and number != numbers[-1]:
                raise Violation("flip", f"bit {place} of segment {number} cuts index {last.first_index}")
            if last.first_index < world.oracle._group_index:
                raise Violation("flip", f"bit {place} of segment {number} cuts more than the last group")
            world.note("flip", "last group cut")
        else:
            world.note("flip", "harmless")
