"""The local log on disk: segments, spares, the lock, syncs, and what happens when the disk says no."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import dataclass

import pytest

from mpy6a.errors import CannotStart, ConfigError, DamagedLog, DiskFailed, FormatVersion
from mpy6a.framing import Frame, FrameType
from mpy6a.limits import SPARE_SEGMENTS_MAX
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import DIRECTORY, SEGMENT_BYTES, fake_log, fill, frame, open_log


@dataclass
class TurnedClock:
    now_ms: int = 0

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def names(files: FakeFiles) -> list[str]:
    return files.list(f"{DIRECTORY}/log")


def test_a_group_is_one_write_and_one_sync(files: FakeFiles) -> None:
    """Whatever one drain brought; `stats` counts them."""
    log = fake_log(files)
    before = files.syncs
    log.append([frame(1), frame(2, count=3), frame(5)])
    log.append([frame(6)])
    assert files.syncs - before == 2
    assert (log.stats.groups, log.stats.frames, log.stats.entries, log.stats.syncs) == (2, 4, 6, 2)
    assert len(log.stats.sync_ns) == 2
    assert log.stats.bytes == 4 * 128


def test_an_idle_pipe_writes_one_mark(files: FakeFiles) -> None:
    """One mark after the last group, none in a log that says so already, also after a restart."""
    log = fake_log(files)
    log.mark()
    fill(log, [b"a"])
    log.mark()
    log.mark()
    assert log.stats.marks == 1
    log.close()
    log = fake_log(files)
    log.mark()
    assert log.stats.marks == 0


def test_closing_marks(files: FakeFiles) -> None:
    """After a clean end no group is without a mark."""
    log = fake_log(files)
    fill(log, [b"a"])
    log.close()
    assert open_log(files).tail.marked


def test_a_full_segment_is_followed_by_the_next(files: FakeFiles) -> None:
    """Frames never span segments; a group may, and is committed whole and in order."""
    log = fake_log(files)
    group = [frame(index, bytes(5000)) for index in range(1, 11)]
    log.append(group)
    assert log.committed() == group
    assert log.stats.segments == 5  # two frames of 5,120 bytes each
    assert names(files)[:5] == [f"{number:016x}.seg" for number in range(1, 6)]
    files.crash()
    assert list(open_log(files).replay()) == group


def test_a_frame_that_just_fits_and_one_that_does_not(files: FakeFiles) -> None:
    """The biggest frame fits into an empty segment; a bigger one is a bug of the caller, and nothing happens."""
    biggest = SEGMENT_BYTES - 4096 - 80
    log = fake_log(files, frame_bytes_max=SEGMENT_BYTES - 4096)
    fill(log, [bytes(biggest), bytes(biggest), b"x"])
    assert log.stats.segments == 3
    with pytest.raises(ValueError, match="bytes"):
        log.append([frame(log.next_index, bytes(biggest + 1))])
    fill(log, [b"y"])


@pytest.mark.parametrize("segment_bytes", [4096 + 8191, 8192, 4096, 1 << 32, SEGMENT_BYTES + 1])
def test_a_segment_that_cannot_hold_the_biggest_frame_is_refused(files: FakeFiles, segment_bytes: int) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigError, match="multiple of 4096"):
        open_log(files, segment_bytes=segment_bytes)
    assert not files.exists(DIRECTORY)


def test_the_next_segment_is_prepared_ahead(files: FakeFiles) -> None:
    """By `prepare` in idle turns, or by append itself in the second half of a segment."""
    log = fake_log(files)
    fill(log, [b"a"])
    assert log.stats.spares == 0
    while log.prepare():
        pass
    assert log.stats.spares == 1
    fill(log, [bytes(8000), bytes(8000)])
    assert (log.stats.segments, log.stats.spares) == (2, 1)
    assert not log.prepare()


def test_trimmed_segments_are_used_again(files: FakeFiles) -> None:
    """Under a new number; more than a handful give their space back; the last one always stays."""
    log = fake_log(files)
    fill(log, [bytes(5000)] * 20)
    assert log.stats.segments == 10
    log.trim(log.next_index)
    assert log.stats.segments == 1
    assert log.stats.spares == SPARE_SEGMENTS_MAX
    assert len(names(files)) == 1 + SPARE_SEGMENTS_MAX
    kept = fill(log, [bytes([7]) * 5000] * 8)
    assert log.stats.segments == 1 + SPARE_SEGMENTS_MAX
    assert len([name for name in names(files) if name.startswith("spare")]) == 1  # the next one, prepared
    files.crash()
    log = open_log(files)
    assert list(log.replay())[-8:] == kept
    with pytest.raises(ValueError, match="trimmed"):
        log.read(1 << 32 | 5000, 10)


def test_segments_of_another_size_are_still_read(files: FakeFiles) -> None:
    """The size in the config counts for new segments; spares of another size go."""
    log = fake_log(files)
    first = fill(log, [bytes(5000)] * 5)
    while log.prepare():
        pass
    log.close()
    log = open_log(files, segment_bytes=2 * SEGMENT_BYTES)
    assert list(log.replay()) == first
    second = fill(log, [bytes(5000)] * 9)
    log.close()
    log = open_log(files)
    assert list(log.replay()) == first + second


def test_a_new_log_begins_with_a_small_segment(files: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start fills few zeroes; the whole-sized spare is ready when that segment is full all the same."""
    monkeypatch.setattr("mpy6a.log.opening.FIRST_SEGMENT_BYTES", SEGMENT_BYTES)
    monkeypatch.setattr("mpy6a.log.segments.PREPARE_BYTES", 4096)
    monkeypatch.setattr("mpy6a.log.spares.PREPARE_BYTES", 4096)
    log = fake_log(files, segment_bytes=8 * SEGMENT_BYTES)
    assert [header.segment_bytes for header in log._headers] == [SEGMENT_BYTES]
    frames: list[Frame] = []
    while log.stats.segments == 1:
        ready = log.stats.spares
        frames += fill(log, [bytes(1000)])
    assert ready == 1
    frames += fill(log, [bytes(5000)] * 9)
    assert [header.segment_bytes for header in log._headers] == [SEGMENT_BYTES, 8 * SEGMENT_BYTES]
    files.crash()
    log = open_log(files, segment_bytes=8 * SEGMENT_BYTES)
    assert list(log.replay()) == frames


