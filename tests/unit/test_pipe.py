"""The pipe without sockets: what it answers, logs and proposes, and when."""

from __future__ import annotations

import pytest

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.messages import Ack, Error, Goodbye, Heartbeat, Hello, Message, MessageType, Pong, Welcome
from mpy6a.model import U64_MAX, Op, SessionState, Verb
from mpy6a.policy import KindPolicy, policy_of
from tests.fakes.core import KIND, WALL_MS, World

A, B = b"A" * 16, b"B" * 16


def test_a_hello_is_answered_with_limits_kinds_and_the_pipe() -> None:
    """A client learns at hello what it may do and where it is."""
    world = World()
    [welcome] = world.tell(A, Hello())
    assert isinstance(welcome, Welcome)
    assert [(kind.id, kind.name) for kind in welcome.kinds] == [(1, "user-create")]
    assert welcome.pipes[0].pipe == 1
    assert welcome.pipes[0].term == 1
    assert welcome.limits.record_bytes == limits.RECORD_BYTES_MAX
    assert welcome.hop == b"P" * 16


def test_nothing_is_answered_before_the_log_returned_it() -> None:
    """An ack leaves only after its frame came back committed."""
    world = World()
    body = wire.encode_batch_body(1, 1, world.log_ms, [Op(Verb.NEW, 1, argument=1)])
    world.pipe.receive("door", Message(MessageType.BATCH, 1, A, 0, body), world.now_ms)
    frames = world.pipe.group()
    assert len(frames) == 1
    assert world.pipe.outbox == []
    assert world.state.sessions.live() == 0
    world.log.append(frames)
    world.pipe.committed(world.log.committed())
    assert len(world.pipe.outbox) == 1
    assert world.state.sessions.live() == 1


def test_a_lifecycle_leaves_nothing_behind() -> None:
    """New, Append, Delete: the session is gone, and counts say so."""
    world = World()
    session = world.new(A, b"first")
    ack = world.batch(
        A,
        [
            Op(Verb.APPEND, session.index, session.term, 1, 1, record=b"x"),
            Op(Verb.DELETE, session.index, session.term, 1, 2),
        ],
    )
    assert ack.results == ()
    assert world.state.sessions.live() == 0
    assert sum(world.state.sessions.counts.values()) == 0


def test_a_resent_new_gets_its_session_and_makes_no_second_one() -> None:
    """New is answered once: a resend of an unanswered one gets the original id."""
    world = World()
    first = world.batch(A, [Op(Verb.NEW, 1, argument=1)])
    again = world.batch(A, [Op(Verb.NEW, 1, argument=1)])
    assert [(r.code, r.index, r.term) for r in again.results] == [(Code.OK, first.first_index, first.term)]
    assert world.state.sessions.live() == 1


def test_refusals_before_the_log_ride_in_the_frame() -> None:
    """An unknown kind and a record over the limit are refused by name, logged without payload, and replayed alike."""
    world = World()
    big = b"x" * (limits.RECORD_BYTES_MAX + 1)
    ack = world.batch(
        A,
        [Op(Verb.NEW, 1, argument=9), Op(Verb.NEW, 2, argument=1, record=big), Op(Verb.NEW, 3, argument=1)],
    )
    assert [(r.position, r.code) for r in ack.results] == [(0, Code.UNKNOWN_KIND), (1, Code.TOO_LARGE)]
    assert "user-create" in ack.results[0].message
    assert world.state.sessions.live() == 1
    frame = world.log.restarted()
    assert all(len(one.batch) < 2_000 for one in frame.replay())
    again = World(log=world.log.restarted())
    assert again.state.sessions.dump()["sessions"].keys() == world.state.sessions.dump()["sessions"].keys()


def test_a_principal_without_the_right_is_denied_before_the_log() -> None:
    """The port `authorise` is asked for every New."""
    world = World(authorise=lambda principal, kind: False)
    ack = world.batch(A, [Op(Verb.NEW, 1, argument=1)])
    assert [r.code for r in ack.results] == [Code.DENIED]


