"""The transition table: every (state, event) cell, made to happen through the log and compared with semantics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from mpy6a.entries import Admin, SessionKey
from mpy6a.errors import Code
from mpy6a.limits import ATTEMPTS_KEPT
from mpy6a.model import (
    BY_POLICY,
    AdminVerb,
    AttemptOutcome,
    Extra,
    Op,
    Proposal,
    ProposalVerb,
    SessionId,
    SessionState,
    Verb,
    fence,
)
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.session import GONE, OPEN, PARKED, REPEATING, STORED, TRANSITIONS, Delivery, Event, Session, draw
from mpy6a.sessions import RELEASE_CAP_MS, STORE_CAP_MS, Applied
from tests.fakes.core import KIND, World

A, B, S, T = b"A" * 16, b"B" * 16, b"S" * 16, b"T" * 16
STATES: Final = (OPEN, STORED, REPEATING, PARKED)
REFUSED: Final = -1  # the cell does not exist: nothing changes

# Semantics, "One session", the table of `from | event | to`: what each event leads to from OPEN, STORED, REPEATING
# and PARKED. Written down here once more on purpose: the code's own table is what is tested.
EXPECTED: Final[dict[Event, tuple[int, int, int, int]]] = {
    Event.WRITE: (OPEN, REFUSED, REPEATING, REFUSED),
    Event.DELETE: (GONE, REFUSED, GONE, REFUSED),
    Event.STORE: (STORED, REFUSED, STORED, REFUSED),
    Event.IDLE: (STORED, REFUSED, REFUSED, REFUSED),
    Event.DISPATCH: (REFUSED, REPEATING, REFUSED, REFUSED),
    Event.FAIL: (REFUSED, REFUSED, STORED, REFUSED),
    Event.RELEASE: (REFUSED, REFUSED, STORED, REFUSED),
    Event.PARK: (REFUSED, PARKED, PARKED, REFUSED),  # STORED: a kind that left the routes, with `orphans: park`
    Event.LIMIT: (REFUSED, PARKED, PARKED, REFUSED),
    Event.KICK: (REFUSED, STORED, REFUSED, STORED),
    Event.CANCEL: (STORED, STORED, STORED, REFUSED),
    Event.ADMIN_PARK: (PARKED, PARKED, PARKED, PARKED),
    Event.ADMIN_DELETE: (GONE, GONE, GONE, GONE),
}
WORDS: Final = {
    Event.KICK: AdminVerb.KICK,
    Event.CANCEL: AdminVerb.CANCEL,
    Event.ADMIN_PARK: AdminVerb.PARK,
    Event.ADMIN_DELETE: AdminVerb.DELETE,
}


def live(world: World, id: SessionId) -> Session:
    found = world.session(id)
    assert found is not None
    return found


def say(world: World, verb: AdminVerb, id: SessionId, reason: str = "by hand") -> Applied:
    """An operator's word, committed."""
    done: list[Applied] = []
    key = SessionKey(id.term, id.index)
    world.pipe.say(Admin(verb, who="op", reason=reason, sessions=(key,)), world.now_ms, done.append)
    world.work()
    [applied] = done
    return applied


def propose(world: World, verb: ProposalVerb, id: SessionId, **more: object) -> None:
    """What the pipe itself proposes, on the session as it stands."""
    session = live(world, id)
    known = {"target": session.writer or S, "sidecar": "users"} | more
    world.pipe.propose(
        [Proposal(verb, id.term, id.index, session.epoch, session.change, **known)],  # type: ignore[arg-type]  # named fields
        world.now_ms,
    )
    world.work()


def in_state(state: int, kind: KindPolicy = KIND) -> tuple[World, SessionId]:
    """A world with one session in that state; in REPEATING it is at sidecar S, which takes no more."""
    world = World(policy=policy_of([kind]))
    id = world.new(A, b"first")
    if state in (STORED, REPEATING):
        if state == REPEATING:
            world.sidecar(S, sessions=1)
        after_ms = 0 if state == REPEATING else 60_000
        world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=after_ms)])
        world.pass_time(10)
    if state == PARKED:
        say(world, AdminVerb.PARK, id)
    assert live(world, id).state == state
    return world, id


