"""Pushing without sockets: dials, hello, credit, what is pushed again and what is stopped."""

from __future__ import annotations

from mpy6a import limits
from mpy6a.errors import Code
from mpy6a.messages import (
    AnyMessage,
    Error,
    Greeting,
    KindCredit,
    MessageType,
    Push,
    RepeatPart,
    SidecarHello,
    Stop,
)
from mpy6a.model import U64_MAX, Op, SessionId, SessionState, Verb
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.why import why
from tests.fakes.core import KIND, World

A, S, T = b"A" * 16, b"S" * 16, b"T" * 16


def stored(world: World, record: bytes = b"intention", after_ms: int = 0) -> SessionId:
    session = world.new(A, record)
    world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 1, argument=after_ms)])
    return session


def pushes(world: World) -> list[RepeatPart]:
    return [part for _, message in world.pushed if isinstance(message, Push) for part in message.sessions]


def of_type(world: World, kind: type[AnyMessage]) -> list[AnyMessage]:
    return [message for _, message in world.pushed if isinstance(message, kind)]


def test_a_due_session_is_pushed_with_its_records_fence_and_epoch() -> None:
    """RepeatData carries what the handler needs; the dispatch is durable before the push."""
    world = World()
    world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    [part] = pushes(world)
    assert (part.term, part.index, part.epoch, part.kind) == (session.term, session.index, 2, 1)
    assert part.records == (b"intention",)
    assert part.fence == session.term << 32 | 2
    assert part.number == 1
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.REPEATING


def test_nothing_is_pushed_before_the_hello() -> None:
    """A dial that was only greeted gets no push, whatever is due."""
    world = World()
    stored(world)
    world.pusher.probed(S, world.now_ms)
    world.pass_time(10)
    assert pushes(world) == []
    assert len(of_type(world, Greeting)) == 1


def test_a_hello_of_an_older_dial_is_not_taken() -> None:
    """Only the hello of the dial that stands is reconciled."""
    world = World()
    world.pusher.probed(S, world.now_ms)
    world.work()
    [greeting] = of_type(world, Greeting)
    assert isinstance(greeting, Greeting)
    world.pusher.probed(S, world.now_ms)
    stored(world)
    hello = SidecarHello(greeting.dial, 1, "users", (), (KindCredit(1, 8, 1 << 30),))
    [error] = world.tell(S, hello)
    assert isinstance(error, Error)
    assert (error.code, error.type, error.number) == (Code.BAD_REQUEST, MessageType.SIDECAR_HELLO, greeting.dial)
    assert pushes(world) == []
    assert world.pipe.dropped["old_dial"] == 1


def test_a_hello_for_a_dial_that_is_none_is_told_so_and_greeted_anew() -> None:
    """Somebody greeted the sidecar in the pipe's name: it forgets that, and answers the pipe's next greeting."""
    world = World()
    dial = world.sidecar(S)
    for wrong in ((1 << 64) - 1, dial - 1):
        before = len(of_type(world, Greeting))
        for _ in range(2):  # the second finds the greeting on its way
            [error] = world.tell(S, SidecarHello(wrong, 1, "users", (), (KindCredit(1, 8, 1 << 30),)))
            assert isinstance(error, Error)
            assert (error.code, error.type, error.number) == (Code.BAD_REQUEST, MessageType.SIDECAR_HELLO, wrong)
        [greeting] = of_type(world, Greeting)[before:]
        assert isinstance(greeting, Greeting)
        assert greeting.dial > dial
        dial = greeting.dial
        assert world.tell(S, SidecarHello(dial, 1, "users", (), (KindCredit(1, 8, 1 << 30),))) == []
    stored(world)
    assert len(pushes(world)) == 1


def test_a_sidecar_the_config_does_not_name_is_refused() -> None:
    """A stranger's hello gets an error that names the known sidecars, and no push."""
    world = World()
    world.pusher.probed(S, world.now_ms)
    world.work()
    stored(world)
    [error] = world.tell(S, SidecarHello(1, 1, "strange", (), (KindCredit(1, 8, 1 << 30),)))
    assert isinstance(error, Error)
    assert error.code == Code.DENIED
    assert "users" in error.message
    assert pushes(world) == []


