"""What waits in the checkpoint's file is swept like what waits in memory: in the order of dispatch, each once."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from mpy6a.due import WINDOW
from mpy6a.entries import Admin, SessionKey
from mpy6a.messages import RepeatPart
from mpy6a.model import AdminVerb, Op, SessionId, Verb
from mpy6a.session import STORED
from tests.fakes.core import World
from tests.property.filing import Filing

A = b"A" * 16
SIDECAR = b"S" * 16


class Filed(World):
    """A world whose checkpoints are written by whoever follows its log."""

    def __init__(self) -> None:
        super().__init__()
        self.filing = Filing(1)

    def checkpoint(self, *, settle: bool = True) -> None:
        """Written; then what waits leaves memory, slice by slice."""
        frames = self.log._frames
        self.filing.write(frames, self.log._end)
        sessions, due = self.state.sessions, self.pipe.due
        sessions.source, sessions.filed_below = self.filing.file, self.log._end
        due.settle_memory(self.state.next_index)
        while settle and due.is_settling:
            due.settle_some(7)

    def store(self, count: int, after_ms: Sequence[int]) -> list[SessionId]:
        """Sessions that wait: each has one record, and is due after so long."""
        made = [self.new(A, b"r%d" % number) for number in range(count)]
        ops = [
            Op(Verb.STORE, id.index, id.term, 1, 1, argument=ms) for id, ms in zip(made, after_ms, strict=True)
        ]
        for start in range(0, count, 256):
            assert not self.batch(A, ops[start : start + 256]).results
        return made

    def order(self, most: int) -> list[tuple[int, int]]:
        """(due_ms, stored_index) of what the sweep hands out, taken in steps of `most`."""
        self.pipe.due.expired(self.log_ms, 1 << 30)
        taken: list[tuple[int, int]] = []
        while sessions := self.pipe.due.take(1, most):
            for session in sessions:
                taken.append((session.due_ms, session.stored_index))
        return taken


@pytest.mark.parametrize("most", [1, 10, 10_000])
def test_memory_and_file_are_swept_as_one(most: int) -> None:
    """By due time, then by the order of storing; wherever a session waits, and over several windows."""
    world, chance = Filed(), Random(most)
    count = WINDOW + 300
    world.store(count, [chance.randrange(1, 50) * 100 for _ in range(count)])
    world.checkpoint()
    assert world.state.sessions.in_memory() == []
    world.store(60, [chance.randrange(1, 50) * 100 for _ in range(60)])
    for session in list(world.state.sessions.after(0))[100:130]:  # some of the file are looked up
        world.state.session(session.term, session.index)
    world.pipe.due.arm_loaded()
    world.now_ms += 10_000
    found = world.order(most)
    assert found == sorted(found)
    assert len(set(found)) == count + 60


def test_many_of_one_moment_come_in_by_one_window() -> None:
    """Those that were stored in one batch are due at the same millisecond: no turn brings them all in."""
    world = Filed()
    world.store(5 * WINDOW, [1_000] * (5 * WINDOW))
    world.checkpoint()
    world.now_ms += 2_000
    world.pipe.due.expired(world.log_ms, 1 << 30)
    first = world.pipe.due.take(1, 10)
    assert len(first) == 10
    assert len(world.state.sessions.in_memory()) == WINDOW
    rest = world.order(10)
    assert rest == sorted(rest)
    assert len(rest) == 5 * WINDOW - 10


@pytest.mark.parametrize("slices", range(1, 9))
def test_nobody_overtakes_who_left_memory_a_moment_ago(slices: int) -> None:
    """Found by the simulator: in the middle of the pass a session that was let go stood in no window, and those that
    were still in memory went first."""
    world = Filed()
    world.store(40, [1_000 + 10 * (number * 7 % 40) for number in range(40)])
    world.checkpoint(settle=False)
    for _ in range(slices):
        world.pipe.due.settle_some(5)
    world.now_ms += 5_000
    found: list[tuple[int, int]] = []
    while len(found) < 40:
        taken = world.order(3)
        assert taken, found
        found += taken
    assert found == sorted(found)
    assert len(set(found)) == 40


def test_memory_and_file_are_due_in_one_order_within_a_tick() -> None:
    """Found by the simulator: what is in memory is due when its tick is over, and a row of the file was due to the
    millisecond."""
    world = Filed()
    filed = world.store(4, [1_001, 1_002, 1_003, 1_004])
    world.checkpoint()
    world.store(1, [1_001])
    assert len(filed) == 4
    found: list[tuple[int, int]] = []
    for _ in range(1_020):
        world.now_ms += 1
        found += world.order(10)
    assert found == sorted(found)
    assert len(found) == 5


def test_a_tick_that_is_taken_out_in_parts_waits_for_its_last() -> None:
    """Found by the simulator: what a first part made ready went before what was due earlier, and in a second."""
    world = Filed()
    world.store(20, [1_010 - number // 2 for number in range(20)])
    world.now_ms += 2_000
    found: list[tuple[int, int]] = []
    for _ in range(20):
        world.pipe.due.expired(world.log_ms, 3)
        for kind in world.pipe.due.ready_kinds():
            found += [(session.due_ms, session.stored_index) for session in world.pipe.due.take(kind, 10)]
    assert found == sorted(found)
    assert len(found) == 20


def test_what_is_not_due_stays_in_the_file() -> None:
    """The sweep wakes for it when it is: its due time is a deadline of the pipe."""
    world = Filed()
    world.store(20, [5_000] * 20)
    world.checkpoint()
    world.pass_time(1_000)
    assert world.order(100) == []
    assert len(world.state.sessions.in_memory()) == 0
    due_ms = world.pipe.due.next_ms()
    assert due_ms is not None
    assert 3_900 <= due_ms - world.log_ms <= 4_000
    world.now_ms += 4_000
    assert len(world.order(100)) == 20


def test_a_filed_session_is_pushed_with_its_records() -> None:
    """They come from its row: the log below the checkpoint may be gone."""
    world = Filed()
    made = world.store(3, [100, 200, 300])
    world.checkpoint()
    world.log._frames, kept = world.log._frames[-1:], world.log._frames  # nothing below is read any more
    dial = world.sidecar(SIDECAR)
    world.pass_time(1_000)
    world.log._frames = kept
    pushed = [part for _, message in world.pushed for part in getattr(message, "sessions", ())]
    assert [(part.index, part.records) for part in pushed if isinstance(part, RepeatPart)] == [
        (id.index, (b"r%d" % number,)) for number, id in enumerate(made)
    ]
    assert dial


def test_what_changed_meanwhile_stays_in_memory() -> None:
    """A session that was kicked after the checkpoint's index is not the one that the file shows."""
    world = Filed()
    first, second = world.store(2, [60_000, 60_000])
    world.filing.write(world.log._frames, world.log._end)
    before = world.state.next_index
    world.pipe.say(admin(AdminVerb.KICK, second), world.now_ms, lambda _: None)
    world.work()
    sessions = world.state.sessions
    sessions.source, sessions.filed_below = world.filing.file, world.log._end
    world.pipe.due.settle_memory(before)
    world.pipe.due.settle_some(1_000)
    assert [session.index for session in sessions.in_memory()] == [second.index]
    assert first.index in sessions.filed
    assert [index for _, index in world.order(10)] == [sessions.in_memory()[0].change]


