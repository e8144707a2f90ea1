"""Writing a checkpoint: only what changed, all or nothing, and memory is let go of after the commit only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.checkpoint.writing import CheckpointWriter
from mpy6a.entries import Admin, encode_admin
from mpy6a.errors import DiskFull
from mpy6a.framing import Frame, FrameType
from mpy6a.limits import FINISHED_TRACE_MS, OUTCOME_KEPT_MS
from mpy6a.log.memory import MemoryLog
from mpy6a.model import NOBODY, AdminVerb, Op, SessionId, Verb
from mpy6a.session import Session
from mpy6a.state import State
from tests.fakes.core import World

from .samples import LOG

A, B = b"A" * 16, b"B" * 16


class Child:
    """The process that writes checkpoints, over the log of a `World`."""

    def __init__(self, directory: Path, world: World) -> None:
        self.world = world
        self.file = CheckpointFile.open(str(directory), write=True)
        self.state = load_state(self.file, 1, LOG)
        self.writer = CheckpointWriter(self.file, self.state, self._records, LOG)

    def _records(self, session: Session) -> list[bytes]:
        return self.state.sessions.records(session, self.world.log.read)

    def follow(self) -> int:
        """Apply what was logged since; the position behind it."""
        for frame in _frames(self.world.log):
            if frame.first_index >= self.state.next_index:
                self.state.apply(replace(frame))
        return self.world.log._end

    def write(self) -> tuple[int, int, int]:
        """Rows put, rows deleted, sessions dropped."""
        _, put, deleted, dropped, _ = self.writer.write(self.follow(), 77)
        assert self.file.verify() == []
        return put, deleted, dropped


def _frames(log: MemoryLog) -> list[Frame]:
    return list(log._frames)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """A checkpoint's writer beside a pipe that has just opened."""
    found = Child(tmp_path, World())
    with closing(found.file):
        yield found


def _store(world: World, session: SessionId, seq: int = 1, after_ms: int = 60_000) -> None:
    ack = world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, seq, after_ms)])
    assert not ack.results


def test_only_what_changed_is_written(child: Child) -> None:
    """A session that waits is written once; what nobody touched costs nothing."""
    ids = [child.world.new(A, b"data") for _ in range(5)]
    for session in ids[:3]:
        _store(child.world, session)
    assert child.write() == (5, 0, 3)
    assert child.write() == (0, 0, 0)
    _store(child.world, ids[3])
    child.world.batch(A, [Op(Verb.DELETE, ids[4].index, ids[4].term, 1, 1)])
    assert child.write() == (1, 1, 1)
    header = child.file.header()
    assert header is not None
    assert (header.next_index, header.position, header.wall_ms) == (child.state.next_index, child.world.log._end, 77)
    assert child.file.connection().execute("SELECT kind, state FROM live").fetchall() == [("user-create", "STORED")] * 4


def test_a_session_that_came_and_went_between_two_leaves_nothing(child: Child) -> None:
    """Most sessions live that short."""
    child.write()
    session = child.world.new(A, b"data")
    child.world.batch(A, [Op(Verb.DELETE, session.index, session.term, 1, 1)])
    assert child.write() == (0, 0, 0)


def test_a_long_open_session_moves_with_each_of_its_changes(child: Child) -> None:
    """Its records come from its row once the log below has gone, and from the log above it."""
    session = child.world.new(A, b"one")
    child.write()
    child.world.batch(A, [Op(Verb.APPEND, session.index, session.term, 1, 1, record=b"two")])
    child.world.log.trim(child.world.log.next_index)
    assert child.write() == (1, 0, 0)
    again = load_state(child.file, 1).session(session.term, session.index)
    assert again is not None
    records = child.file.records(session.index)
    assert [records[reference] for reference in again.records] == [b"one", b"two"]


