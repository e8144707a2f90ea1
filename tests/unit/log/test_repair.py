"""A damaged log becomes whole again: what holds is kept byte for byte, what goes is written down and told first."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from itertools import count

import pytest

from mpy6a.checksum import crc32c
from mpy6a.errors import CannotStart, Code, DamagedLog, DiskFailed
from mpy6a.framing import SEGMENT_HEADER_BYTES, Frame, FrameType, place_of
from mpy6a.log.directory import list_log
from mpy6a.log.filling import bytes_before
from mpy6a.log.repair import repair
from mpy6a.log.terms import raised_term
from mpy6a.state import State
from tests.fakes.files import POWER_CUT, FakeFiles, PowerCut
from tests.unit.log.damaging import (
    CHECKPOINT_PATH,
    WALL_MS,
    assert_whole,
    batch,
    checkpoint_behind,
    damage_body,
    look,
    mend,
    opening,
    reopened,
    stored,
    write_sessions,
)
from tests.unit.log.frames import DIRECTORY, SEGMENT_BYTES, fake_log, path_of

RAISED = 1_000_000  # seconds since 2020 by WALL_MS


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


def history(files: FakeFiles, sessions: int = 120) -> list[Frame]:
    """A closed log of four segments or so: an opening, and sessions that were begun and stored."""
    log = fake_log(files)
    log.append([opening(log)])
    frames = log.committed() + write_sessions(log, sessions)
    log.close()
    files.kill()
    assert len(list_log(files, DIRECTORY).segments) >= 3
    return frames


def in_segment(frames: list[Frame], number: int) -> list[Frame]:
    return [frame for frame in frames if place_of(frame.position)[0] == number]


def test_a_whole_log_is_left_alone(files: FakeFiles) -> None:
    """There is nothing to do, with a checkpoint and without, torn or not."""
    frames = history(files)
    assert look(files)[0].whole
    assert look(files, checkpoint_behind(frames[77]))[0].whole
    log = fake_log(files)
    write_sessions(log, 1)
    damage_body(files, write_sessions(log, 1)[-1])
    files.kill()
    found, lost = look(files)
    assert found.whole
    assert found.torn
    assert not lost.anything


def test_damage_cuts_the_log_there(files: FakeFiles) -> None:
    """What is below is kept as it was, at its position; a new term begins at the index of the first lost entry."""
    frames = history(files)
    broken = in_segment(frames, 2)[5]
    place = frames.index(broken)
    damage_body(files, broken)
    _, lost, done = mend(files)
    assert (lost.first_index, lost.last_index) == (broken.first_index, frames[-1].first_index)
    assert lost.entries == lost.operations == lost.frames == len(frames) - place
    assert lost.unread_entries == 0
    assert lost.unreadable_frames == 1  # its header is good, and says how many operations went
    assert done.term == RAISED
    assert_whole(files)
    log, kept = reopened(files)
    assert kept[:-1] == frames[:place]
    assert [frame.position for frame in kept[:-1]] == [frame.position for frame in frames[:place]]
    assert (kept[-1].type, kept[-1].first_index, kept[-1].term) == (FrameType.OPENING, broken.first_index, RAISED)
    assert (log.term, log.next_index) == (RAISED, broken.first_index + 1)
    assert look(files)[0].whole


def test_ids_beyond_the_cut_are_lost_and_never_given_again(files: FakeFiles) -> None:
    """The closed term ends at the cut: a client that writes to a lost session is told LOST, of a lost term as well."""
    frames = history(files)
    log = fake_log(files)
    log.append([opening(log)])
    later = log.committed() + write_sessions(log, 3)
    log.close()
    files.kill()
    broken = in_segment(frames, 2)[0]
    damage_body(files, broken)
    mend(files)
    log, kept = reopened(files)
    state = State(1)
    for frame in kept:
        state.apply(frame)
    gone = [(1, broken.first_index), (1, frames[-1].first_index), (2, later[1].first_index)]
    log.append([opening(log)])
    state.apply(log.committed()[0])
    assert state.term == RAISED + 1
    for term, index in gone:
        log.append([batch(log, [stored(term, index)])])
        assert state.apply(log.committed()[0]).results[0].code == Code.LOST
    assert (max(index for _, index in state.terms()), state.next_index) == (broken.first_index + 1, log.next_index)


def test_what_is_lost_is_told_in_sessions_and_operations(files: FakeFiles) -> None:
    """Of the frames that are recognised; those that are not are told as entries, and as bytes."""
    frames = history(files)
    place = len(frames) - 21  # a session's beginning: ten sessions behind it, and this one's end
    damage_body(files, frames[place - 1])
    segment, offset = place_of(frames[place + 3].position)
    files.flip(path_of(segment), offset - 70, 1)  # and a header: this one is not recognised
    _, lost, _ = mend(files)
    assert lost.last_index - lost.first_index + 1 == 22
    assert (lost.entries, lost.unread_entries) == (21, 1)
    assert lost.unrecognised_bytes >= 128
    assert len(lost.sessions) == 11
    assert len(lost.begun) in (10, 11)


def test_what_is_dropped_is_written_down_first(files: FakeFiles) -> None:
    """All bytes that go, behind a JSON object that says what they are; the file is made before anything is changed."""
    frames = history(files)
    broken = in_segment(frames, 2)[5]
    damage_body(files, broken)
    numbers = list_log(files, DIRECTORY).segments
    before = {number: bytes(files.content(path_of(number))) for number in numbers}
    found, lost = look(files)
    files.fail("rename", 2)
    with pytest.raises(DiskFailed, match="run it again"):
        mend(files)
    assert {number: bytes(files.content(path_of(number))) for number in numbers} == before
    content = bytes(files.content(f"{DIRECTORY}/dropped-1"))
    head = json.loads(content[: content.index(b"\n}") + 2])
    assert head["loses"]["operations"] == lost.operations
    assert set(head["sessions"]) == {f"1.{term}.{index}" for term, index in lost.sessions}
    assert [part["path"] for part in head["parts"]] == [path_of(number) for number in numbers[1:]]
    for part in head["parts"]:
        number = int(part["path"][-20:-4], 16)
        there = content[part["at"] : part["at"] + part["bytes"]]
        assert there == before[number][part["offset"] : part["offset"] + part["bytes"]]
        assert not any(before[number][part["offset"] + part["bytes"] :])
    with pytest.raises(CannotStart, match="dropped-1 is there already"):
        repair(files, DIRECTORY, found, lost, dropped_path=f"{DIRECTORY}/dropped-1", wall_ms=1, draw=random.randbytes)


def test_a_missing_segment_cuts_the_log_before_it(files: FakeFiles) -> None:
    """Whatever stands behind the gap is lost."""
    frames = history(files)
    first = in_segment(frames, 2)[0]
    files.unlink(path_of(2))
    _, lost, _ = mend(files)
    assert lost.last_index == frames[-1].first_index
    assert lost.unread_entries == len(in_segment(frames, 2))
    assert_whole(files)
    assert reopened(files)[1][:-1] == frames[: frames.index(first)]


def test_a_damaged_segment_header_cuts_the_log_before_it(files: FakeFiles) -> None:
    """Without the salt no frame of it is recognised: its bytes are told."""
    frames = history(files)
    files.flip(path_of(2), 49, 0)
    _, lost, _ = mend(files)
    assert lost.unrecognised_bytes > SEGMENT_BYTES // 2
    assert lost.unread_entries == len(in_segment(frames, 2))
    assert_whole(files)
    assert reopened(files)[1][:-1] == in_segment(frames, 1)


def test_without_its_first_segment_nothing_is_left(files: FakeFiles) -> None:
    """The log begins anew at index 1, in the raised term; if even the file is gone, only a backup helps."""
    history(files)
    files.flip(path_of(1), 49, 0)
    mend(files)
    assert_whole(files)
    _, kept = reopened(files)
    assert [(frame.type, frame.first_index, frame.term) for frame in kept] == [(FrameType.OPENING, 1, RAISED)]
    files = FakeFiles()
    history(files)
    files.unlink(path_of(1))
    with pytest.raises(DamagedLog, match=r"begins at index .* there is no checkpoint: only a backup helps"):
        look(files)


def test_damage_above_the_checkpoint_keeps_the_checkpoint(files: FakeFiles) -> None:
    """The log is cut there and goes on from the checkpoint's index as before."""
    frames = history(files)
    checkpoint = checkpoint_behind(in_segment(frames, 2)[5])
    broken = in_segment(frames, 3)[5]
    damage_body(files, broken)
    found, _, done = mend(files, checkpoint)
    assert found.base == checkpoint
    assert done.checkpoint_path == ""
    assert_whole(files)
    _, kept = reopened(files, checkpoint.next_index)
    wanted = [frame for frame in frames if checkpoint.next_index <= frame.first_index < broken.first_index]
    assert kept[:-1] == wanted