def test_many_segments_are_read_with_few_open(files: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading back from everywhere does not use up the descriptors."""
    monkeypatch.setattr("mpy6a.log.segments.OPEN_SEGMENTS_MAX", 3)
    log = fake_log(files)
    frames = fill(log, [bytes([index]) * 5000 for index in range(20)])
    for one in frames + frames[::-1]:
        assert log.read(one.position, 5000) == one.batch
        assert len(log._open) <= 3
    fill(log, [b"and on"])


def test_a_second_pipe_is_kept_out(files: FakeFiles) -> None:
    """The refusal names who is in; after that process ended the directory is free."""
    log = fake_log(files)
    with pytest.raises(CannotStart, match=rf"{DIRECTORY} is in use by process {files.process}: stop"):
        open_log(files)
    log.close()
    open_log(files).close()
    fake_log(files)
    files.kill()
    open_log(files)


def test_another_pipes_data_is_refused(files: FakeFiles) -> None:
    """And the lock is free again after it."""
    fake_log(files).close()
    with pytest.raises(CannotStart, match="data of pipe 1, this is pipe 2"):
        SegmentLog.open(files, DIRECTORY, 2)
    fake_log(files)


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (b'{"format": 2, "pipe": 1, "other": 1}', FormatVersion, "has format 2, this release reads format 1"),
        (b'{"format": 1, "pipe": 1}', DamagedLog, "pipe.json is damaged"),
        (b'{"format": 1, "pipe": 1, "log": "00"}', DamagedLog, "pipe.json is damaged"),
        (b"\xff", DamagedLog, "pipe.json is damaged"),
        (b"[]", DamagedLog, "pipe.json is damaged"),
        (b"", DamagedLog, "pipe.json is damaged"),
    ],
)
def test_an_identity_that_cannot_be_read_is_refused_by_name(
    files: FakeFiles, content: bytes, error: type[Exception], sentence: str
) -> None:
    """An unknown version is told from damage; nothing is written over either."""
    fake_log(files).close()
    files.content(f"{DIRECTORY}/pipe.json")[:] = content
    with pytest.raises(error, match=re.escape(sentence)):
        open_log(files)
    assert bytes(files.content(f"{DIRECTORY}/pipe.json")) == content


def test_a_segment_of_another_version_is_refused_by_name(files: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as damage."""
    monkeypatch.setattr("mpy6a.framing.FORMAT_VERSION", 9)
    fake_log(files).close()
    monkeypatch.undo()
    with pytest.raises(FormatVersion, match=r"seg has format version 9, this release reads 1"):
        open_log(files)


def test_a_frame_type_of_a_newer_release_is_refused_by_name(files: FakeFiles) -> None:
    """Skipping it would lose what it says."""
    log = fake_log(files)
    newer = frame(1)
    newer.type = 9
    log.append([newer])
    log.close()
    with pytest.raises(FormatVersion, match="frame of type 9"):
        list(open_log(files).replay())


def test_a_frame_of_a_higher_apply_level_is_refused_by_name(files: FakeFiles) -> None:
    """It means something that this release does not know, though it knows its type."""
    log = fake_log(files)
    newer = frame(1)
    newer.level = 3
    log.append([newer])
    log.close()
    with pytest.raises(FormatVersion, match=r"apply level 3 \(index 1\), known is 2"):
        list(open_log(files).replay())


def test_the_identity_is_written_whole_or_not_at_all(files: FakeFiles) -> None:
    """A creation that was cut off is begun again; the log of it is a new one."""
    for operation in ("write", "sync", "sync_dir", "rename"):
        for nth in range(1, 9):
            files = FakeFiles()
            files.fail(operation, nth)
            try:
                open_log(files)
            except (CannotStart, DiskFailed):
                files.crash()
                log = fake_log(files)
                assert json.loads(bytes(files.content(f"{DIRECTORY}/pipe.json")))["pipe"] == 1
                fill(log, [b"a"])


def test_a_directory_that_cannot_be_made_is_told(files: FakeFiles) -> None:
    """One sentence that says what to do."""
    with pytest.raises(CannotStart, match=r"cannot use /not\S* \(No such file or directory\): make"):
        SegmentLog.open(files, "/not/there", 1)


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_or_sync_ends_it(files: FakeFiles, operation: str, number: int) -> None:
    """Nothing is acknowledged, and every later call says so; only close lets go."""
    log = fake_log(files)
    fill(log, [b"a"])
    files.fail(operation, 1, number)
    with pytest.raises(DiskFailed, match=r"writing .*seg failed \(.*\): nothing above index 1"):
        log.append([frame(2)])
    for act in (
        log.committed,
        lambda: log.append([frame(2)]),
        log.mark,
        log.sync,
        log.prepare,
        lambda: log.trim(1),
        lambda: log.read(1, 1),
        lambda: next(iter(log.replay())),
    ):
        with pytest.raises(DiskFailed, match="nothing above index 1"):
            act()
    log.close()
    open_log(files)


@pytest.mark.parametrize("operation", ["rename", "sync_dir", "write", "sync"])
def test_a_failure_while_a_segment_is_started_ends_it(files: FakeFiles, operation: str) -> None:
    """And what was acknowledged before is there in the next life."""
    log = fake_log(files)
    kept = fill(log, [bytes(5000)] * 2)
    files.fail(operation, 1)
    with pytest.raises(DiskFailed):
        fill(log, [bytes(5000)] * 2)
    files.crash()
    assert list(open_log(files).replay())[:2] == kept


def test_a_failed_read_ends_it(files: FakeFiles) -> None:
    """What cannot be read back cannot be pushed."""
    log = fake_log(files)
    (one,) = fill(log, [b"abc"])
    files.fail("read", 1)
    with pytest.raises(DiskFailed, match="reading"):
        log.read(one.position, 3)


def test_a_full_disk_is_noticed_while_there_is_room(files: FakeFiles) -> None:
    """`disk_full` rises when the next segment finds no room, goes when it does; nothing in between is lost."""
    log = fake_log(files)
    kept = fill(log, [b"a"])
    files.room = 3000
    assert not log.prepare()
    assert log.disk_full
    kept += fill(log, [bytes(3000)] * 2)
    assert log.disk_full
    files.room = None
    kept += fill(log, [b"b"])
    assert not log.disk_full
    kept += fill(log, [bytes(8000)])
    assert log.stats.segments == 2
    files.crash()
    assert list(open_log(files).replay()) == kept


def test_a_disk_that_stays_full_ends_it(files: FakeFiles) -> None:
    """When the last segment is full too; what was acknowledged is there."""
    log = fake_log(files)
    files.room = 3000
    kept = fill(log, [bytes(8000)])
    with pytest.raises(DiskFailed, match="No space left"):
        fill(log, [bytes(8000)])
    files.crash()
    files.room = None
    assert list(open_log(files).replay()) == kept


def test_interval_mode_says_that_it_is_not_durable_and_syncs_when_due(files: FakeFiles) -> None:
    """Committed at once, durable after the interval, which begins with the first frame not synced."""
    clock = TurnedClock()
    log = fake_log(files, sync_interval_ms=50, clock=clock)
    assert not log.durable
    assert log.sync_due() is None
    syncs = files.syncs
    fill(log, [b"a"])
    clock.now_ms = 20
    fill(log, [b"b"])
    assert files.syncs == syncs
    assert log.sync_due() == 50
    log.sync()
    assert files.syncs == syncs + 1
    assert log.sync_due() is None
    log.sync()
    assert files.syncs == syncs + 1
    fill(log, [b"c"])
    clock.now_ms = 70
    fill(log, [b"d"])  # due: append does it
    assert files.syncs == syncs + 2


def test_interval_mode_loses_only_what_was_not_synced(files: FakeFiles) -> None:
    """And a dispatch is durable in every mode, with all before it."""
    clock = TurnedClock()
    log = fake_log(files, sync_interval_ms=50, clock=clock)
    kept = fill(log, [b"a", b"b"])
    dispatch = frame(3, b"dispatch", type=FrameType.PROPOSALS)
    log.append([dispatch])
    assert log.committed() == [dispatch]
    fill(log, [b"c" * 600, b"d" * 600, b"e" * 600])
    files.crash()
    found = list(open_log(files).replay())
    assert found[:3] == [*kept, dispatch]


def test_a_failed_interval_sync_ends_it(files: FakeFiles) -> None:
    """The same fail-stop in both modes."""
    log = fake_log(files, sync_interval_ms=50, clock=TurnedClock())
    fill(log, [b"a"])
    files.fail("sync", 1)
    with pytest.raises(DiskFailed, match="syncing"):
        log.sync()
    with pytest.raises(DiskFailed):
        log.committed()


def test_more_than_a_window_is_never_unsynced(files: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group beyond it goes in pieces; opening relies on it when it zeroes."""
    monkeypatch.setattr("mpy6a.log.segments.WINDOW_BYTES", 2048)
    log = fake_log(files, sync_interval_ms=1_000, clock=TurnedClock())
    fill(log, [bytes(800)] * 8, group=8)
    assert log.stats.syncs == 3
    assert log._unsynced_bytes <= 2048


def test_progress_is_told_while_replaying(files: FakeFiles) -> None:
    """Rising, and up to the whole."""
    log = fake_log(files)
    fill(log, [bytes(5000)] * 9)
    log.close()
    told: list[tuple[int, int]] = []
    log = open_log(files, progress=lambda done, total: told.append((done, total)))
    list(log.replay())
    assert len(told) >= log.stats.segments
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