def test_disk_levels_refuse_what_grows_and_let_sessions_finish() -> None:
    """Level 1 refuses New, level 2 Append too; Delete goes on."""
    world = World()
    session = world.new(A)
    world.pipe.disk_level = 2
    ack = world.batch(
        A,
        [Op(Verb.NEW, 9, argument=1), Op(Verb.APPEND, session.index, session.term, 1, 1, record=b"x")],
    )
    assert [r.code for r in ack.results] == [Code.DISK_LOW, Code.DISK_LOW]
    ack = world.batch(A, [Op(Verb.DELETE, session.index, session.term, 1, 2)])
    assert ack.results == ()


def test_at_level_2_a_replace_passes_that_does_not_grow() -> None:
    """It frees as much as it takes; on the log's reserve none passes: that is for what ends sessions."""
    world = World()
    session = world.new(A, b"four")

    def replace(seq: int, record: bytes) -> list[Code]:
        op = Op(Verb.REPLACE, session.index, session.term, 1, seq, record=record)
        return [Code(result.code) for result in world.batch(A, [op]).results]

    world.pipe.disk_level = 2
    assert replace(1, b"12345") == [Code.DISK_LOW]
    assert replace(2, b"1234") == []
    assert replace(3, b"12") == []
    assert replace(4, b"123") == [Code.DISK_LOW]
    world.pipe.disk_reserve = True
    assert replace(5, b"") == [Code.DISK_LOW]
    again = World(log=world.log.restarted())
    assert again.state.sessions.dump() == world.state.sessions.dump()


def test_refused_growth_is_logged_without_its_payload() -> None:
    """A verdict takes a few bytes of the reserve, whatever size was refused."""
    world = World()
    session = world.new(A)
    world.pipe.disk_level = 2
    large = bytes(100_000)
    ops = [Op(Verb.NEW, 9, argument=1, record=large)]
    ops += [Op(Verb.APPEND, session.index, session.term, 1, 1, record=large)]
    ops += [Op(Verb.REPLACE, session.index, session.term, 1, 2, record=large)]
    assert len(world.batch(A, ops).results) == 3
    assert all(len(one.batch) < 1_000 for one in world.log.restarted().replay())


def test_level_2_dispatches_nothing_and_goes_on_by_itself() -> None:
    """Expiry goes on: a session that is due waits for the disk, and says so."""
    world = World()
    session = world.new(A)
    dial = world.sidecar(B)
    world.pipe.disk_level = 2
    world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 1)])
    world.pass_time(10_000)
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.STORED
    world.pipe.disk_level = 1
    world.work()
    world.accept(B, dial, 1)
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.REPEATING


def test_when_the_reserve_is_used_up_nothing_is_logged() -> None:
    """BUSY before the log, no proposals, and no loop that spins for what it may not do; then all goes on by itself."""
    world = World()
    session = world.new(A)
    world.pipe.disk_level, world.pipe.disk_reserve, world.pipe.disk_spent = 2, True, True
    before = world.log.next_index
    ack = world.batch(A, [Op(Verb.DELETE, session.index, session.term, 1, 1)])
    assert (ack.code, ack.retry_after_ms > 0) == (Code.BUSY, True)
    assert world.pipe.dropped == {"disk": 1}
    world.tell(B, Heartbeat(gone=(A,)))
    world.pass_time(KIND.idle_ms * 2)
    assert world.log.next_index == before
    assert world.pipe.deadline(world.now_ms) > world.now_ms
    world.pipe.disk_level, world.pipe.disk_reserve, world.pipe.disk_spent = 0, False, False
    world.work()
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.STORED


def test_short_groups_on_the_reserve() -> None:
    """One turn takes little of it, so that the pipe feels its end before it is there."""
    world = World()
    for _ in range(3):
        world.new(A)
    world.pipe._bytes = limits.DISK_GROUP_BYTES
    assert not world.pipe.full
    world.pipe.disk_reserve = True
    assert world.pipe.full