def test_a_looked_up_session_is_swept_all_the_same() -> None:
    """Whoever asked for it brought it into memory, where its row does not count: its timer came along."""
    world = Filed()
    [one] = world.store(1, [5_000])
    world.checkpoint()
    ack = world.batch(b"B" * 16, [Op(Verb.APPEND, one.index, one.term, 1, 2, record=b"late")])
    assert ack.results
    assert [session.state for session in world.state.sessions.in_memory()] == [STORED]
    world.sidecar(SIDECAR)
    world.pass_time(6_000)
    assert world.state.sessions.in_memory()[0].epoch == 2


def admin(verb: AdminVerb, id: SessionId) -> Admin:
    return Admin(verb, "test", "", (SessionKey(id.term, id.index),))


def test_a_pass_that_is_cut_short_is_given_back_in_slices() -> None:
    """The next checkpoint is there before the pass is at its end: what it made so far is a wheel of 100,000 ticks."""
    world = Filed()
    world.store(40, [1_000 + 100 * number for number in range(40)])
    world.checkpoint(settle=False)
    world.pipe.due.settle_some(5)
    world.store(60, [9_000 + 100 * number for number in range(60)])  # armed in the wheel that the pass builds too
    world.checkpoint(settle=False)
    due, in_memory, slices = world.pipe.due, len(world.state.sessions.in_memory()), 0
    while len(world.state.sessions.in_memory()) == in_memory:  # the wheel goes before the new pass begins
        due.settle_some(5)
        slices += 1
    assert slices > 60 // 5
    while due.is_settling:
        due.settle_some(5)
    world.now_ms += 60_000
    assert len(world.order(10)) == 100