@pytest.mark.parametrize("trimmed", [False, True])
def test_damage_below_the_checkpoint_loses_nothing(files: FakeFiles, *, trimmed: bool) -> None:
    """In the very segment that the checkpoint ends in: what is above stays where it is, behind marks with a body."""
    frames = history(files)
    mine = in_segment(frames, 2)
    checkpoint = checkpoint_behind(mine[-4])
    damage_body(files, mine[3])
    if trimmed:
        files.unlink(path_of(1))
    found, lost, done = mend(files, checkpoint)
    assert (found.cut, lost.anything, done.term) == (False, False, 0)
    assert_whole(files)
    log, kept = reopened(files, checkpoint.next_index)
    above = frames[frames.index(mine[-4]) + 1 :]
    assert kept == above
    assert [frame.position for frame in kept] == [frame.position for frame in above]
    assert log.term == 1
    assert look(files, checkpoint)[0].whole


def test_damage_below_and_above_the_checkpoint(files: FakeFiles) -> None:
    """In one segment, the last one: what lies between stays."""
    frames = history(files, 110)
    mine = in_segment(frames, max(list_log(files, DIRECTORY).segments))
    assert len(mine) > 12
    checkpoint = checkpoint_behind(mine[5])
    damage_body(files, mine[2])
    damage_body(files, mine[9])
    mend(files, checkpoint)
    assert_whole(files)
    assert reopened(files, checkpoint.next_index)[1][:-1] == mine[6:9]