def test_garbage_costs_its_sender_an_error_and_is_counted() -> None:
    """A body that is no message, another pipe's number, a message that is not for a pipe."""
    world = World()
    assert world.pipe.receive("door", Message(MessageType.BATCH, 1, A, 0, b"\xff" * 64), world.now_ms) is None
    [error] = world.work()
    assert isinstance(error, Error)
    assert error.code == Code.MALFORMED
    body = wire.encode_batch_body(1, 1, 1, [Op(Verb.NEW, 1, argument=1)])
    world.pipe.receive("door", Message(MessageType.BATCH, 7, A, 0, body), world.now_ms)
    [error] = world.work()
    assert isinstance(error, Error)
    assert error.code == Code.WRONG_PIPE
    assert world.pipe.dropped == {"malformed": 1, "wrong_pipe": 1}


def test_an_idle_session_is_stored_at_its_limit() -> None:
    """OPEN without an operation for `idle` goes to STORED, due by the kind's delay."""
    world = World()
    session = world.new(A)
    for _ in range(60):
        world.pass_time(KIND.idle_ms // 60 - 1)
        world.tell(A, Heartbeat())
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.OPEN
    world.pass_time(200)
    assert found.state == SessionState.STORED
    assert found.due_ms == world.log_ms + KIND.delay_ms


def test_operations_restart_the_idle_limit() -> None:
    """Any operation or touch restarts the clock of silence."""
    world = World()
    session = world.new(A)
    for seq in range(1, 5):
        for _ in range(50):
            world.pass_time(KIND.idle_ms // 55)
            world.tell(A, Heartbeat())
        world.batch(A, [Op(Verb.TOUCH, session.index, session.term, 1, seq)])
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.OPEN


@pytest.mark.parametrize("how", ["goodbye", "silence", "told"])
def test_a_gone_client_has_its_sessions_stored(how: str) -> None:
    """Goodbye, a lapsed lease or a sidecar's word: what it owned waits for its repeat."""
    world = World()
    session, other = world.new(A), world.new(B)
    match how:
        case "goodbye":
            world.tell(A, Goodbye())
        case "told":
            world.tell(B, Heartbeat(gone=(A,)))
        case "silence":
            for _ in range(20):
                world.pass_time(1_000)
                world.tell(B, Heartbeat())
    found, kept = world.session(session), world.session(other)
    assert found is not None
    assert kept is not None
    assert found.state == SessionState.STORED
    assert kept.state == SessionState.OPEN


def test_a_dead_client_loses_what_is_applied_later_too() -> None:
    """A death is a fact about the incarnation: a New that was still on its way is stored as well."""
    world = World()
    world.tell(A, Goodbye())
    session = world.new(A)
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.STORED


def test_a_client_that_was_only_silent_owns_its_new_sessions_again() -> None:
    """Heard again, by itself or through any sidecar, it is no longer dead: what it makes from then on stays its own."""
    world = World()
    world.tell(B, Heartbeat(gone=(A,)))
    world.tell(B, Heartbeat(alive=(A,)))
    session = world.new(A)
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.OPEN


def test_a_gone_client_with_many_sessions_is_taken_in_slices() -> None:
    """'Owner gone' goes in bounded slices, and all of them arrive."""
    world = World()
    for start in range(0, 3_000, 1_000):
        world.batch(A, [Op(Verb.NEW, start + i + 1, argument=1) for i in range(1_000)])
    world.tell(A, Goodbye())
    assert {s.state for s in world.state.sessions.all()} == {SessionState.STORED}
    assert world.state.sessions.live() == 3_000


def test_after_a_restart_everything_is_there_and_owners_get_a_full_lease() -> None:
    """State is what the log says; no lease ends before one full lease after the opening."""
    world = World()
    session = world.new(A, b"record")
    stored = world.new(A)
    world.batch(A, [Op(Verb.STORE, stored.index, stored.term, 1, 1, argument=60_000)])
    before = world.state.sessions.dump()
    again = World(log=world.log.restarted(), wall_ms=WALL_MS + 5_000)
    assert again.state.sessions.dump() == before
    assert again.state.term == 2
    for _ in range(limits.LEASE_MS // 1_000 - 1):
        again.pass_time(1_000)
    found = again.session(session)
    assert found is not None
    assert found.state == SessionState.OPEN
    for _ in range(3):
        again.pass_time(1_000)
    assert found.state == SessionState.STORED


def test_due_times_count_the_downtime_and_limits_get_half() -> None:
    """STORED counts the downtime; idle limits that ran out while the pipe was down get half of their length."""
    world = World()
    session = world.new(A)
    stored = world.new(A)
    world.batch(A, [Op(Verb.STORE, stored.index, stored.term, 1, 1, argument=60_000)])
    again = World(log=world.log.restarted(), wall_ms=WALL_MS + 3_600_000)
    assert again.pipe.due.ready(1) == 1
    found = again.session(session)
    assert found is not None
    for _ in range(14):
        again.pass_time(10_000)
        again.tell(A, Heartbeat())
    assert found.state == SessionState.OPEN
    again.pass_time(10_100)
    assert found.state == SessionState.STORED


def test_a_leap_of_the_clock_holds_dispatches() -> None:
    """A wall clock a month ahead is not taken: the pipe serves, dispatches nothing and says CLOCK."""
    world = World()
    world.new(A)
    again = World(log=world.log.restarted(), wall_ms=WALL_MS + 30 * 86_400_000)
    assert again.pipe.due.clock_held
    assert again.log_ms < WALL_MS + 86_400_000
    again.new(B)


def test_log_time_never_goes_back() -> None:
    """A wall clock in the past leaves log time where it was."""
    world = World()
    world.new(A)
    log_ms = world.log_ms
    again = World(log=world.log.restarted(), wall_ms=WALL_MS - 86_400_000)
    assert again.log_ms >= log_ms


def test_a_client_that_never_moves_its_mark_is_told_busy() -> None:
    """Outcomes are bounded per client: beyond it a batch with New is answered BUSY and not logged."""
    world = World()
    rounds = limits.CLIENT_OUTCOMES_MAX // 1_024
    for start in range(rounds):
        world.batch(A, [Op(Verb.NEW, start * 1_024 + i + 1, argument=9) for i in range(1_024)])
    ack = world.batch(A, [Op(Verb.NEW, 10**6, argument=1)])
    assert ack.code == Code.BUSY
    assert ack.retry_after_ms > 0
    assert world.state.sessions.live() == 0
    moved = world.batch(A, [Op(Verb.NEW, 10**6, argument=1)], mark=10**6)
    assert moved.code == Code.OK
    assert world.state.requests.kept == 1


def test_a_heartbeat_is_answered_with_log_time() -> None:
    """Clients learn log time from pongs."""
    world = World()
    [pong] = world.tell(A, Heartbeat())
    assert pong == Pong(world.log_ms, 1)


def test_store_by_policy_takes_the_kinds_delay_and_jitter_is_drawn_from_the_id() -> None:
    """Leaving a block undecided stores by the kind's delay; equal ids draw equal jitter."""
    kind = KindPolicy(1, "user-create", ("users",), delay_ms=500, jitter_ms=1_000)
    dues = []
    for _ in range(2):
        world = World(policy=policy_of([kind]))
        session = world.new(A)
        world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 1, argument=U64_MAX)])
        found = world.session(session)
        assert found is not None
        dues.append(found.due_ms - world.log_ms)
    assert dues[0] == dues[1]
    assert 500 <= dues[0] <= 1_500


def test_the_deadline_is_when_something_is_due() -> None:
    """The driver sleeps until then, and not longer."""
    world = World()
    session = world.new(A)
    world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 1, argument=300)])
    assert 0 < world.pipe.deadline(world.now_ms) - world.now_ms <= 305
    assert isinstance(world.batch(A, [Op(Verb.TOUCH, session.index, session.term, 1, 2)]), Ack)