def test_no_room_changes_neither_file_nor_state(child: Child) -> None:
    """And the next try writes all that the one before could not, and what came after."""
    ids = [child.world.new(A, bytes(3_000)) for _ in range(20)]
    for session in ids[:10]:
        _store(child.world, session)
    child.write()
    more = [child.world.new(A, bytes(3_000)) for _ in range(20)]
    for session in (*ids[10:], *more[:5]):
        _store(child.world, session)
    child.world.pass_time(61_000)
    position = child.follow()
    before, header = child.state.dump(), child.file.header()
    pages = int(child.file.connection().pragma("page_count"))
    child.file.connection().pragma("max_page_count", pages + 3)
    for _ in range(2):
        with pytest.raises(DiskFull):
            child.writer.write(position, 88)
        assert child.state.dump() == before
        assert child.file.header() == header
        assert child.file.verify() == []
    child.file.connection().pragma("max_page_count", pages * 10)
    assert child.write() == (30, 0, 15)
    child.world.batch(B, [Op(Verb.NEW, 1, argument=1, record=b"later")])
    assert child.write() == (1, 0, 0)
    assert load_state(child.file, 1).dump() == child.state.dump()


def test_what_is_known_of_clients_is_kept_and_forgotten_by_their_time(child: Child) -> None:
    """A New is answered once across a restart, until an hour after the client's last frame."""
    child.world.new(A)
    child.write()
    again = Child(Path(child.file.path).parent, child.world)
    with closing(again.file):
        assert again.state.requests.of(A) == 1
    child.world.pass_time(OUTCOME_KEPT_MS // 2)
    child.world.new(B)
    child.write()
    assert [name for name, _ in child.file.clients()] == [A, B]
    child.world.pass_time(OUTCOME_KEPT_MS // 2)
    child.world.new(B)
    child.write()
    assert [name for name, _ in child.file.clients()] == [B]


def test_ends_of_repeated_sessions_are_remembered_for_a_day(child: Child) -> None:
    """Their traces move into the file, where a late copy's verdict comes from, and go by log time."""
    world = child.world
    session = world.new(A, b"data")
    _store(world, session, after_ms=0)
    world.sidecar(b"S" * 16)
    world.pass_time(100)
    live = world.session(session)
    assert live is not None
    assert live.epoch == 2
    child.write()  # so that the end is the very next entry
    world.batch(B, [Op(Verb.DELETE, session.index, session.term, 2, 1)])
    child.write()
    assert not list(child.state.sessions.traces())
    assert child.state.sessions.finished_epoch(session.term, session.index, child.state.log_ms) == 2
    world.pass_time(FINISHED_TRACE_MS)
    world.new(A)
    child.write()
    assert list(child.file.traces()) == []
    assert child.state.sessions.finished_epoch(session.term, session.index, child.state.log_ms) is None


def test_what_operators_said_is_kept(child: Child) -> None:
    """Paused kinds and an accepted clock, until they are taken back."""
    until_ms = child.world.log_ms + 1_000_000
    for verb, kept in ((AdminVerb.PAUSE, {1: (until_ms, "operator", "noise")}), (AdminVerb.RESUME, {})):
        child.follow()
        state, log_ms = child.state, child.state.log_ms
        for said in (
            Admin(verb, "operator", "noise", kind=1, until_ms=until_ms),
            Admin(AdminVerb.CLOCK_ACCEPT, "operator", until_ms=9),
        ):
            body = encode_admin(said)
            state.apply(Frame(FrameType.ADMIN, 0, 1, state.term, state.next_index, 1, log_ms, 0, NOBODY, body, b""))
        child.writer.write(child.world.log._end, 77)
        again = load_state(child.file, 1)
        assert (again.paused_kinds, again.clock_accepted_ms) == (kept, 9)


def test_a_state_of_another_life_is_not_needed(child: Child) -> None:
    """A writer that is killed begins again from the file, and goes on with what changed since."""
    ids = [child.world.new(A, b"data") for _ in range(3)]
    child.write()
    _store(child.world, ids[0])
    child.file.close()
    again = Child(Path(child.file.path).parent, child.world)
    with closing(again.file):
        assert again.state.next_index == again.writer.next_index < child.world.log.next_index
        assert again.write() == (1, 0, 1)
        state = State(1)
        for frame in _frames(child.world.log):
            state.apply(replace(frame))
        assert again.state.dump()["sessions"] == state.dump()["sessions"]
