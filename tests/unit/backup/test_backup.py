"""A backup is the whole of what was acknowledged, checked and incremental; its way back begins a new term."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mpy6a import guard, limits
from mpy6a.backup.manifest import DamagedBackup, read_manifest
from mpy6a.backup.restoring import restore
from mpy6a.backup.taking import Progress, Taken, take
from mpy6a.checkpoint.child import Checkpoints
from mpy6a.checkpoint.copying import Snapshot
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.entries import encode_proposals
from mpy6a.errors import CannotStart, Code, DamagedLog, FormatVersion
from mpy6a.files import OsFiles
from mpy6a.framing import Frame, FrameType
from mpy6a.log.directory import backup_lock_path, list_log, segment_path
from mpy6a.log.segments import SegmentLog
from mpy6a.model import Cause, Proposal, ProposalVerb, SessionState
from mpy6a.state import State
from tests.unit.log.damaging import WALL_MS, batch, begun, opening, stored

SEGMENT_BYTES = 32 * 1024
FRAME_BYTES_MAX = 16 * 1024
RAISED = 1_000_000  # seconds since 2020 by WALL_MS


class Data:
    """A data directory, with a log and checkpoints as a pipe and its child write them."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "data")
        self.log = self.open()
        self.say(opening(self.log))
        self.requests = 0

    def open(self) -> SegmentLog:
        log = SegmentLog.open(
            OsFiles(), self.path, 1, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX
        )
        list(log.replay(1))
        return log

    def say(self, frame: Frame) -> Frame:
        self.log.append([frame])
        return self.log.committed()[0]

    def store(self, count: int, size: int = 500) -> list[tuple[int, int]]:
        """So many sessions that wait; their ids."""
        term, index = self.log.term, self.log.next_index
        group, found = [], []
        for _ in range(count):
            self.requests += 1
            found.append((term, index))
            for ops in ([begun(self.requests, size)], [stored(term, index)]):
                group.append(replace(batch(self.log, ops), first_index=index))
                index += 1
        self.log.append(group)
        assert self.log.committed() == group
        return found

    def checkpoint(self, *, trim: bool = True) -> None:
        child = Checkpoints(self.path)
        assert child.go(self.log.next_index)
        child.close()
        if trim:
            self.trim()

    def trim(self) -> None:
        self.log.trim(self.log.next_index)
        self.log.wait_trimmed()

    def close(self) -> None:
        self.log.close()


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def state_of(directory: str) -> State:
    """What a pipe would start from, as of the log's end."""
    return contents_of(directory)[0]


def contents_of(directory: str) -> tuple[State, dict[int, list[bytes]]]:
    """The same, and every session's records."""
    file = CheckpointFile.open(directory)
    log = SegmentLog.open(OsFiles(), directory, 1, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX)
    state = load_state(file, 1, log.uuid)
    for frame in log.replay(state.next_index):
        if frame.first_index >= state.next_index:
            state.apply(frame)
    records = {session.index: state.sessions.records(session, log.read) for session in state.sessions.all()}
    log.close()
    return state, records


def backed_up(data: Data, path: Path) -> Taken:
    return take(data.path, str(path / "backup"), WALL_MS)


def restored(path: Path, name: str = "again", *, hold: bool = False) -> State:
    restore(str(path / "backup"), str(path / name), WALL_MS, hold=hold)
    return state_of(str(path / name))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_was_backed_up_comes_back(data: Data, tmp_path: Path, *, checkpoint: bool) -> None:
    """Of a pipe that runs: every session with its records, in checkpoint and log, and a new term behind it."""
    ids = data.store(60)
    if checkpoint:
        data.checkpoint()
    ids += data.store(60)
    taken = backed_up(data, tmp_path)
    assert (taken.manifest.checkpoint_index > 1) is checkpoint
    assert taken.manifest.last_index == data.log.next_index - 1
    restored(tmp_path)
    state, records = contents_of(str(tmp_path / "again"))
    data.close()
    before, had = contents_of(data.path)
    assert records == had
    assert state.terms() == [*before.terms(), (RAISED, taken.manifest.last_index + 1)]
    assert [one.index for one in state.sessions.all()] == [index for _, index in ids]
    assert state.dump()["outcomes"] == before.dump()["outcomes"]