def test_damage_in_segments_below_the_checkpoint_is_trimmed(files: FakeFiles) -> None:
    """A bad header and a gap: neither is needed any more."""
    frames = history(files)
    checkpoint = checkpoint_behind(in_segment(frames, 3)[2])
    files.flip(path_of(1), 20, 0)
    files.unlink(path_of(2))
    found, lost, _ = mend(files, checkpoint)
    assert not found.cut
    assert not lost.anything
    assert_whole(files)
    assert reopened(files, checkpoint.next_index)[1] == frames[frames.index(in_segment(frames, 3)[2]) + 1 :]


def test_where_nothing_joins_the_checkpoint_it_is_what_is_left(files: FakeFiles) -> None:
    """The segment it ends in is gone: a new one begins at its index, at a position that no record had."""
    frames = history(files)
    last = in_segment(frames, 2)[2]
    checkpoint = checkpoint_behind(last)
    files.flip(path_of(2), 20, 0)
    _, lost, _ = mend(files, checkpoint)
    assert lost.first_index == checkpoint.next_index
    assert lost.last_index == frames[-1].first_index
    assert_whole(files)
    log, kept = reopened(files, checkpoint.next_index)
    assert [(frame.type, frame.first_index) for frame in kept] == [(FrameType.OPENING, checkpoint.next_index)]
    assert kept[0].position > last.position
    assert log.first_index == checkpoint.next_index
    assert look(files, checkpoint)[0].whole


def test_a_log_that_ends_below_its_checkpoint(files: FakeFiles) -> None:
    """The checkpoint shows that there was more, and holds it: the log goes on from there."""
    frames = history(files)
    checkpoint = checkpoint_behind(frames[-1])
    last = max(list_log(files, DIRECTORY).segments)
    files.content(path_of(last))[SEGMENT_HEADER_BYTES:] = bytes(SEGMENT_BYTES - SEGMENT_HEADER_BYTES)
    _, lost, _ = mend(files, checkpoint)
    assert not lost.anything
    assert_whole(files)
    assert reopened(files, checkpoint.next_index)[0].next_index == checkpoint.next_index + 1