def write(world: World, id: SessionId, verb: Verb, argument: int = 0) -> None:
    """The next operation of whoever writes, or would write, the session's epoch."""
    session = live(world, id)
    origin = A if session.epoch == 1 else B
    world.batch(origin, [Op(verb, id.index, id.term, session.epoch, session.seq + 1, argument)])


def end(world: World, id: SessionId, verb: Verb) -> None:
    """An ending by the target."""
    argument = 60_000 if verb == Verb.RELEASE else 0
    world.batch(S, [Op(verb, id.index, id.term, live(world, id).epoch, 0, argument, b"why")])


def end_or_propose(world: World, id: SessionId, verb: Verb, proposed: ProposalVerb) -> None:
    """An ending by the target, and where nobody holds the session the same by the pipe itself."""
    held = live(world, id).state == REPEATING
    end(world, id, verb)
    if not held:
        propose(world, proposed, id, due_ms=world.log_ms + 60_000)


def limit(world: World, id: SessionId) -> None:
    """A limit: apply comes to it in a fail only, so the transition is asked for by its name."""
    session = live(world, id)
    if session.state not in TRANSITIONS[Event.LIMIT]:
        with pytest.raises(KeyError):
            world.state.sessions.park(session, Event.LIMIT, session.change + 1, "limit")
        return
    if session.state == REPEATING:
        world.state.sessions.end_epoch(session, AttemptOutcome.FAIL, True, "x", world.log_ms, Code.ENDED, Applied())
    world.state.sessions.park(session, Event.LIMIT, session.change + 1, "limit")


PROVOKE: Final[dict[Event, Callable[[World, SessionId], object]]] = {
    Event.WRITE: lambda world, id: write(world, id, Verb.TOUCH),
    Event.DELETE: lambda world, id: write(world, id, Verb.DELETE),
    Event.STORE: lambda world, id: write(world, id, Verb.STORE, 60_000),
    Event.IDLE: lambda world, id: propose(world, ProposalVerb.OWNER_GONE, id),
    Event.DISPATCH: lambda world, id: propose(world, ProposalVerb.DISPATCH, id, target=T),
    Event.FAIL: lambda world, id: end_or_propose(world, id, Verb.FAIL, ProposalVerb.FAIL),
    Event.RELEASE: lambda world, id: end_or_propose(world, id, Verb.RELEASE, ProposalVerb.RELEASE),
    Event.PARK: lambda world, id: end_or_propose(world, id, Verb.PARK, ProposalVerb.PARK),
    Event.LIMIT: limit,
    **{event: lambda world, id, verb=verb: say(world, verb, id) for event, verb in WORDS.items()},  # type: ignore[misc]  # bound early
}


def test_the_table_is_that_of_semantics() -> None:
    """Every event, every state, and nothing else."""
    table = {
        event: tuple(TRANSITIONS[event].get(state, REFUSED) for state in STATES) for event in TRANSITIONS
    }
    assert table == EXPECTED
    assert set(TRANSITIONS) == set(Event) == set(PROVOKE)


@pytest.mark.parametrize("state", STATES, ids=lambda state: SessionState(state).name)
@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_each_cell(event: Event, state: int) -> None:
    """An event leads where the table says; where it says nothing, nothing of the session changes."""
    world, id = in_state(state)
    expected = EXPECTED[event][state - 1]
    before = world.state.sessions.dump()["sessions"]
    PROVOKE[event](world, id)
    session = world.session(id)
    if expected == REFUSED:
        assert world.state.sessions.dump()["sessions"] == before
    elif expected == GONE:
        assert session is None
    else:
        assert session is not None
        assert session.state == expected
    counts = {count & 7: live for count, live in world.state.sessions.counts.items() if live}
    assert counts == ({} if session is None else {session.state: 1})


@pytest.mark.parametrize("state", STATES, ids=lambda state: SessionState(state).name)
def test_every_live_session_has_exactly_one_due_time(state: int) -> None:
    """OPEN: idle limit; STORED: due; REPEATING: silence limit; PARKED: none. STORED and PARKED have no writer."""
    world, id = in_state(state)
    session = live(world, id)
    wanted = {OPEN: KIND.idle_ms, STORED: 60_000, REPEATING: KIND.silence_ms, PARKED: 0}[state]
    assert session.due_ms == (session.due_ms and session.created_ms + wanted)
    assert bool(session.due_ms) == (state != PARKED)
    assert bool(session.writer) == (state == OPEN)


