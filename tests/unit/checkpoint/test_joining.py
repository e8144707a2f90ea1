"""A checkpoint against its log: everything that does not fit is told, and what a trim leaves does fit."""

from __future__ import annotations

import pytest

from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.joining import check_joins
from mpy6a.framing import place_of
from mpy6a.log.following import LogFollower
from mpy6a.log.segments import SegmentLog
from mpy6a.log.verify import verify
from tests.fakes.files import FakeFiles
from tests.unit.checkpoint.samples import header
from tests.unit.log.frames import DIRECTORY, fake_log, frame, path_of

PATH = f"{DIRECTORY}/checkpoint.db"
FRAMES = 12


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def written(files: FakeFiles) -> tuple[SegmentLog, dict[int, int]]:
    """A log of several segments, and by next index the position that a checkpoint writer would name."""
    log = fake_log(files)
    follower = LogFollower(files, DIRECTORY, 1)
    ends = {1: follower.position}
    for index in range(1, FRAMES + 1):
        log.append([frame(index, bytes(3_000))])
        log.committed()
        list(follower.frames(index + 1))
        ends[index + 1] = follower.position
    follower.close()
    return log, ends


def of(log: SegmentLog, next_index: int, position: int, pipe: int = 1) -> CheckpointHeader:
    segment, offset = place_of(position)
    return header(next_index, log=log.uuid, pipe=pipe, segment=segment, offset=offset)


def said(files: FakeFiles, one: CheckpointHeader) -> list[str]:
    return [found.what for found in check_joins(files, DIRECTORY, PATH, one, verify(files, DIRECTORY))]


def test_every_end_of_a_frame_joins(files: FakeFiles) -> None:
    """Wherever a checkpoint was written; also when all that may be trimmed is trimmed."""
    log, ends = written(files)
    log.close()
    for next_index, position in ends.items():
        assert said(files, of(log, next_index, position)) == [], next_index
    for next_index, position in ends.items():
        log = fake_log(files)
        log.trim(next_index)
        log.close()
        assert said(files, of(log, next_index, position)) == [], next_index
    assert verify(files, DIRECTORY).first_index > 1


def test_what_does_not_fit_is_told(files: FakeFiles) -> None:
    """Another log, another pipe, a position that is no frame's end, or that of another frame."""
    log, ends = written(files)
    log.close()
    right = of(log, 6, ends[6])
    assert said(files, right) == []
    assert "the log here is" in said(files, header(6, log=bytes(16), pipe=1))[0]
    assert said(files, of(log, 6, ends[6], pipe=2)) == ["it is that of pipe 2, the log is that of pipe 1"]
    assert "is no frame's end" in said(files, of(log, 6, ends[6] + 64))[0]
    assert "is followed by index 5, not 6" in said(files, of(log, 6, ends[5]))[0]
    assert "that segment is missing" in said(files, of(log, 6, 99 << 32 | 4_096))[0]


def test_a_log_that_ends_before_its_checkpoint_is_told(files: FakeFiles) -> None:
    """A tail that was cut, or an older copy of the log: what the checkpoint says was durable."""
    log, ends = written(files)
    log.close()
    ahead = of(log, FRAMES + 2, ends[FRAMES + 1])
    assert said(files, ahead) == [f"it holds everything up to index {FRAMES + 1}, the log ends at {FRAMES}"]


def test_a_gap_between_checkpoint_and_log_is_told(files: FakeFiles) -> None:
    """An older copy of the checkpoint, and a log that was trimmed since."""
    log, ends = written(files)
    log.trim(FRAMES + 1)
    log.close()
    assert "what is between is missing" in said(files, of(log, 3, ends[3]))[0]


def test_a_damaged_log_is_not_called_a_checkpoint_that_does_not_fit(files: FakeFiles) -> None:
    """One finding for one fault."""
    log, ends = written(files)
    log.close()
    files.flip(path_of(1), 4_096 + 100, 0)
    assert verify(files, DIRECTORY).damage
    assert said(files, of(log, FRAMES + 1, ends[FRAMES + 1])) == []