def test_a_damaged_checkpoint_is_given_up_where_the_log_says_it_all(files: FakeFiles) -> None:
    """It gets another name, with its journal; nothing is lost. A log that was trimmed needs a backup."""
    history(files)
    for ending in ("", "-wal"):
        files.open(CHECKPOINT_PATH + ending, create=True).close()
    bad = replace(checkpoint_behind(reopened(files)[1][3]), problems=("checkpoint.db, row 7: its checksum is wrong",))
    files.kill()
    found, lost, done = mend(files, bad)
    assert not lost.anything
    assert found.problems
    assert done.checkpoint_path == f"{CHECKPOINT_PATH}.dropped-1"
    assert not any(files.exists(CHECKPOINT_PATH + ending) for ending in ("", "-wal", "-shm"))
    assert files.exists(f"{CHECKPOINT_PATH}-wal.dropped-1")
    files.unlink(path_of(1))
    with pytest.raises(DamagedLog, match="row 7: its checksum is wrong: only a backup helps"):
        look(files, bad)


def test_a_checkpoint_that_does_not_fit_the_log_is_given_up(files: FakeFiles) -> None:
    """A position where no frame ends, or another index begins."""
    frames = history(files)
    checkpoint = checkpoint_behind(frames[9])
    for wrong in (replace(checkpoint, offset=checkpoint.offset + 64), replace(checkpoint, next_index=9)):
        found, _ = look(files, wrong)
        assert "does not begin in segment 1" in found.problems[0]


def test_what_the_disk_does_not_give_is_damage(files: FakeFiles) -> None:
    """EIO in a segment: the rest is read around it, the segment is written anew without the bad place."""
    frames = history(files)
    broken = in_segment(frames, 2)[5]
    segment, offset = place_of(broken.position)
    files.bad.add((path_of(segment), offset // 4096))
    found, _, _ = mend(files)
    assert found.unreadable > 0
    files.bad.clear()
    kept = reopened(files)[1]
    assert kept[:-1] == [frame for frame in frames if frame.first_index <= kept[-2].first_index]
    assert broken.first_index - kept[-1].first_index < 40


def test_the_term_is_above_all_that_are_known() -> None:
    """Also where the clock is behind: one more than the highest; else the seconds since 2020."""
    assert raised_term(5, WALL_MS) == RAISED
    assert raised_term(RAISED + 7, WALL_MS) == RAISED + 8
    assert raised_term(5, 0) == 6


def test_a_crc_can_be_chosen() -> None:
    """Four bytes bring any checksum to any other."""
    chance = random.Random(7)
    for _ in range(100):
        before, after = chance.getrandbits(32), chance.getrandbits(32)
        assert crc32c(bytes_before(before, after), before) == after


@pytest.mark.parametrize("where", ["above", "below", "both", "header", "gap"])
def test_a_repair_may_be_killed_at_any_moment(files: FakeFiles, where: str) -> None:
    """Then the log is refused as before, or whole with the raised term; run again it keeps what it would have kept."""
    frames = history(files, 60)
    files.crash()  # closed and synced: nothing of it is in doubt
    mine = in_segment(frames, 2)
    checkpoint = checkpoint_behind(mine[9])
    if where in ("below", "both"):
        damage_body(files, mine[4])
    if where in ("above", "both"):
        damage_body(files, mine[14])
    if where == "header":
        files.flip(path_of(3), 20, 0)
    if where == "gap":
        files.unlink(path_of(2))
        files.sync_dir(f"{DIRECTORY}/log")
    cut = {"above": 14, "both": 14, "header": len(mine), "gap": 10}.get(where)
    kept = [*mine[10:], *in_segment(frames, 3)] if cut is None else mine[10:cut]
    killed = 0
    for operation in ("write", "sync", "zero", "sync_dir", "rename", "unlink"):
        for nth in count(1):
            world = copy.deepcopy(files)
            world.rng = random.Random(nth)
            world.fail(operation, nth, POWER_CUT)
            try:
                mend(world, checkpoint, nth)
                ended = True
            except PowerCut:
                ended = False
                killed += 1
            world.crash()
            if not look(world, checkpoint)[0].whole:
                assert not ended
                assert where == "below" or refused(copy.deepcopy(world), checkpoint.next_index)
                mend(world, checkpoint, nth + 1)
            assert_whole(world)
            log, found = reopened(world, checkpoint.next_index)
            assert [frame for frame in found if frame.type != FrameType.OPENING] == kept
            assert (log.term >= RAISED) is (cut is not None)
            if ended:
                break
    assert killed > 10


def refused(files: FakeFiles, from_index: int) -> bool:
    """Whether a pipe does not start on it: the log says so, or the server, who misses the checkpoint's index."""
    try:
        log, _ = reopened(files, from_index)
    except DamagedLog:
        return True
    return log.first_index > from_index