def test_credit_bounds_what_is_pushed_and_more_credit_lets_more_through() -> None:
    """Pushes go against a total that the sidecar granted in this dial."""
    world = World()
    dial = world.sidecar(S, sessions=2)
    for _ in range(5):
        stored(world)
    world.pass_time(10)
    assert len(pushes(world)) == 2
    world.accept(S, dial, 2, sessions=3)
    assert len(pushes(world)) == 3
    assert [part.number for part in pushes(world)] == [1, 2, 3]


def test_a_lower_total_takes_credit_back() -> None:
    """A sidecar that drains grants no more than it has used, and gets no more."""
    world = World()
    dial = world.sidecar(S, sessions=8)
    stored(world)
    world.pass_time(10)
    world.accept(S, dial, 1, sessions=1)
    stored(world)
    world.pass_time(10)
    assert len(pushes(world)) == 1


def test_order_of_dispatch_is_due_time_then_place_in_the_log() -> None:
    """`due_ms`, then `stored_index`."""
    world = World()
    late, first, second = stored(world, after_ms=2_000), stored(world, after_ms=1_000), stored(world, after_ms=1_000)
    world.pass_time(5_000)
    world.sidecar(S)
    due = {s: found.due_ms for s in (late, first, second) if (found := world.session(s)) is not None}
    assert len(due) == 3
    assert [part.index for part in pushes(world)][-1] == late.index
    assert {part.index for part in pushes(world)[:2]} == {first.index, second.index}


def test_a_session_that_the_sidecar_does_not_list_is_pushed_again_in_the_same_epoch() -> None:
    """After a lost push the next dial's hello shows that it did not arrive."""
    world = World()
    world.sidecar(S)
    stored(world)
    world.pass_time(10)
    world.sidecar(S)
    [first, second] = pushes(world)
    assert (first.index, first.epoch) == (second.index, second.epoch)
    assert second.number == 1


def test_a_session_that_the_sidecar_lists_and_holds_no_longer_is_stopped() -> None:
    """Listed and no longer its epoch's: the handler is stopped."""
    world = World()
    world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    held = world.session(session)
    assert held is not None
    world.batch(S, [Op(Verb.FAIL, session.index, session.term, 2, record=b"boom")])
    assert held.state == SessionState.STORED
    world.sidecar(S, held=[])
    from mpy6a.messages import SessionEpoch

    world.pusher.probed(S, world.now_ms)
    world.work()
    greeting = of_type(world, Greeting)[-1]
    assert isinstance(greeting, Greeting)
    world.tell(S, SidecarHello(greeting.dial, 1, "users", (SessionEpoch(session.term, session.index, 2),), ()))
    stop = of_type(world, Stop)[-1]
    assert isinstance(stop, Stop)
    assert stop.sessions == (SessionEpoch(session.term, session.index, 2),)


def test_a_fail_is_charged_and_repeated_by_back_off() -> None:
    """fail → STORED, charged, due within the back-off; then dispatched in the next epoch."""
    world = World()
    dial = world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    ack = world.batch(S, [Op(Verb.FAIL, session.index, session.term, 2, record=b"ValueError: no")])
    assert ack.results == ()
    found = world.session(session)
    assert found is not None
    assert found.delivery is not None
    assert found.delivery.charges == 1
    assert found.delivery.attempts[-1].message == "ValueError: no"
    world.accept(S, dial, 1)
    world.pass_time(KIND.backoff_base_ms + 10)
    assert [part.epoch for part in pushes(world)] == [2, 3]


def test_a_second_ending_of_an_epoch_is_told_ended() -> None:
    """The first applied wins, a copy is answered ENDED."""
    world = World()
    world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    op = Op(Verb.RELEASE, session.index, session.term, 2, argument=60_000, record=b"drain")
    assert world.batch(S, [op]).results == ()
    assert [r.code for r in world.batch(S, [op]).results] == [Code.ENDED]