def test_ids_given_after_the_backup_are_lost(data: Data, tmp_path: Path) -> None:
    """They lie beyond the closed term, and are never given again."""
    data.store(5)
    backed_up(data, tmp_path)
    [(term, index)] = data.store(1)
    state = restored(tmp_path)
    assert state.next_index > index
    log = SegmentLog.open(OsFiles(), str(tmp_path / "again"), 1)
    list(log.replay())
    log.append([batch(log, [stored(term, index)])])
    assert state.apply(log.committed()[0]).results[0].code == Code.LOST
    log.close()


def test_a_second_backup_copies_what_changed(data: Data, tmp_path: Path) -> None:
    """Segments that are full, and a checkpoint that is the same, stay as they are; nothing else is left behind."""
    data.store(150)
    data.checkpoint(trim=False)
    data.store(150)
    first = backed_up(data, tmp_path)
    assert (first.kept_files, first.copied_bytes) == (0, sum(part.bytes for part in first.manifest.parts))
    again = backed_up(data, tmp_path)
    assert (again.copied_files, again.copied_bytes) == (0, 0)
    data.store(1)
    third = backed_up(data, tmp_path)
    assert third.copied_files == 1
    assert third.copied_bytes < SEGMENT_BYTES
    assert third.kept_bytes > 3 * SEGMENT_BYTES
    data.checkpoint()
    data.store(1)
    fourth = backed_up(data, tmp_path)
    assert {part.role for part in fourth.manifest.parts} == {"identity", "segment", "checkpoint"}
    names = {part.name for part in fourth.manifest.parts}
    assert set(os.listdir(tmp_path / "backup")) == names | {"manifest.json", "lock"}
    assert len(restored(tmp_path).sessions.all()) == 302


class Interrupt:
    """Ends what it is the progress of, at a report."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, done: int, total: int) -> None:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1


def test_a_backup_that_is_interrupted_leaves_the_one_before(data: Data, tmp_path: Path) -> None:
    """At every report of its progress, and before its manifest is written."""
    ids = data.store(80)
    data.checkpoint(trim=False)
    first = backed_up(data, tmp_path).manifest
    for number in range(20):
        data.store(20)
        data.checkpoint()
        try:
            take(data.path, str(tmp_path / "backup"), WALL_MS, Interrupt(number))
        except KeyboardInterrupt:
            assert read_manifest(str(tmp_path / "backup")) == first
            assert len(restored(tmp_path, f"again-{number}").sessions.all()) == len(ids)
        else:
            break
    assert number >= 2
    last = backed_up(data, tmp_path)
    names = {part.name for part in last.manifest.parts}
    assert set(os.listdir(tmp_path / "backup")) == names | {"manifest.json", "lock"}
    assert len(restored(tmp_path).sessions.all()) > len(ids)


def test_nothing_is_trimmed_while_a_backup_is_taken(data: Data, tmp_path: Path) -> None:
    """The pipe asks before it uses a segment again; the next checkpoint makes up for it."""
    data.store(150)
    before = list_log(OsFiles(), data.path).segments
    lock = OsFiles().lock(backup_lock_path(data.path))
    data.checkpoint()
    assert list_log(OsFiles(), data.path).segments == before
    with pytest.raises(CannotStart, match=f"another backup runs .process {os.getpid()}."):
        backed_up(data, tmp_path)
    lock.release()
    data.trim()
    assert len(list_log(OsFiles(), data.path).segments) == 1


def test_a_checkpoint_committed_meanwhile_does_not_matter(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup reads one moment of it: the log goes on from there, whatever is written beside."""
    data.store(150)
    data.checkpoint(trim=False)
    data.store(30)
    copy = Snapshot.copy

    def late(self: Snapshot, path: str, progress: Progress | None = None) -> None:
        data.store(30)
        data.checkpoint()
        copy(self, path, progress)

    monkeypatch.setattr(Snapshot, "copy", late)
    monkeypatch.setattr(limits, "CHECKPOINT_LOCK_MS", 20)  # the writer of checkpoints waits so long for this reader
    taken = backed_up(data, tmp_path)
    state = restored(tmp_path)
    assert len(state.sessions.all()) == 180
    header = CheckpointFile.open(str(tmp_path / "again")).header()
    assert header is not None
    assert header.next_index == taken.manifest.checkpoint_index


