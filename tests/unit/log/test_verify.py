"""Verify and dump look at a log without touching it, and see exactly what a start would see."""

from __future__ import annotations

import pytest

from mpy6a.errors import CannotStart, DamagedLog, DiskFailed, FormatVersion
from mpy6a.framing import Frame
from mpy6a.log.verify import dump, verify
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import DIRECTORY, fake_log, fill, frame, open_log, path_of


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def everything(files: FakeFiles) -> dict[str, bytes]:
    paths = [f"{DIRECTORY}/log/{name}" for name in files.list(f"{DIRECTORY}/log")]
    return {path: bytes(files.content(path)) for path in [*paths, f"{DIRECTORY}/pipe.json"]}


def written(files: FakeFiles) -> list[Frame]:
    log = fake_log(files)
    frames = fill(log, [bytes([index]) * 3000 for index in range(10)], group=2)
    opened = [frame(11, b"opened", term=2), frame(12, b"three", count=3, term=2)]
    log.append(opened)
    log.mark()
    files.kill()
    return frames + opened


def test_a_whole_log_is_told(files: FakeFiles) -> None:
    """What is in it, and that it is whole; not a byte changes."""
    written(files)
    before = everything(files)
    told: list[tuple[int, int]] = []
    report = verify(files, DIRECTORY, lambda done, total: told.append((done, total)))
    assert not report.damage
    assert report.torn is None
    assert (report.segments, report.frames, report.entries, report.marks) == (4, 12, 14, 1)
    assert (report.first_index, report.last_index) == (1, 14)
    assert report.terms == [(1, 1), (2, 11)]
    assert report.bytes == 10 * 3136 + 3 * 128
    assert told[-1][0] == told[-1][1]
    assert everything(files) == before


def test_a_new_log_is_whole_and_empty(files: FakeFiles) -> None:
    """No frames, no terms."""
    fake_log(files).close()
    report = verify(files, DIRECTORY)
    assert (report.damage, report.frames, report.first_index, report.last_index) == ([], 0, 1, 0)
    assert list(dump(files, DIRECTORY)) == []


def test_a_torn_tail_is_no_damage(files: FakeFiles) -> None:
    """Both say what a start would cut, and leave it there."""
    frames = written(files)
    log = fake_log(files)
    offset = log._offset
    files.fail("sync", 1)
    with pytest.raises(DiskFailed):
        log.append([frame(15, bytes(600), term=2), frame(16, bytes(600), term=2)])
    files.kill()
    files.flip(path_of(4), offset + 100, 1)
    before = everything(files)
    report = verify(files, DIRECTORY)
    assert not report.damage
    assert report.torn is not None
    assert (report.torn.path, report.torn.offset, report.torn.index) == (path_of(4), offset, 15)
    assert report.torn.frames == 2
    assert report.last_index == 14
    assert list(dump(files, DIRECTORY)) == frames
    assert everything(files) == before
    assert list(open_log(files).replay()) == frames


def test_every_damage_is_found(files: FakeFiles) -> None:
    """Not only the first: each segment is believed from its own header on."""
    written(files)
    files.flip(path_of(1), 4096 + 3136 + 90, 0)
    files.flip(path_of(3), 4096 + 90, 0)
    files.flip(path_of(4), 4096 + 90, 0)
    report = verify(files, DIRECTORY)
    assert [(found.path, found.offset, found.index) for found in report.damage] == [
        (path_of(1), 4096 + 3136, 2),
        (path_of(3), 4096, 7),
        (path_of(4), 4096, 10),
    ]
    with pytest.raises(DamagedLog, match="byte 4096"):
        list(dump(files, DIRECTORY))


def test_missing_and_foreign_segments_are_found(files: FakeFiles) -> None:
    """By name."""
    written(files)
    files.unlink(path_of(2))
    files.content(path_of(3))[0] ^= 1
    report = verify(files, DIRECTORY)
    assert [(found.path, found.what) for found in report.damage] == [
        (path_of(2), "the segment is missing"),
        (path_of(3), "no valid segment header"),
    ]
    for number in (1, 3, 4):
        files.unlink(path_of(number))
    assert [found.what for found in verify(files, DIRECTORY).damage] == ["the log has no segment left"]


def test_dump_begins_with_the_frame_that_holds_the_index(files: FakeFiles) -> None:
    """Also in the middle of a frame, also in a later segment, without reading the earlier ones."""
    frames = written(files)
    assert list(dump(files, DIRECTORY, 13)) == frames[11:]
    assert list(dump(files, DIRECTORY, 10)) == frames[9:]
    assert list(dump(files, DIRECTORY, 15)) == []
    files.flip(path_of(1), 5000, 0)
    assert list(dump(files, DIRECTORY, 10)) == frames[9:]


def test_a_running_pipe_keeps_verify_out_and_lets_dump_in(files: FakeFiles) -> None:
    """The log up to now, and whatever is written on meanwhile does not show as damage."""
    log = fake_log(files)
    frames = fill(log, [b"a", b"b"])
    with pytest.raises(CannotStart, match=rf"process {files.process} runs on {DIRECTORY}"):
        verify(files, DIRECTORY)
    dumped = dump(files, DIRECTORY)
    assert next(dumped) == frames[0]
    fill(log, [b"c"])
    assert list(dumped) == frames[1:]


def test_a_log_that_is_trimmed_while_it_is_read_is_no_damage(files: FakeFiles) -> None:
    """Its pipe uses the segments again: dump says from where on the log is still there."""
    log = fake_log(files)
    frames = fill(log, [bytes([index]) * 3000 for index in range(20)])
    dumped = dump(files, DIRECTORY)
    assert next(dumped) == frames[0]
    log.trim(15)
    fill(log, [bytes([index]) * 3000 for index in range(20)])
    with pytest.raises(CannotStart, match=r"trimmed its log while it was read: it begins at index 1\d now"):
        list(dumped)
    assert next(dump(files, DIRECTORY)).first_index > 10


def test_damage_beside_a_running_pipe_is_damage(files: FakeFiles) -> None:
    """Not taken for a trim: the log begins where it began."""
    log = fake_log(files)
    fill(log, [bytes([index]) * 3000 for index in range(20)])
    log.trim(10)
    files.flip(path_of(log._headers[0].number), 4096 + 90, 0)
    with pytest.raises(DamagedLog, match="byte 4096"):
        list(dump(files, DIRECTORY))


def test_what_is_no_data_directory_is_told(files: FakeFiles) -> None:
    """One sentence that says what to do."""
    for look in (lambda: verify(files, "/nothing"), lambda: list(dump(files, "/nothing"))):
        with pytest.raises(CannotStart, match=r"no /nothing/pipe.json: name the directory"):
            look()


def test_another_version_is_refused_by_name(files: FakeFiles) -> None:
    """Not looked into, not called damaged."""
    written(files)
    files.content(f"{DIRECTORY}/pipe.json")[:] = b'{"format": 3}'
    with pytest.raises(FormatVersion, match="format 3"):
        verify(files, DIRECTORY)