def test_a_lost_sidecar_gives_its_sessions_back_uncharged_and_at_once() -> None:
    """A sidecar silent for a lease: released, due now, and pushed to the next incarnation."""
    world = World()
    world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    for _ in range(limits.LEASE_MS // 1_000 + 2):
        world.pass_time(1_000)
    found = world.session(session)
    assert found is not None
    assert found.state == SessionState.STORED
    assert found.delivery is not None
    assert (found.delivery.charges, found.delivery.releases) == (0, 1)
    world.sidecar(T)
    assert [part.epoch for part in pushes(world)][-1] == 3


def test_a_new_incarnation_under_the_same_name_replaces_the_old_one_at_once() -> None:
    """A restarted sidecar need not wait for its predecessor's lease."""
    world = World()
    world.sidecar(S)
    stored(world)
    world.pass_time(10)
    world.sidecar(T)
    world.pass_time(10)
    sent = [(to, part.epoch) for to, m in world.pushed if isinstance(m, Push) for part in m.sessions]
    assert sent == [(S, 2), (T, 3)]


def test_a_sidecar_that_died_with_the_pipe_is_replaced_by_its_next_hello() -> None:
    """Which name an incarnation held under is in the log: after both died, nobody waits for a lease."""
    world = World()
    world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    again = World(log=world.log.restarted())
    again.sidecar(T)
    again.pass_time(10)
    found = again.session(session)
    assert found is not None
    assert (found.epoch, found.delivery and found.delivery.target) == (3, T)


def test_a_dial_without_accepted_in_time_is_greeted_anew() -> None:
    """Accepted comes at once; without it in time the pipe dials anew."""
    world = World()
    world.sidecar(S)
    stored(world)
    world.pass_time(10)
    world.heartbeat(S)
    world.pass_time(limits.ACCEPT_TIMEOUT_MS + 10)
    greetings = of_type(world, Greeting)
    assert len(greetings) == 2
    assert world.pipe.dropped["dial_timeout"] == 1


def test_a_long_session_travels_in_parts() -> None:
    """RepeatData of 3 MiB fits no push message whole: parts, all with one number, every record once."""
    world = World()
    world.sidecar(S)
    session = world.new(A)
    record = bytes(900 * 1024)
    for seq in range(1, 5):
        world.batch(A, [Op(Verb.APPEND, session.index, session.term, 1, seq, record=record)])
    world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 5)])
    world.pass_time(10)
    parts = pushes(world)
    assert [(part.part, part.parts, part.number) for part in parts] == [(i, 4, 1) for i in range(4)]
    assert [len(r) for part in parts for r in part.records] == [len(record)] * 4


def test_kinds_take_turns() -> None:
    """After an outage one kind with many sessions does not hold up another."""
    policy = policy_of([KIND, KindPolicy(2, "other", ("users",))])
    world = World(policy=policy)
    for _ in range(10):
        stored(world)
    other = world.new(A, b"other", kind=2)
    world.batch(A, [Op(Verb.STORE, other.index, other.term, 1, 1)])
    world.pass_time(2_000)
    world.pusher.probed(S, world.now_ms)
    world.work()
    world.tell(S, SidecarHello(1, 1, "users", (), (KindCredit(1, 4, 1 << 30), KindCredit(2, 4, 1 << 30))))
    assert {part.kind for part in pushes(world)} == {1, 2}


def test_a_silent_handler_fails_at_the_silence_limit_and_its_sidecar_is_told_to_stop() -> None:
    """REPEATING without an operation for `silence`: charged; the target hears STOP."""
    world = World()
    dial = world.sidecar(S)
    session = stored(world)
    world.pass_time(10)
    world.accept(S, dial, 1)
    for _ in range(KIND.silence_ms // 10_000 + 1):
        world.pass_time(10_000)
        world.heartbeat(S, alive=[A])
    found = world.session(session)
    assert found is not None
    assert found.delivery is not None
    assert found.delivery.charges == 1
    assert len(of_type(world, Stop)) == 1


def test_why_names_exactly_one_reason() -> None:
    """TIMER, NO_SIDECAR, NO_CREDIT, REPEATING_AT, OPEN_BY: computed, so it goes when its cause goes."""
    world = World()
    session = world.new(A)
    found = world.session(session)
    assert found is not None

    def reason() -> str:
        assert found is not None
        return why(world.pipe, world.pusher, found, world.log_ms)[0]

    assert reason() == "OPEN_BY"
    world.batch(A, [Op(Verb.STORE, session.index, session.term, 1, 1, argument=U64_MAX)])
    assert reason() == "TIMER"
    world.pass_time(600)
    assert reason() == "NO_SIDECAR"
    dial = world.sidecar(S, sessions=0)
    assert reason() == "NO_CREDIT"
    world.accept(S, dial, 0, sessions=1)
    assert reason() == "REPEATING_AT"
    world.batch(S, [Op(Verb.PARK, session.index, session.term, 2, record=b"look at it")])
    assert why(world.pipe, world.pusher, found, world.log_ms) == ("PARKED", "look at it")