def test_damage_is_not_backed_up(data: Data, tmp_path: Path) -> None:
    """In a segment, or a page of the checkpoint: the backup before stands."""
    data.store(150)
    data.checkpoint(trim=False)
    data.store(150)
    first = backed_up(data, tmp_path).manifest
    data.store(10)
    data.checkpoint(trim=False)
    data.close()
    numbers = list_log(OsFiles(), data.path).segments
    for path, offset in (
        (segment_path(data.path, numbers[-1]), 5_000),
        (f"{data.path}/checkpoint.db", 30_000),
    ):
        flip(path, offset)
        with pytest.raises(DamagedLog):
            backed_up(data, tmp_path)
        flip(path, offset)
        assert read_manifest(str(tmp_path / "backup")) == first


def flip(path: str, offset: int) -> None:
    with open(path, "rb+") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def test_every_file_is_verified_before_a_restore(data: Data, tmp_path: Path) -> None:
    """One bit, a missing file, a manifest that was touched: refused by name, and nothing is made."""
    data.store(100)
    data.checkpoint(trim=False)
    manifest = backed_up(data, tmp_path).manifest
    for part in manifest.parts:
        path = str(tmp_path / "backup" / part.name)
        flip(path, part.bytes // 2)
        with pytest.raises(DamagedBackup, match=part.name):
            restored(tmp_path)
        flip(path, part.bytes // 2)
        os.rename(path, path + ".away")
        with pytest.raises(DamagedBackup, match=f"{part.name} is missing"):
            restored(tmp_path)
        os.rename(path + ".away", path)
    path = str(tmp_path / "backup" / "manifest.json")
    for offset in range(0, os.path.getsize(path) - 1, 7):
        flip(path, offset)
        with pytest.raises((DamagedBackup, FormatVersion)):
            restored(tmp_path)
        flip(path, offset)
    assert not (tmp_path / "again").exists()
    assert len(restored(tmp_path).sessions.all()) == 100


def test_a_manifest_of_another_version_is_refused_by_number(data: Data, tmp_path: Path) -> None:
    """As every format of the pipe."""
    backed_up(data, tmp_path)
    path = tmp_path / "backup" / "manifest.json"
    values = json.loads(path.read_text()) | {"mpy6a_backup": 9}
    path.write_text(json.dumps(values))
    with pytest.raises(FormatVersion, match="has format 9, this release reads 1"):
        restored(tmp_path)


def test_a_restore_writes_over_nothing(data: Data, tmp_path: Path) -> None:
    """A log that is there, any other file, or a directory in the way of the building; an empty directory will do."""
    data.store(3)
    backed_up(data, tmp_path)
    with pytest.raises(CannotStart, match="data holds a pipe's log"):
        restored(tmp_path, "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(CannotStart, match=r"full holds letter\.txt"):
        restored(tmp_path, "full")
    (tmp_path / "again.restoring").mkdir()
    with pytest.raises(CannotStart, match="is in the way"):
        restored(tmp_path)
    (tmp_path / "again.restoring" / "restoring").touch()  # of a restore that was killed
    (tmp_path / "again").mkdir()
    assert len(restored(tmp_path).sessions.all()) == 3
    assert not (tmp_path / "again" / "restoring").exists()
    with pytest.raises(CannotStart, match=r"there is no manifest\.json in"):
        restore(str(tmp_path), str(tmp_path / "other"), WALL_MS)


def test_a_backup_goes_to_its_own_place_only(data: Data, tmp_path: Path) -> None:
    """Not over another pipe's backup, nor into a data directory, nor from what is none."""
    backed_up(data, tmp_path)
    (tmp_path / "other").mkdir()
    other = Data(tmp_path / "other")
    with pytest.raises(CannotStart, match="holds the backup of pipe 1, log"):
        backed_up(other, tmp_path)
    with pytest.raises(CannotStart, match="is a pipe's data directory"):
        take(data.path, other.path, WALL_MS)
    with pytest.raises(CannotStart, match=r"there is no .*pipe\.json"):
        take(str(tmp_path), str(tmp_path / "third"), WALL_MS)


def test_hold_pauses_every_kind_and_lets_go_of_what_runs(data: Data, tmp_path: Path) -> None:
    """The log says so itself: paused kinds with a reason, and no session at a sidecar that may still be there."""
    [(term, index), *_] = data.store(3)
    change = data.log.next_index - 1
    proposal = Proposal(ProposalVerb.DISPATCH, term, index, 1, index + 1, Cause.NONE, target=b"S" * 16, sidecar="users")
    body = encode_proposals([proposal])
    frame = Frame(FrameType.PROPOSALS, 0, 1, data.log.term, change + 1, 1, 5_000, 0, bytes(16), body, b"")
    data.say(frame)
    backed_up(data, tmp_path)
    state = restored(tmp_path)
    assert not state.paused_kinds
    assert state.session(term, index).state == SessionState.REPEATING  # type: ignore[union-attr]  # it is live
    state = restored(tmp_path, "held", hold=True)
    assert list(state.paused_kinds) == [1]
    assert "would run again" in state.paused_kinds[1][2]
    session = state.session(term, index)
    assert session is not None
    assert (session.state, session.epoch) == (SessionState.STORED, 2)
    assert session.delivery is not None
    assert session.delivery.charges == 0


class Dispatching:
    """One session in a log that goes on: dispatched and released again and again."""

    def __init__(self, directory: str, id: tuple[int, int]) -> None:
        self.state = state_of(directory)
        self.log = SegmentLog.open(OsFiles(), directory, 1)
        list(self.log.replay(1))
        self.id = id

    def propose(self, verb: ProposalVerb) -> int:
        """The session's fence afterwards."""
        session = self.state.session(*self.id)
        assert session is not None
        proposal = Proposal(
            verb, *self.id, session.epoch, session.change, Cause.NONE, target=b"S" * 16, sidecar="users"
        )
        body = encode_proposals([proposal])
        frame = Frame(FrameType.PROPOSALS, 0, 1, self.log.term, self.log.next_index, 1, 5_000, 0, bytes(16), body, b"")
        self.log.append([frame])
        self.state.apply(self.log.committed()[0])
        assert session.change == frame.first_index
        return session.fence

    def dispatch(self, count: int) -> list[int]:
        """The fences of so many epochs, one after another."""
        found = []
        for _ in range(count):
            found.append(self.propose(ProposalVerb.DISPATCH))
            self.propose(ProposalVerb.RELEASE)
        return found


@pytest.mark.parametrize("at_a_handler", [False, True])
def test_fences_never_go_back(data: Data, tmp_path: Path, *, at_a_handler: bool) -> None:
    """What is dispatched after a restore passes a guard that saw everything that the lost life dispatched; the same
    epochs come again, the same fences do not. A handler that the backup remembers at work is refused."""
    [id] = data.store(1)
    data.close()
    life = Dispatching(data.path, id)
    life.dispatch(2)
    if at_a_handler:
        running = life.propose(ProposalVerb.DISPATCH)
    life.log.close()
    backed_up(data, tmp_path)
    life = Dispatching(data.path, id)
    if at_a_handler:
        life.propose(ProposalVerb.RELEASE)
    lost = life.dispatch(5)
    life.log.close()
    restored(tmp_path)
    again = Dispatching(str(tmp_path / "again"), id)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        guard.create(database)
        database.execute("BEGIN IMMEDIATE")
        for fence in lost:
            guard.check(database, "1.3.48213", fence)
        if at_a_handler:
            with pytest.raises(guard.Fenced):
                guard.check(database, "1.3.48213", running)
            again.propose(ProposalVerb.RELEASE)
        for before, fence in zip(lost, again.dispatch(3), strict=False):
            guard.check(database, "1.3.48213", fence)
            assert fence & 0xFFFF_FFFF == before & 0xFFFF_FFFF  # the epoch
            with pytest.raises(guard.Fenced):
                guard.check(database, "1.3.48213", max(lost))
    again.log.close()