def test_a_dispatch_begins_an_epoch_with_a_higher_fence_and_no_writer() -> None:
    """STORED, due: epoch + 1, repeats + 1, the fence of the leader's term; the first that writes is its writer."""
    world, id = in_state(REPEATING)
    session = live(world, id)
    delivery = session.delivery
    assert delivery is not None
    assert (session.epoch, session.seq, session.writer, delivery.repeats) == (2, 0, b"", 1)
    assert session.fence == fence(world.state.term, 2) > fence(id.term, 1)
    assert (delivery.target, delivery.sidecar) == (S, "users")
    write(world, id, Verb.TOUCH)
    assert session.writer == B


def test_store_is_due_after_its_timeout_and_is_not_charged() -> None:
    """Store(timeout): due = log time + timeout, the kind's delay where the client left it open, ten years at most."""
    for argument, due in ((7_000, 7_000), (BY_POLICY, KIND.delay_ms), (BY_POLICY - 1, STORE_CAP_MS)):
        world, id = in_state(OPEN)
        write(world, id, Verb.STORE, argument)
        session = live(world, id)
        assert session.due_ms == world.log_ms + due
        assert session.delivery is None  # what was never repeated has no history of it


def test_a_fail_is_charged_and_due_by_back_off_with_full_jitter() -> None:
    """A random time up to base, doubled with each charge up to the cap; drawn from (id, epoch), so replay agrees."""
    world, id = in_state(REPEATING)
    for charges in range(1, 8):
        end(world, id, Verb.FAIL)
        session = live(world, id)
        delivery = session.delivery
        assert delivery is not None
        most = min(KIND.backoff_base_ms << (charges - 1), KIND.backoff_cap_ms)
        assert delivery.charges == delivery.barren == charges
        wait_ms = session.due_ms - world.log_ms
        assert wait_ms == draw(id.term, session.epoch, id.index, most)
        assert 0 <= wait_ms <= most
        propose(world, ProposalVerb.DISPATCH, id, target=S)


def test_records_make_a_repeat_fruitful_and_any_operation_ends_a_row_of_releases() -> None:
    """`barren`: charged repeats in a row that added no record. `releases`: in a row; 0 at any accepted operation."""
    world, id = in_state(REPEATING)
    end(world, id, Verb.FAIL)
    propose(world, ProposalVerb.DISPATCH, id, target=S)
    end(world, id, Verb.RELEASE)
    delivery = live(world, id).delivery
    assert delivery is not None
    assert (delivery.charges, delivery.barren, delivery.releases) == (1, 1, 1)
    propose(world, ProposalVerb.DISPATCH, id, target=S)
    world.batch(B, [Op(Verb.APPEND, id.index, id.term, live(world, id).epoch, 1, record=b"more")])
    assert delivery.releases == 0
    end(world, id, Verb.FAIL)
    assert (delivery.charges, delivery.barren) == (2, 0)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (KindPolicy(1, "user-create", ("users",), charge_limit=2), "CHARGE_LIMIT"),
        (KindPolicy(1, "user-create", ("users",), barren_limit=2), "BARREN_LIMIT"),
    ],
)
def test_a_limit_of_charges_parks_with_its_reason(kind: KindPolicy, word: str) -> None:
    """STORED, REPEATING: charge_limit or barren_limit reached -> PARKED; a kick forgets both."""
    world, id = in_state(REPEATING, kind)
    end(world, id, Verb.FAIL)
    propose(world, ProposalVerb.DISPATCH, id, target=S)
    end(world, id, Verb.FAIL)
    session = live(world, id)
    delivery = session.delivery
    assert delivery is not None
    assert session.state == PARKED
    assert word in delivery.park_reason
    say(world, AdminVerb.KICK, id)
    assert (session.state, session.due_ms) == (STORED, world.log_ms)
    assert (delivery.charges, delivery.barren, delivery.park_reason) == (0, 0, "")


