"""Another process reads the log behind the pipe's back: as far as it is told, each frame once, over segments' ends."""

from __future__ import annotations

import pytest

from mpy6a.errors import CannotStart, DamagedLog
from mpy6a.framing import Frame
from mpy6a.log.following import LogFollower
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import DIRECTORY, fake_log, frame


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def read(follower: LogFollower, until: int) -> list[tuple[int, bytes]]:
    return [(one.first_index, one.batch) for one in follower.frames(until)]


def test_frames_are_read_as_far_as_told(files: FakeFiles) -> None:
    """Not one beyond, though it stands there; the next call goes on, and finds what was written since."""
    log = fake_log(files)
    log.append([frame(1, b"a"), frame(2, b"b", count=2), frame(4, b"c")])
    follower = LogFollower(files, DIRECTORY, 1)
    assert read(follower, 4) == [(1, b"a"), (2, b"b")]
    assert read(follower, 4) == []
    log.mark()
    log.append([frame(5, b"d")])
    assert read(follower, 6) == [(4, b"c"), (5, b"d")]
    assert follower.next_index == 6
    follower.close()
    log.close()


def test_segments_are_followed_to_the_end(files: FakeFiles) -> None:
    """The position is behind the last frame read, and records are read from any segment that is there."""
    log = fake_log(files)
    kept: list[Frame] = []
    follower = LogFollower(files, DIRECTORY, 1)
    for index in range(1, 40):
        log.append([frame(index, bytes([index]) * 7_000)])
        kept += log.committed()
        assert [one.first_index for one in follower.frames(index + 1)] == [index]
        assert follower.position > kept[-1].position
    assert log.stats.segments > 3
    assert {follower.read(one.position, 7_000) for one in kept} == {bytes([n]) * 7_000 for n in range(1, 40)}
    follower.close()
    log.close()


def test_it_begins_in_the_middle(files: FakeFiles) -> None:
    """At any frame of any segment; and where the log does not reach down to, it says what is missing."""
    log = fake_log(files)
    for index in range(1, 40):
        log.append([frame(index, bytes(7_000))])
    follower = LogFollower(files, DIRECTORY, 23)
    assert [one.first_index for one in follower.frames(31)] == list(range(23, 31))
    follower.close()
    log.trim(20)
    with pytest.raises(DamagedLog, match="index 1 is wanted"):
        LogFollower(files, DIRECTORY, 1)
    log.close()


def test_what_is_not_there_is_damage(files: FakeFiles) -> None:
    """The pipe said durable: a frame that is missing is not waited for."""
    log = fake_log(files)
    log.append([frame(1, b"a")])
    follower = LogFollower(files, DIRECTORY, 1)
    with pytest.raises(DamagedLog, match="the pipe says that it is durable"):
        list(follower.frames(3))
    follower.close()
    log.close()
    with pytest.raises(CannotStart, match="there is no"):
        LogFollower(files, "/elsewhere", 1)
