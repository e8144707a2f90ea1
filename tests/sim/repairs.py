"""Bits turn in a copy of the disk, and it is repaired: only what the repair says is lost is lost."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.loading import load_state
from mpy6a.errors import DamagedLog
from mpy6a.framing import HEADER_BYTES, Frame, FrameType
from mpy6a.log.losing import Lost, measure
from mpy6a.log.repair import repair
from mpy6a.log.surveying import CheckpointFound, survey
from mpy6a.state import State
from tests.fakes.files import FakeFiles

from .flips import copied, flip, opened
from .oracle import Violation
from .pipes import DIRECTORY, NUMBER
from .shadow import same

if TYPE_CHECKING:
    from .world import World

_PATH = f"{DIRECTORY}/checkpoint.db"


def repair_copy(world: World, chance: Random) -> None:
    """One copy, some flips, one repair, and a start from what is left."""
    if world.interval or not world.pipe.alive:
        return
    files, header = copied(world, chance), world.pipe.writer.disk.header()
    base = 1 if header is None else header.next_index
    flips = [flip(files, chance) for _ in range(chance.choice((1, 1, 2, 3)))]
    try:
        found = survey(files, DIRECTORY, _checkpoint(header))
    except DamagedLog:
        world.note("repair", "needs a backup")
        _is_refused(world, files, chance, base)
        return
    if found.whole:
        world.note("repair", "nothing to do")
        return
    lost = measure(files, found)
    done = repair(
        files, DIRECTORY, found, lost, dropped_path=f"{DIRECTORY}/dropped", wall_ms=world.agenda.wall_ms,
        draw=chance.randbytes,
    )  # fmt: skip
    if done.checkpoint_path:  # it does not join what is left: it was set aside, and the log begins anew
        header, base = None, 1
    if not survey(files, DIRECTORY, _checkpoint(header)).whole:
        raise Violation("repair", "it leaves damage")
    _judge(world, _started(world, files, chance, base), lost, base, flips, cut=bool(done.term))
    world.note("repair", "cut" if done.term else "mended")


def _checkpoint(header: CheckpointHeader | None) -> CheckpointFound | None:
    if header is None:
        return None
    return CheckpointFound(
        _PATH, header.next_index, header.segment, header.offset, header.term, header.level, header.log_ms
    )


def _is_refused(world: World, files: FakeFiles, chance: Random, base: int) -> None:
    try:
        log = opened(world, files, chance, base)
        list(log.replay(base))
    except DamagedLog:
        return
    if log.first_index <= base <= log.next_index:
        raise Violation("repair", "it says that only a backup helps, and the log opens")


def _started(world: World, files: FakeFiles, chance: Random, base: int) -> list[Frame]:
    """What a start replays."""
    files.kill()
    try:
        log = opened(world, files, chance, base)
        frames = [frame for frame in log.replay(base) if frame.first_index >= base]
    except DamagedLog as problem:
        raise Violation("repair", f"what was repaired is refused: {problem}") from problem
    if not log.first_index <= base <= log.next_index:
        raise Violation("repair", "what was repaired does not join its checkpoint")
    return frames


def _judge(
    world: World, frames: Sequence[Frame], lost: Lost, base: int, flips: Sequence[tuple[int, int]], *, cut: bool
) -> None:
    pipe = world.pipe
    before = [frame for frame in pipe.shadow.frames if frame.first_index >= base]
    kept = list(frames[:-1] if cut else frames)
    if kept != before[: len(kept)]:
        raise Violation("repair", "it changes what it keeps")
    added = frames[len(kept) :]
    if any(frame.type != FrameType.OPENING for frame in added):
        raise Violation("repair", "it adds something else than a new term")
    gone = before[len(kept) :]
    end = gone[0].first_index if gone else pipe.pipe.state.next_index
    if gone and cut:
        unsaid = [frame.first_index for frame in gone if frame.first_index + frame.count - 1 > lost.last_index]
        if lost.unrecognised_bytes:
            unsaid.clear()
        # What is damaged in the last group cannot be told from a tear: FORMAT.md, "Downsides".
        if lost.first_index != end or (unsaid and unsaid[0] < world.oracle._group_index):
            last, told = gone[-1].first_index + gone[-1].count - 1, f"{lost.first_index} to {lost.last_index}"
            raise Violation("repair", f"{end} to {last} is lost, {told} is said to be")
        if unsaid:
            world.note("repair", "last group taken for a tear")
        if not lost.unrecognised_bytes and not lost.unread_entries and not lost.unreadable_frames:
            _check_named(pipe.pipe.state, end, lost)
    elif gone and end < world.oracle._group_index:
        # A header of the last group shows that what stands before it was durable: each has to be damaged, too.
        behind = [frame for frame in gone if frame.first_index >= world.oracle._group_index]
        if not all(_is_headless(frame, flips) for frame in behind):
            raise Violation("repair", f"index {end} is lost, and nothing is said to be")
        world.note("repair", "nothing recognised behind the damage")
    own = pipe.shadow.until(end)
    state = State(NUMBER) if base == 1 else load_state(pipe.writer.disk.open(), NUMBER)
    for frame in frames:
        state.apply(frame)
    for frame in added:
        own.apply(frame)
    same(state, own)


def _is_headless(frame: Frame, flips: Sequence[tuple[int, int]]) -> bool:
    """Whether one of the flips (segment, byte) is in the frame's header; its position is that of its body."""
    number, body = frame.position >> 32, frame.position & 0xFFFFFFFF
    return any(number == segment and body - HEADER_BYTES <= place < body for segment, place in flips)


def _check_named(state: State, end: int, lost: Lost) -> None:
    """Every session that lives and was touched in what is gone, as far as that is known, is named."""
    touched = {(one.term, one.index) for one in state.sessions.all() if end <= one.change <= lost.last_index}
    if not touched <= lost.sessions:
        raise Violation("repair", f"sessions {sorted(touched - lost.sessions)[:4]} are touched, and not named")