def test_a_release_is_not_charged_and_its_retry_after_is_capped() -> None:
    """Release: due now for 0, else Retry-After up to 10 minutes, or back-off on `releases`."""
    for argument, least, most in ((0, 0, 0), (5_000, 5_000, 5_000), (BY_POLICY - 1, RELEASE_CAP_MS, RELEASE_CAP_MS)):
        world, id = in_state(REPEATING)
        world.batch(S, [Op(Verb.RELEASE, id.index, id.term, 2, 0, argument)])
        session = live(world, id)
        assert least <= session.due_ms - world.log_ms <= most
        assert session.delivery is not None
        assert (session.delivery.charges, session.delivery.releases) == (0, 1)
    world, id = in_state(REPEATING)
    world.batch(S, [Op(Verb.RELEASE, id.index, id.term, 2, 0, BY_POLICY)])
    assert 0 <= live(world, id).due_ms - world.log_ms <= KIND.backoff_base_ms


def test_a_cancel_fences_the_writer_and_tells_the_handler() -> None:
    """OPEN, STORED, REPEATING: STORED, due now, `cancel` set."""
    for state in (OPEN, STORED, REPEATING):
        world, id = in_state(state)
        say(world, AdminVerb.CANCEL, id)
        session = live(world, id)
        assert (session.state, session.due_ms, session.writer) == (STORED, world.log_ms, b"")
        assert session.delivery is not None
        assert session.delivery.cancel
        ack = world.batch(A, [Op(Verb.TOUCH, id.index, id.term, 1, 1 if state == OPEN else 2)])
        assert [result.code for result in ack.results] == [Code.FENCED]


def test_attempts_are_remembered_up_to_a_bound() -> None:
    """The last 16 attempts: who ran it, when, how it ended, why."""
    world, id = in_state(REPEATING, KindPolicy(1, "user-create", ("users",), backoff_base_ms=0))
    for _ in range(ATTEMPTS_KEPT + 3):
        end(world, id, Verb.FAIL)
        propose(world, ProposalVerb.DISPATCH, id, target=S)
    delivery = live(world, id).delivery
    assert delivery is not None
    assert len(delivery.attempts) == ATTEMPTS_KEPT
    last = delivery.attempts[-1]
    assert (last.epoch, last.outcome, last.charged, last.sidecar, last.message) == (
        ATTEMPTS_KEPT + 4,
        AttemptOutcome.FAIL,
        True,
        "users",
        "why",
    )


def test_indexes_of_owners_targets_and_keys_follow_every_transition() -> None:
    """Who writes and who holds what is found without a scan, and nothing is left when the session is gone."""
    world = World()
    sessions = world.state.sessions
    ack = world.batch(A, [Op(Verb.NEW, 1, argument=1)], extras=[Extra(0, key="k")])
    id = SessionId(1, ack.term, ack.first_index)
    assert sessions.owned(A) == [id.index]
    assert sessions.with_key(1, "k") is live(world, id)
    world.sidecar(S, sessions=1)
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=0)])
    world.pass_time(10)
    assert (sessions.owned(A), sessions.writers()) == ([], [])
    assert (sessions.held(S), sessions.targets()) == ([id.index], [S])
    write(world, id, Verb.DELETE)
    assert (sessions.held(S), sessions.targets(), sessions.with_key(1, "k"), sessions.live()) == ([], [], None, 0)
    assert sessions.all() == []


def test_the_fence_of_epoch_one_is_that_of_the_id() -> None:
    """(term of the dispatch, or of the id in epoch 1, << 32 | epoch)."""
    session = Session(7, 100, 1, A, 0, 0)
    assert session.fence == 7 << 32 | 1
    session.delivery = Delivery()
    assert session.fence == 7 << 32 | 1


def test_draws_are_spread_bounded_and_the_same_for_ever() -> None:
    """A number in 0..most that depends on (id, epoch) only: replay on another machine draws it too."""
    drawn = [draw(1, epoch, 4_711, 1_000) for epoch in range(1, 2_001)]
    assert (min(drawn) < 50, max(drawn) > 950, max(drawn) <= 1_000) == (True, True, True)
    assert 400 < sum(drawn) / len(drawn) < 600
    assert draw(1, 1, 1, 0) == 0
    assert [draw(1, 1, index, 1_000_000) for index in (1, 2, 3)] == [88_926, 555_645, 883_458]  # frozen: FORMAT.md
