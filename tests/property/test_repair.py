"""Whatever is damaged, wherever: it is found, a repair mends it, and nothing below the cut is lost or changed.

Random logs with and without a checkpoint, trimmed or not; then bits turn, blocks are zeroed, files end early or are
gone. The repair is killed at a random moment and run again, too.
"""

from __future__ import annotations

import random

from mpy6a.errors import DamagedLog
from mpy6a.framing import HEADER_BYTES, SEGMENT_HEADER_BYTES, Frame, FrameType, frame_bytes, place_of
from mpy6a.log.directory import list_log, segment_path
from mpy6a.log.surveying import CheckpointFound
from tests.fakes.files import POWER_CUT, FakeFiles, PowerCut
from tests.profile import PROFILE
from tests.unit.log.damaging import assert_whole, batch, begun, checkpoint_behind, look, mend, opening, reopened
from tests.unit.log.frames import DIRECTORY, SEGMENT_BYTES, fake_log

RAISED = 1_000_000  # the term of a repair
HISTORIES = {"quick": 40, "ci": 500, "soak": 20_000}[PROFILE]


Place = tuple[int, int, int]  # segment, and from where to where it is not as it was


def make(chance: random.Random) -> tuple[FakeFiles, list[Frame], CheckpointFound | None]:
    files = FakeFiles(random.Random(chance.random()))
    log = fake_log(files)
    log.append([opening(log)])
    frames = log.committed()
    for _ in range(chance.randrange(1, 60)):
        count = chance.choice((1, 1, 2, 5))
        log.append([batch(log, [begun(one, chance.choice((0, 30, 300, 1_200))) for one in range(1, count + 1)])])
        frames += log.committed()
        if chance.random() < 0.2:
            log.mark()
        if chance.random() < 0.05:
            log.append([opening(log)])
            frames += log.committed()
    checkpoint = checkpoint_behind(chance.choice(frames)) if chance.random() < 0.6 else None
    if checkpoint is not None and chance.random() < 0.7:
        log.trim(checkpoint.next_index)
    log.close()
    files.kill()
    files.crash()
    return files, frames, checkpoint


def damage(chance: random.Random, files: FakeFiles) -> list[Place]:
    places = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        numbers = list_log(files, DIRECTORY).segments
        number = chance.choice(numbers)
        path = segment_path(DIRECTORY, number)
        kind = chance.random()
        if kind < 0.6:
            offset = chance.choice((chance.randrange(SEGMENT_BYTES), chance.randrange(SEGMENT_HEADER_BYTES + 3_000)))
            if offset < len(files.content(path)):
                files.flip(path, offset, chance.randrange(8))
            end = offset + 1
        elif kind < 0.8:
            offset = chance.randrange(SEGMENT_BYTES // 512) * 512
            length = chance.choice((512, 4_096))
            for content in (files._file(path).shown, files._file(path).disk):
                there = content[offset : offset + length]
                content[offset : offset + length] = bytes(len(there))
            end = offset + length
        elif kind < 0.9:
            offset = chance.randrange(SEGMENT_BYTES)
            for content in (files._file(path).shown, files._file(path).disk):
                del content[offset:]
            offset, end = 0, SEGMENT_BYTES  # it is refused as a whole
        elif number == numbers[-1]:
            continue  # that the newest one is gone cannot be seen
        else:
            files.unlink(path)
            files.sync_dir(f"{DIRECTORY}/log")
            offset, end = 0, SEGMENT_BYTES
        places.append((number, offset, end))
    return places


def is_damaged(frame: Frame, places: list[Place]) -> bool:
    segment, end = end_of(frame)
    start = place_of(frame.position)[1] - HEADER_BYTES
    return any(segment == number and start < until and at < end for number, at, until in places)


def opens(files: FakeFiles, checkpoint: CheckpointFound | None) -> list[Frame] | None:
    """What a pipe would start from; None if it would not."""
    from_index = 1 if checkpoint is None else checkpoint.next_index
    try:
        log, found = reopened(files, from_index)
    except DamagedLog:
        return None
    return found if log.first_index <= from_index <= log.next_index else None


def judge(chance: random.Random, killed: bool) -> str:
    """One history; what became of it."""
    files, frames, checkpoint = make(chance)
    places = damage(chance, files)
    base = 1 if checkpoint is None else checkpoint.next_index
    above = [frame for frame in frames if frame.first_index >= base]
    try:
        found, _ = look(files, checkpoint)
    except DamagedLog:
        assert opens(files, checkpoint) is None
        return "needs a backup"
    if found.whole:
        started = opens(files, checkpoint)
        assert started is not None
        assert started == above[: len(started)]
        # With the mark at its end, a last group goes as a tear does: all that is missing was hit itself.
        assert all(is_damaged(frame, places) for frame in above[len(started) :])
        return "whole"
    if killed:
        operation = chance.choice(("write", "sync", "zero", "rename", "sync_dir", "unlink"))
        files.fail(operation, chance.randrange(1, 9), POWER_CUT)
        try:
            mend(files, checkpoint)
            files.faults.clear()
        except PowerCut:
            pass
        files.crash()
        assert look(files, checkpoint)[0].whole or opens(files, checkpoint) in (None, above)
    if not look(files, checkpoint)[0].whole:
        mend(files, checkpoint, 1)
    assert look(files, checkpoint)[0].whole
    assert_whole(files)
    started = opens(files, checkpoint)
    assert started is not None
    kept = [frame for frame in started if frame.term < RAISED]
    cut = len(kept) < len(started)
    assert {frame.type for frame in started[len(kept) :]} <= {FrameType.OPENING}  # two, if it was killed
    assert kept == above[: len(kept)]
    assert [one.position for one in kept] == [one.position for one in above[: len(kept)]]
    # Nothing is given up that stands whole below the first damage, and joins what is kept.
    start = (1, 0) if checkpoint is None else (checkpoint.segment, checkpoint.offset)
    if all(place[:2] >= start for place in places):
        first = min(place[:2] for place in places)
        assert len(kept) >= len([one for one in above if end_of(one) <= first]), places
    if not cut:
        assert all(is_damaged(frame, places) for frame in above[len(kept) :]), "a last group without its mark is a tear"
    return "cut" if cut else "mended"


def end_of(frame: Frame) -> tuple[int, int]:
    segment, offset = place_of(frame.position)
    return segment, offset - HEADER_BYTES + frame_bytes(len(frame.batch), len(frame.verdicts))


def test_whatever_is_damaged_is_mended() -> None:
    """Each history ends whole, or says that only a backup helps; and all endings were seen."""
    endings = [judge(random.Random(seed), killed=seed % 3 == 0) for seed in range(HISTORIES)]
    for ending, of in (("whole", 40), ("cut", 4), ("mended", 40), ("needs a backup", 250)):  # one in so many, at least
        assert endings.count(ending) >= HISTORIES // of, {one: endings.count(one) for one in set(endings)}
