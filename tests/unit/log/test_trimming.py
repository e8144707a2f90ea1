"""A trim waits for the disk beside the log, which goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mpy6a.errors import DiskFailed
from mpy6a.log.directory import backup_lock_path, list_log
from tests.fakes.files import FakeAside, FakeFiles
from tests.unit.log.frames import DIRECTORY, SEGMENT_BYTES, fake_log, fill, open_log


class Later:
    """Work that is done when somebody waits for it, or when the test says so."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._aside: FakeAside | None = None

    @property
    def done(self) -> bool:
        return self._aside is not None

    def go(self) -> None:
        self._aside = FakeAside(self._work)

    def result(self) -> None:
        if self._aside is None:
            self.go()
        assert self._aside is not None
        self._aside.result()


class SlowFiles(FakeFiles):
    """Nothing put aside is done before the test has it done."""

    def __init__(self) -> None:
        super().__init__()
        self.asides: list[Later] = []

    def aside(self, work: Callable[[], None]) -> Later:  # type: ignore[override]
        self.asides.append(Later(work))
        return self.asides[-1]


@pytest.fixture
def files() -> SlowFiles:
    return SlowFiles()


def segments(files: FakeFiles) -> tuple[int, ...]:
    return list_log(files, DIRECTORY).segments


def test_the_log_goes_on_while_the_disk_frees_segments(files: SlowFiles) -> None:
    """They count until they are gone, and are noticed by the next turn."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 6)
    before = segments(files)
    log.trim(log.next_index)
    log.append([])
    fill(log, [bytes(100)])
    assert segments(files) == before
    assert log.stats.segments == len(before)
    files.asides[0].go()
    assert segments(files) == before[-1:]
    log.prepare()
    assert log.stats.segments == 1
    assert log.first_index > 1
    log.close()
    files.kill()
    assert open_log(files).first_index > 1


def test_what_is_trimmed_meanwhile_waits_for_its_turn(files: SlowFiles) -> None:
    """One at a time: the next call makes up for it."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 4)
    assert log.trim(log.next_index)
    assert not log.trim(log.next_index)
    assert len(files.asides) == 1
    fill(log, [bytes(7000)] * 4)
    files.asides[0].go()
    log.trim(log.next_index)
    assert len(files.asides) == 2
    log.wait_trimmed()
    assert len(segments(files)) == 1


def test_a_log_without_a_spare_waits_for_the_one_that_comes(files: SlowFiles) -> None:
    """Instead of filling a whole segment with zeroes in the middle of an append, on a disk that may be full."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 3)
    files.room = 0
    log.spare(1, 0, tight=False)
    while log.stats.spares:
        fill(log, [bytes(7000)])
    log.trim(log.next_index)
    assert not files.asides[0].done
    fill(log, [bytes(7000)] * 2)
    assert files.asides[0].done


def test_a_trim_that_fails_stops_the_log(files: SlowFiles) -> None:
    """Nobody knows what the directory says now."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 3)
    files.fail("sync_dir")
    log.trim(log.next_index)
    files.asides[0].go()
    with pytest.raises(DiskFailed, match="trimming a segment in"):
        log.prepare()
    with pytest.raises(DiskFailed):
        fill(log, [b"x"])


def test_nothing_is_acknowledged_after_a_trim_that_failed(files: SlowFiles) -> None:
    """It is noticed before the next group is written, whether or not anything else looks."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 3)
    log.trim(log.next_index)
    written = files.written
    files.fail("sync_dir")
    files.asides[0].go()
    with pytest.raises(DiskFailed, match="trimming a segment in"):
        fill(log, [b"x"])
    assert files.written == written


def test_closing_waits_for_the_disk(files: SlowFiles) -> None:
    """Nothing of a log touches its directory after the lock is let go."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 3)
    log.trim(log.next_index)
    log.close()
    assert files.asides[0].done
    assert len(segments(files)) == 1


def test_a_backup_that_begins_meanwhile_keeps_the_rest(files: SlowFiles) -> None:
    """The segments from where it began on stay in order, without a gap."""
    log = fake_log(files)
    fill(log, [bytes(7000)] * 5)
    before = segments(files)
    log.trim(log.next_index)
    lock = files.lock(backup_lock_path(DIRECTORY))
    files.asides[0].go()
    log.prepare()
    assert segments(files) == before
    assert log.stats.segments == len(before)
    assert not log.trim(log.next_index)
    lock.release()
    assert log.trim(log.next_index)
    files.asides[1].go()
    assert len(segments(files)) == 1


def test_what_is_to_be_kept_stays_however_often_the_log_was_opened(files: SlowFiles) -> None:
    """`log.keep` counts what is on the disk, not what this process has written."""
    log = fake_log(files)
    for _ in range(4):
        fill(log, [bytes(7000)] * 2)
        log.close()
        files.kill()
        log = open_log(files)
        for _ in log.replay():
            pass
        log.trim(log.next_index, keep_bytes=2 * SEGMENT_BYTES)
        log.wait_trimmed()
    whole = segments(files)
    assert len(whole) == 3, "two that are kept, and the one that is written"
    log.trim(log.next_index, keep_bytes=SEGMENT_BYTES + 1)
    log.wait_trimmed()
    assert segments(files) == whole, "one byte more than a segment is two"
    log.trim(log.next_index)
    log.wait_trimmed()
    assert segments(files) == whole[-1:]
