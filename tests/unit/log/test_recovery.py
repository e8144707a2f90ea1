"""Opening after anything: a tear is cut, damage is refused, and what is read back is made to stay."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest

from mpy6a.errors import DamagedLog, DiskFailed
from mpy6a.framing import (
    SEGMENT_HEADER_BYTES,
    Frame,
    SegmentHeader,
    decode_segment_header,
    encode_group,
    encode_segment_header,
)
from mpy6a.log.directory import DamagedAt
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import (
    DIRECTORY,
    SEGMENT_BYTES,
    fake_log,
    fill,
    frame,
    open_log,
    path_of,
)

START = SEGMENT_HEADER_BYTES


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def next_life(files: FakeFiles) -> tuple[SegmentLog, list[Frame]]:
    files.kill()
    log = open_log(files)
    return log, list(log.replay())


def torn_group(files: FakeFiles, lost: range, *, sizes: int = 3) -> tuple[list[Frame], list[Frame]]:
    """A log whose last group lost the bytes of `lost` (counted from the group's beginning) in a crash."""
    log = fake_log(files)
    kept = fill(log, [b"kept", b"and kept"])
    log.mark()
    offset = log._offset
    group = [frame(log.next_index + place, bytes([65 + place]) * 432) for place in range(sizes)]  # 512 bytes each
    files.fail("sync", 1)
    with pytest.raises(DiskFailed):
        log.append(group)
    files.kill()
    content = files.content(path_of(1))
    content[offset + lost.start : offset + lost.stop] = bytes(len(lost))
    return kept, group


@pytest.mark.parametrize("lost", [range(1), range(80), range(512), range(100, 101), range(500, 520)])
def test_a_tear_is_cut_from_its_first_bad_frame(files: FakeFiles, lost: range) -> None:
    """What stands before it is kept, what stands behind it is not, and the log goes on from there."""
    kept, group = torn_group(files, lost)
    log, found = next_life(files)
    whole = group[: lost.start // 512]
    assert found == kept + whole
    assert log.tail.behind.frames >= 1
    assert log.stats.cut_frames == log.tail.behind.frames
    assert log.stats.cut_bytes == 512 * len(group[len(whole) :])
    more = fill(log, [b"more"])
    files.crash()
    log, found = next_life(files)
    assert found == kept + whole + more
    assert log.stats.cut_bytes == 0


def test_a_cut_tail_never_comes_back(files: FakeFiles) -> None:
    """Not even behind the very frame it stood behind, written again byte for byte."""
    kept, group = torn_group(files, range(512))
    log, found = next_life(files)
    assert found == kept
    log.append(group[:1])
    files.crash()
    assert next_life(files)[1] == [*kept, group[0]]


def test_what_was_read_back_stays(files: FakeFiles) -> None:
    """After a failed sync the frames are still shown, and on no disk: once replayed, no crash takes them."""
    for seed in range(20):
        files = FakeFiles(random.Random(seed))
        log = fake_log(files)
        kept = fill(log, [b"kept"])
        log.mark()
        group = [frame(2, bytes(3000)), frame(3, bytes(3000))]
        files.fail("sync", 1)
        with pytest.raises(DiskFailed):
            log.append(group)
        log, found = next_life(files)
        assert found == kept + group
        assert log.stats.rewritten_bytes >= 2 * 3136
        files.crash()
        assert next_life(files)[1] == kept + group


def test_opening_again_after_a_failed_opening(files: FakeFiles) -> None:
    """The tail could not be written again: DiskFailed, nothing replayed, the lock free; then it can."""
    for operation, nth in (("write", 1), ("write", 2), ("sync", 1), ("sync_dir", 3), ("zero", 1)):
        files = FakeFiles()
        kept, group = torn_group(files, range(512, 600))
        files.fail(operation, nth)
        with pytest.raises(DiskFailed, match="again failed"):
            open_log(files)
        found = next_life(files)[1]
        assert found == kept + group[:1]
        files.crash()
        assert next_life(files)[1] == found


def refused(files: FakeFiles) -> DamagedAt:
    """The damage that keeps a log from being opened and replayed; the refusal changes no byte of a segment."""
    files.kill()
    listed = [f"{DIRECTORY}/log/{name}" for name in files.list(f"{DIRECTORY}/log")]
    before = {path: bytes(files.content(path)) for path in listed}
    with pytest.raises(DamagedLog) as caught:
        open_log(files)
    assert isinstance(caught.value, DamagedAt)
    assert before == {path: bytes(files.content(path)) for path in listed}
    return caught.value


def test_damage_below_a_synced_mark_is_refused_and_named(files: FakeFiles) -> None:
    """Segment, byte and index; the group behind says that it was durable."""
    log = fake_log(files)
    fill(log, [b"a"] * 3)
    offset = log._offset
    fill(log, [b"b", b"c"])
    files.flip(path_of(1), offset + 85, 0)
    damage = refused(files)
    assert (damage.path, damage.offset, damage.index) == (path_of(1), offset, 4)
    assert f"{path_of(1)} at byte {offset} (index 4)" in str(damage)
    assert "mpy6a log verify" in str(damage)


def test_damage_in_a_mark_is_refused_when_something_stands_behind(files: FakeFiles) -> None:
    """The mark holds no entry, but it was synced before the group behind it: cutting would lose that group."""
    log = fake_log(files)
    fill(log, [b"a"])
    log.mark()
    offset = log._offset - 128
    fill(log, [b"b"])
    files.flip(path_of(1), offset + 3, 0)
    damage = refused(files)
    assert (damage.offset, damage.index) == (offset, 2)


def test_in_the_last_unmarked_group_damage_looks_like_a_tear(files: FakeFiles) -> None:
    """The documented downside; a mark behind the group ends it."""
    log = fake_log(files)
    kept = fill(log, [b"a"])
    offset = log._offset
    fill(log, [b"b"])
    files.flip(path_of(1), offset + 80, 0)
    log, found = next_life(files)
    assert found == kept
    offset = log._offset
    fill(log, [b"b"])
    log.mark()
    files.flip(path_of(1), offset + 80, 0)
    assert refused(files).offset == offset


def test_no_bit_turned_at_rest_is_ever_served(files: FakeFiles) -> None:
    """In a marked log of two segments: refused below the mark; above it nothing is missing."""
    log = fake_log(files)
    frames = fill(log, [b"one", bytes(7000)]) + fill(log, [bytes(6000), b"two"], group=2)
    log.mark()
    assert log.stats.segments == 2
    ends = {1: START + 128 + 7104, 2: log._offset - 128}  # of what the mark covers
    rng = random.Random(1)
    places = [(1, at) for at in (*range(0, 70, 5), 4095, *range(START, START + 130, 3), SEGMENT_BYTES - 1)]
    places += [(2, at) for at in (*range(2, 70, 5), 4095, *range(START, START + 90, 4))]
    places += [(2, at) for at in range(ends[2] - 130, ends[2] + 140, 3)]
    places += [(number, rng.randrange(START, SEGMENT_BYTES)) for number in (1, 2) for _ in range(20)]
    for number, at in places:
        trial = copy.deepcopy(files)
        trial.flip(path_of(number), at, rng.randrange(8))
        trial.kill()
        try:
            found = list(open_log(trial).replay())
        except DamagedLog:
            assert at < ends[number], f"byte {at} of segment {number}: refused"
        else:
            assert found == frames, f"byte {at} of segment {number}: something is missing"
            assert at >= ends[number], f"byte {at} of segment {number}: not noticed"


def three_segments(files: FakeFiles) -> list[Frame]:
    log = fake_log(files)
    frames = fill(log, [bytes([index]) * 5000 for index in range(6)])
    assert log.stats.segments == 3
    log.close()
    return frames


def rewrite_header(files: FakeFiles, number: int, change: Callable[[SegmentHeader], SegmentHeader]) -> None:
    content = files.content(path_of(number))
    header = decode_segment_header(bytes(content[:START]))
    assert header is not None
    content[:START] = encode_segment_header(change(header))


def test_a_missing_segment_is_damage(files: FakeFiles) -> None:
    """In the middle it is named."""
    three_segments(files)
    files.unlink(path_of(2))
    damage = refused(files)
    assert damage.path == path_of(2)
    assert "missing" in str(damage)


def test_a_log_without_any_segment_is_damage(files: FakeFiles) -> None:
    """The identity says that there was one."""
    fake_log(files).close()
    files.unlink(path_of(1))
    assert "no segment left" in str(refused(files))


def test_a_segment_of_another_log_is_damage(files: FakeFiles) -> None:
    """Copied in from elsewhere, with the right name."""
    three_segments(files)
    other = FakeFiles()
    three_segments(other)
    files.content(path_of(2))[:] = other.content(path_of(2))
    damage = refused(files)
    assert (damage.path, damage.offset) == (path_of(2), 0)
    assert "another log" in str(damage)


def test_a_segment_in_anothers_place_is_damage(files: FakeFiles) -> None:
    """Its header knows its number."""
    three_segments(files)
    files.content(path_of(2))[:] = files.content(path_of(3))
    assert "header is that of segment 3" in str(refused(files))


def test_a_cut_off_file_is_damage(files: FakeFiles) -> None:
    """The header knows the size."""
    three_segments(files)
    del files.content(path_of(1))[SEGMENT_BYTES - 1 :]
    assert f"{SEGMENT_BYTES - 1} of {SEGMENT_BYTES} bytes" in str(refused(files))


def test_a_header_that_is_gone_is_damage(files: FakeFiles) -> None:
    """A file has a segment's name only once its header is durable."""
    three_segments(files)
    files.content(path_of(3))[:START] = bytes(START)
    assert "no valid segment header" in str(refused(files))


@pytest.mark.parametrize("number", [1, 2])
def test_a_bad_frame_before_another_segment_is_damage(files: FakeFiles, number: int) -> None:
    """Also in the last frame there: a segment is durable before the next one begins. Found when replayed."""
    three_segments(files)
    files.flip(path_of(number), START + 5120 + 100, 0)
    files.kill()
    replay = open_log(files).replay()
    with pytest.raises(DamagedLog, match=f"seg at byte {START + 5120} ") as caught:
        list(replay)
    assert isinstance(caught.value, DamagedAt)
    assert caught.value.index == 2 * number


def test_a_segment_that_does_not_join_is_damage(files: FakeFiles) -> None:
    """Whole in itself, but behind another history."""
    three_segments(files)

    def change(header: SegmentHeader) -> SegmentHeader:
        return SegmentHeader(header.log, 3, header.salt, header.chain ^ 1, header.first_index, 1, SEGMENT_BYTES)

    content = files.content(path_of(3))
    rewrite_header(files, 3, change)
    header = decode_segment_header(bytes(content[:START]))
    assert header is not None
    group, _ = encode_group([frame(5, b"other")], salt=header.salt, chain=header.seed, synced=4)
    content[START:] = bytes(group).ljust(SEGMENT_BYTES - START, b"\0")
    files.kill()
    with pytest.raises(DamagedLog, match="segment 3 shows"):
        list(open_log(files).replay())


def test_a_lost_identity_is_damage(files: FakeFiles) -> None:
    """A log with entries is never taken for a new one."""
    three_segments(files)
    files.unlink(f"{DIRECTORY}/pipe.json")
    with pytest.raises(DamagedLog, match=r"pipe.json is missing"):
        open_log(files)


@pytest.mark.parametrize("redrawn", [True, False])
def test_a_spare_full_of_this_logs_frames_means_nothing(files: FakeFiles, redrawn: bool) -> None:
    """Its frames have higher indexes and claim them durable (a repair may leave such): the new salt hides them.

    With the salt of its earlier life they would be believed, and an innocent end taken for damage.
    """
    log = fake_log(files)
    kept = fill(log, [bytes(8000)])
    log.close()
    old = SegmentHeader(decode_header(files, 1).log, 2, 4242, 0, 2, 1, SEGMENT_BYTES)
    frames = [frame(index, b"stale") for index in range(2, 90)]
    stale, _ = encode_group(frames, salt=old.salt, chain=old.seed, synced=1000)
    (name,) = [name for name in files.list(f"{DIRECTORY}/log") if name.startswith("spare")]
    spare = files.open(f"{DIRECTORY}/log/{name}")
    spare.write(encode_segment_header(old) + bytes(stale), 0)
    spare.sync()
    draw = random.Random(1).randbytes if redrawn else lambda length: (4242).to_bytes(length, "little")
    log = fake_log(files, draw=draw)
    kept += fill(log, [bytes(8000)])
    assert files.content(path_of(2)).count(b"stale") > 0
    files.crash()
    if redrawn:
        assert next_life(files)[1] == kept
    else:
        with pytest.raises(DamagedLog):
            open_log(files)


def decode_header(files: FakeFiles, number: int) -> SegmentHeader:
    header = decode_segment_header(bytes(files.content(path_of(number))[:START]))
    assert header is not None
    return header
