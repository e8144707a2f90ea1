"""Spare segments on a disk that fills up: they are the log's reserve, and what others need is left alone."""

from __future__ import annotations

import errno
import random

import pytest

from mpy6a.disk import Bounds, Standing, fillable, judge
from mpy6a.errors import DiskFailed
from mpy6a.framing import SEGMENT_HEADER_BYTES
from mpy6a.limits import SPARE_SEGMENTS_MAX
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import DIRECTORY, SEGMENT_BYTES, fake_log, fill, open_log

SIZE = SEGMENT_BYTES


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def names(files: FakeFiles, kind: str) -> list[str]:
    return [name for name in files.list(f"{DIRECTORY}/log") if name.startswith("spare-") and name.endswith(kind)]


def prepare(log: SegmentLog) -> None:
    while log.prepare():
        pass


def test_as_many_are_prepared_as_are_asked_for(files: FakeFiles) -> None:
    """Ahead of need, and counted as room."""
    log = fake_log(files)
    log.spare(3, 10 * SIZE, tight=False)
    before = log.room_bytes
    prepare(log)
    assert log.stats.spares == len(names(files, "seg")) == 3
    assert log.room_bytes == before + 3 * (SIZE - SEGMENT_HEADER_BYTES)
    assert not log.disk_full


def test_no_more_is_filled_than_is_allowed(files: FakeFiles) -> None:
    """What lies beyond is for the checkpoint. A spare that cannot be whole is not begun."""
    files.room = 10 * SIZE
    log = fake_log(files)
    room = files.room
    log.spare(3, 2 * SIZE + SIZE // 2, tight=False)
    prepare(log)
    assert log.stats.spares == 2
    assert log.disk_full
    assert files.room == room - 2 * SIZE
    log.spare(3, SIZE, tight=False)
    assert not log.disk_full
    prepare(log)
    assert log.stats.spares == 3


def test_a_spare_that_can_no_longer_be_whole_gives_its_space_back(
    files: FakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others filled the disk meanwhile: half a spare is of no use to the log, and the checkpoint may need little."""
    monkeypatch.setattr("mpy6a.log.spares.PREPARE_BYTES", SIZE // 4)
    files.room = 10 * SIZE
    log = fake_log(files)
    log.spare(1, SIZE, tight=False)
    assert log.prepare()
    assert len(names(files, "tmp")) == 1
    room = files.room
    log.spare(1, SIZE // 2, tight=False)
    assert log.disk_full
    assert not log.prepare()
    assert names(files, "tmp") == []
    assert files.room == room + SIZE // 4


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room_is_asked_again_after_the_next_look_only(files: FakeFiles, error: int) -> None:
    """Whatever the file system said was free: a quota does not show there."""
    log = fake_log(files)
    log.spare(1, 10 * SIZE, tight=False)
    files.fail("zero", error=error)
    assert not log.prepare()
    assert log.disk_full
    assert not log.prepare()
    assert log.stats.spares == 0
    log.spare(1, 10 * SIZE, tight=False)
    prepare(log)
    assert log.stats.spares == 1
    assert not log.disk_full


def test_trimmed_segments_beyond_what_is_wanted_go_back_to_a_disk_that_is_low(files: FakeFiles) -> None:
    """They are kept for speed; the checkpoint needs the room more."""
    log = fake_log(files)
    log.spare(1, 0, tight=True)
    fill(log, [bytes(7000)] * 12)
    log.trim(log.next_index)
    assert log.stats.spares == 1
    log = fake_log(other := FakeFiles())
    fill(log, [bytes(7000)] * 12)
    log.trim(log.next_index)
    assert log.stats.spares == SPARE_SEGMENTS_MAX
    log.spare(1, 10 * SIZE, tight=True)
    for _ in range(SPARE_SEGMENTS_MAX):
        log.prepare()
    assert log.stats.spares == len(names(other, "seg")) == 1


def test_a_restart_keeps_every_spare(files: FakeFiles) -> None:
    """A full disk could not give them a second time."""
    log = fake_log(files)
    log.spare(SPARE_SEGMENTS_MAX + 2, 10 * SIZE, tight=False)
    prepare(log)
    log.close()
    assert open_log(files).stats.spares == SPARE_SEGMENTS_MAX + 2


def test_an_idle_pipe_without_room_needs_no_mark(files: FakeFiles) -> None:
    """Falling idle, or closing, in the last bytes of the last segment is no failure."""
    log = fake_log(files)
    files.room = 0
    log.spare(1, 0, tight=True)
    while log.room_bytes >= 128:
        fill(log, [bytes(min(log.room_bytes, 4000) // 64 * 64 - 80)])
    kept = log.next_index
    log.mark()
    log.close()
    files.kill()
    assert open_log(files).next_index == kept


@pytest.mark.parametrize("seed", range(40))
def test_the_reserve_is_whole_when_the_disk_is_full_and_the_log_lives_on_it(seed: int) -> None:
    """Whenever others take the room: growth stops with at least the reserve prepared, small things go on in it to its
    end without a write that fails, and a checkpoint that frees segments, or room, lets all go on by itself."""
    rng = random.Random(seed)
    files = FakeFiles()
    bounds = Bounds(low=4 * SIZE, very_low=2 * SIZE, reserve=SIZE * 3 // 4, slack=16_000, last=1000)
    files.room = rng.randrange(8 * SIZE, 16 * SIZE)
    files.total = 20 * SIZE
    log = fake_log(files)
    standing = Standing()
    stolen = False
    most_left = None

    def look() -> Standing:
        space = log.space()
        allowed = fillable(bounds, space.free, log.disk_full)
        log.spare(bounds.spares(SIZE), allowed, tight=standing.level > 0)
        return judge(standing, bounds, space.free, log.room_bytes, log.disk_full)

    looked = 0
    while not standing.spent:
        if looked != log.segment or rng.random() < 0.3:
            looked = log.segment
            standing = look()
        if not stolen and log.segment > 2 and rng.random() < 0.2:
            files.room, stolen = 0, True
        size = rng.randrange(100, 400) if standing.level == 2 else rng.randrange(100, 7800)
        if standing.on_reserve and most_left is None:
            most_left = log.room_bytes
        fill(log, [bytes(size)])
        if rng.random() < 0.5:
            log.prepare()
        standing = judge(standing, bounds, log.space().free, log.room_bytes, log.disk_full)
    assert most_left is not None
    assert most_left >= bounds.reserve
    if seed % 2:
        log.trim(log.next_index)  # the checkpoint found room after all
    else:
        files.room = 20 * SIZE
    standing = look()
    prepare(log)
    standing = judge(look(), bounds, log.space().free, log.room_bytes, log.disk_full)
    assert not standing.spent
    assert standing.level < 2 or seed % 2
    frames = fill(log, [bytes(7000)] * 3)
    files.crash()
    assert list(open_log(files).replay())[-3:] == frames


def test_what_was_taken_in_in_spite_of_it_ends_the_pipe(files: FakeFiles) -> None:
    """Fail-stop stays the last word: a group that needs a segment where there can be none."""
    log = fake_log(files)
    files.room = 0
    log.spare(1, 0, tight=True)
    fill(log, [bytes(8000)])
    with pytest.raises(DiskFailed, match="No space left"):
        fill(log, [bytes(8000)] * 2)
