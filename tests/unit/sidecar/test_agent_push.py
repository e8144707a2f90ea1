"""Pushes at the sidecar: old dials, other targets, repeated numbers and epochs cost nothing; credit is a
total."""

from __future__ import annotations

import pytest

from mpy6a import limits
from mpy6a.errors import Code
from mpy6a.messages import (
    Accepted,
    Ack,
    Batch,
    Ending,
    Error,
    Goodbye,
    Greeting,
    Heartbeat,
    KindCredit,
    MessageType,
    Outcomes,
    Push,
    SessionEpoch,
    SidecarHello,
    Stop,
)
from mpy6a.model import BY_POLICY, AttemptOutcome, Result, SessionId, Verb, fence
from sidecar.values import RunKey
from tests.unit.sidecar.desk import ANN, ATTACHED, BOB, HTTP, KINDS, OWN, PIPE, PYTHON, Desk, part, welcome


def credit_of(said: SidecarHello | Accepted, kind: int) -> tuple[int, int]:
    return next((one.sessions, one.bytes) for one in said.credit if one.kind == kind)


def last_credit(desk: Desk, kind: int) -> int:
    said = desk.to_pipe(Accepted)[-1]
    assert isinstance(said, Accepted)
    return credit_of(said, kind)[0]


def pushed(desk: Desk, who: bytes) -> list[tuple[int, int]]:
    """(index, epoch) of what the service was handed by the last flush."""
    pushes = [one for one in desk.to_service(who, Push) if isinstance(one, Push)]
    return [(one.index, one.epoch) for push in pushes for one in push.sessions]


def endings(desk: Desk) -> list[tuple[int, int, int, int]]:
    """(verb, index, epoch, argument) of the endings that the last flush sent."""
    batches = [one for one in desk.to_pipe(Batch) if isinstance(one, Batch)]
    return [(op.verb, op.index, op.epoch, op.argument) for batch in batches for op in batch.ops]


def test_a_greeting_is_answered_by_a_hello_over_the_own_connection() -> None:
    """The hello names sidecar, term and dial, and grants credit for handlers that are there: http, no
    service yet."""
    desk = Desk().dialed()
    (hello,) = desk.to_pipe(SidecarHello)
    assert isinstance(hello, SidecarHello)
    assert (hello.dial, hello.term, hello.name, hello.held) == (1, 5, "users", ())
    assert credit_of(hello, HTTP)[0] == 3
    assert credit_of(hello, ATTACHED)[0] == credit_of(hello, PYTHON)[0] == 0


def test_a_greeting_before_the_pipe_is_heard_waits_for_the_connection_to_it() -> None:
    desk = Desk()
    desk.dial(Greeting(1, 5, 15_000, 0, "users"))
    desk.tick()
    assert desk.to_pipe(SidecarHello) == []
    desk.pipe(welcome())
    desk.flush()
    assert len(desk.to_pipe(SidecarHello)) == 1


def test_a_pipe_that_meant_another_sidecar_is_told_and_not_served() -> None:
    desk = Desk().heard()
    desk.dial(Greeting(1, 5, 15_000, 0, "search"))
    desk.push(part(10, 1))
    desk.flush()
    assert desk.to_pipe(SidecarHello) == []
    (error,) = desk.to_pipe(Error)
    assert isinstance(error, Error)
    assert "users" in error.message
    assert "search" in error.message
    assert desk.agent.counts["dial_wrong_name"] == 1
    assert desk.agent.counts["push_old_dial"] == 1


@pytest.mark.parametrize("older", [(1, 5), (9, 4), (2, 5)])
def test_pushes_of_an_older_dial_are_dropped(older: tuple[int, int]) -> None:
    """From the newest greeting on; an older or the same greeting does not take over."""
    desk = Desk().serving().dialed(1).dialed(2).dialed(3)
    dial, term = older
    desk.dial(Greeting(dial, term, 15_000, 0, "users"))
    desk.push(part(10, 1), dial=dial, term=term)
    desk.flush()
    assert pushed(desk, ANN) == []
    assert desk.to_pipe(SidecarHello) == []
    assert desk.agent.counts["push_old_dial"] == 1
    assert desk.agent.counts["dial_old_greeting"] == 1
    desk.push(part(10, 1), dial=3)
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2)]


def test_nothing_is_taken_on_a_dial_before_its_hello_went_out() -> None:
    desk = Desk().serving().heard()
    desk.dial(Greeting(1, 5, 15_000, 0, "users"))
    desk.push(part(10, 1))
    desk.flush()
    assert pushed(desk, ANN) == []
    assert desk.agent.counts["push_old_dial"] == 1


def test_pushes_for_another_incarnation_are_dropped() -> None:
    """What was meant for the process before this one is not run here."""
    desk = Desk().serving().dialed()
    desk.push(part(10, 1), target=bytes([3] * 16))
    desk.flush()
    assert pushed(desk, ANN) == []
    assert desk.agent.counts["push_other_target"] == 1


def test_a_push_number_is_taken_once_and_in_order() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1), part(10, 1), part(11, 1), part(13, 3), part(12, 2))
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2), (12, 2)]
    assert desk.agent.counts["push_again"] == 2
    assert desk.agent.counts["push_gap"] == 1
    accepted = desk.to_pipe(Accepted)[-1]
    assert isinstance(accepted, Accepted)
    assert accepted.through == 2


def test_an_epoch_is_handed_to_one_handler_once() -> None:
    """Not in a later dial, not after its run ended, not an older epoch; a newer one is."""
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.dialed(2)
    desk.push(part(10, 1), dial=2)
    desk.flush()
    assert pushed(desk, ANN) == []
    desk.service(ANN, Outcomes((Ending(5, 10, 2, AttemptOutcome.DECIDED),)), pipe=1)
    desk.push(part(10, 2), part(10, 3, epoch=1), dial=2)
    desk.flush()
    assert pushed(desk, ANN) == []
    assert desk.agent.counts["run_again"] == 3
    desk.push(part(10, 4, epoch=3), dial=2)
    desk.flush()
    assert pushed(desk, ANN) == [(10, 3)]


def test_a_restored_pipe_has_its_sessions_run_though_their_epochs_come_again() -> None:
    """In the term of the restore their fences are higher. What it believes to be at work here since before is
    released, so that it is dispatched anew at once."""
    desk = Desk().serving().dialed()
    for epoch in (2, 3, 4):
        desk.push(part(10, epoch - 1, epoch=epoch))
        desk.flush()
        assert pushed(desk, ANN) == [(10, epoch)]
        desk.service(ANN, Outcomes((Ending(5, 10, epoch, AttemptOutcome.DECIDED),)), pipe=1)
    desk.dialed(2)
    desk.push(part(10, 1, epoch=3), dial=2)
    desk.flush()
    assert pushed(desk, ANN) == []
    assert endings(desk) == [(Verb.RELEASE, 10, 3, BY_POLICY)]
    desk.push(part(10, 2, epoch=4, fence=fence(1_000_000, 4)), dial=2)
    desk.flush()
    assert pushed(desk, ANN) == [(10, 4)]


def test_parts_are_handed_over_whole() -> None:
    """Nothing before the last part; parts out of order are dropped."""
    desk = Desk().serving().dialed()
    parts = [part(10, 1, part=n, parts=3, records=(b"%d" % n,)) for n in range(3)]
    desk.push(parts[0])
    desk.push(parts[0], parts[1])
    desk.flush()
    assert pushed(desk, ANN) == []
    desk.push(parts[2])
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2)] * 3
    desk.push(part(11, 2, part=1, parts=2))
    desk.flush()
    assert pushed(desk, ANN) == []
    assert desk.agent.counts["push_gap"] == 1


def test_an_http_run_gets_all_parts_in_one() -> None:
    desk = Desk().dialed()
    desk.push(*(part(10, 1, HTTP, part=n, parts=2, records=(b"%d" % n,)) for n in range(2)))
    (start,) = [one for one in desk.flush() if type(one).__name__ == "StartRun"]
    assert start.repeat.records == (b"0", b"1")  # type: ignore[union-attr]  # a StartRun
    assert start.repeat.parts == 1  # type: ignore[union-attr]  # a StartRun


def test_a_session_over_the_limits_is_dropped() -> None:
    desk = Desk().serving().dialed()
    records = (bytes(1 << 20),)
    for number in range(17):
        desk.push(part(10, 1, part=number, parts=17, records=records))
    desk.flush()
    assert pushed(desk, ANN) == []
    assert desk.agent.counts["push_too_large"] == 1


def test_the_hello_lists_what_runs_and_what_has_an_unanswered_outcome() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1), part(11, 2), part(12, 3))
    desk.flush()
    ended = Ending(5, 11, 2, AttemptOutcome.FAIL, 0, "boom"), Ending(5, 12, 2, AttemptOutcome.DECIDED)
    desk.service(ANN, Outcomes(ended), pipe=1)
    desk.flush()
    desk.dialed(2)
    (hello,) = desk.to_pipe(SidecarHello)
    assert isinstance(hello, SidecarHello)
    assert hello.held == (SessionEpoch(5, 10, 2), SessionEpoch(5, 11, 2))


def test_credit_is_a_total_of_what_was_taken_and_the_room_left() -> None:
    """It grows as runs end, and starts again with each dial, where what is still held takes its place."""
    desk = Desk().serving(concurrency=2).dialed()
    assert credit_of(desk.to_pipe(SidecarHello)[0], ATTACHED)[0] == 2  # type: ignore[arg-type]  # a SidecarHello
    desk.push(part(10, 1), part(11, 2))
    desk.flush()
    assert last_credit(desk, ATTACHED) == 2
    desk.service(ANN, Outcomes((Ending(5, 10, 2, AttemptOutcome.DECIDED),)), pipe=1)
    desk.flush()
    assert last_credit(desk, ATTACHED) == 3
    desk.dialed(2)
    assert credit_of(desk.to_pipe(SidecarHello)[0], ATTACHED)[0] == 1  # type: ignore[arg-type]  # a SidecarHello


def test_credit_comes_back_with_the_answer_to_an_ending() -> None:
    desk = Desk().serving(concurrency=2).dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.service(ANN, Outcomes((Ending(5, 10, 2, AttemptOutcome.FAIL),)), pipe=1)
    desk.flush()
    assert endings(desk) == [(Verb.FAIL, 10, 2, 0)]
    assert desk.agent.handing.held == 1
    desk.pipe(Ack(1, 100))
    desk.flush()
    assert last_credit(desk, ATTACHED) == 3
    assert desk.agent.drained


@pytest.mark.parametrize("code", [Code.OK, Code.ENDED, Code.FENCED, Code.GONE])
def test_any_verdict_settles_an_ending(code: Code) -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.service(ANN, Outcomes((Ending(5, 10, 2, AttemptOutcome.PARK, 0, "why"),)), pipe=1)
    desk.flush()
    desk.pipe(Ack(1, 100, results=(Result(0, code),) if code else ()))
    desk.flush()
    assert desk.agent.drained


def test_an_ending_is_resent_until_it_is_answered() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.service(ANN, Outcomes((Ending(5, 10, 2, AttemptOutcome.FAIL),)), pipe=1)
    desk.flush()
    first = [message.body for message in desk.packed_to_pipe() if message.type == MessageType.BATCH]
    seen = 0
    while seen < 3:
        desk.tick(max(0, desk.agent.deadline() - desk.now_ms))
        again = [message.body for message in desk.packed_to_pipe() if message.type == MessageType.BATCH]
        assert again in ([], first)
        seen += len(again)
        desk.service(ANN, Heartbeat())
    assert desk.now_ms < 60_000


def test_credit_is_not_given_for_kinds_of_other_sidecars_or_unhealthy_handlers() -> None:
    desk = Desk().dialed()
    desk.agent.healthy(HTTP, False)
    desk.flush()
    assert last_credit(desk, HTTP) == 0
    desk.agent.healthy(HTTP, True)
    desk.flush()
    assert last_credit(desk, HTTP) == 3


def test_credit_is_divided_among_the_pipes_that_dialed() -> None:
    desk = Desk(links=2)
    desk.tick()
    for link, pipe in ((0, 1), (1, 2)):
        desk.pipe(welcome(pipe), pipe=pipe, link=link)
        desk.dial(Greeting(1, 5, 15_000, 0, "users"), pipe=pipe)
    desk.flush()
    for link in (0, 1):
        (hello,) = desk.to_pipe(SidecarHello, link)
        assert isinstance(hello, SidecarHello)
        assert credit_of(hello, HTTP)[0] == 1


def test_a_run_goes_to_the_least_busy_service() -> None:
    desk = Desk().serving(ANN).serving(BOB).dialed()
    desk.push(*(part(10 + n, 1 + n) for n in range(4)))
    desk.flush()
    assert len(pushed(desk, ANN)) == len(pushed(desk, BOB)) == 2


def test_runs_over_a_services_concurrency_wait_for_it() -> None:
    """A service with one place for two kinds may be pushed one of each."""
    desk = Desk().serving(kinds=(ATTACHED, PYTHON), concurrency=1).dialed()
    desk.push(part(10, 1), part(11, 2, PYTHON))
    desk.flush()
    assert len(pushed(desk, ANN)) == 1
    desk.service(ANN, Outcomes((Ending(5, pushed(desk, ANN)[0][0], 2, AttemptOutcome.DECIDED),)), pipe=1)
    desk.flush()
    assert len(pushed(desk, ANN)) == 1


def test_a_push_waits_a_little_for_its_service() -> None:
    """A service that is started again takes it; without one it is released: not charged, by the back-off."""
    desk = Desk().serving().dialed()
    desk.service(ANN, Goodbye())
    desk.push(part(10, 1))
    desk.flush()
    assert endings(desk) == []
    desk.tick(1_000)
    desk.serving(BOB)
    desk.flush()
    assert pushed(desk, BOB) == [(10, 2)]
    desk.service(BOB, Goodbye())
    desk.flush()
    desk.pipe(Ack(1, 100))
    desk.push(part(11, 2))
    desk.flush()
    assert desk.agent.deadline() <= desk.now_ms + limits.SERVICE_GRACE_MS
    desk.tick(limits.SERVICE_GRACE_MS - 1)
    assert endings(desk) == []
    desk.tick(1)
    assert endings(desk) == [(Verb.RELEASE, 11, 2, BY_POLICY)]


def test_a_push_of_a_kind_that_is_not_run_here_is_released() -> None:
    desk = Desk().dialed()
    desk.push(part(10, 1, kind=99))
    desk.flush()
    assert endings(desk) == [(Verb.RELEASE, 10, 2, BY_POLICY)]


def test_sessions_of_a_service_that_died_fail() -> None:
    """Charged: the death of the handler's process may be the session's doing."""
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.agent.died(ANN[:4], desk.now_ms)
    desk.flush()
    assert endings(desk) == [(Verb.FAIL, 10, 2, 0)]


def test_a_run_over_its_kinds_timeout_is_stopped_and_fails() -> None:
    """`repeat: timeout` bounds one run of any handler; charged, and its process is told to stop."""
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    for _ in range(29):
        desk.tick(1_000)
        desk.service(ANN, Heartbeat())
    assert endings(desk) == []
    desk.tick(1_000 + limits.RUN_CHECK_MS)
    assert endings(desk) == [(Verb.FAIL, 10, 2, 0)]
    assert desk.to_service(ANN, Stop)


def test_sessions_of_a_service_that_says_goodbye_are_released_at_once() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.service(ANN, Goodbye())
    desk.flush()
    assert endings(desk) == [(Verb.RELEASE, 10, 2, 0)]
    assert last_credit(desk, ATTACHED) == 1


def test_sessions_of_a_service_that_fell_silent_fail() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    ended: list[tuple[int, int, int, int]] = []
    while not ended:
        desk.tick(1_000)
        ended = endings(desk)
        assert desk.now_ms < 20_000
    assert ended == [(Verb.FAIL, 10, 2, 0)]
    assert desk.now_ms >= 15_000


def test_outcomes_count_only_from_the_service_that_was_handed_the_run() -> None:
    desk = Desk().serving(ANN).serving(BOB, concurrency=0).dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.service(BOB, Outcomes((Ending(5, 10, 2, AttemptOutcome.FAIL),)), pipe=1)
    desk.flush()
    assert endings(desk) == []
    assert desk.agent.counts["outcome_unknown_run"] == 1


def test_a_push_that_could_not_be_delivered_is_released() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    desk.agent.undelivered([RunKey(SessionId(1, 5, 10), 2)], desk.now_ms)
    desk.flush()
    assert endings(desk) == [(Verb.RELEASE, 10, 2, 0)]


def test_a_stop_ends_runs_and_leaves_outcomes_on_their_way() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1), part(11, 2), part(12, 3, HTTP))
    desk.flush()
    desk.service(ANN, Outcomes((Ending(5, 11, 2, AttemptOutcome.FAIL),)), pipe=1)
    desk.dial(Stop(1, 5, Code.FENCED, tuple(SessionEpoch(5, n, 2) for n in (10, 11, 12, 99))))
    desk.flush()
    (stop,) = desk.to_service(ANN, Stop)
    assert isinstance(stop, Stop)
    assert stop.sessions == (SessionEpoch(5, 10, 2),)
    assert desk.stopped() == [RunKey(SessionId(1, 5, 12), 2)]
    assert endings(desk) == [(Verb.FAIL, 11, 2, 0)]
    assert desk.agent.handing.held == 1


def test_a_stop_of_an_older_dial_stops_nothing() -> None:
    desk = Desk().dialed()
    desk.push(part(12, 1, HTTP))
    desk.flush()
    desk.dialed(2)
    desk.dial(Stop(1, 5, Code.FENCED, (SessionEpoch(5, 12, 2),)))
    desk.flush()
    assert desk.stopped() == []
    assert desk.agent.counts["stop_old_dial"] == 1


def test_an_http_runs_own_operations_are_written_as_this_process() -> None:
    """Delete by the handler's answer goes as an operation of the sidecar's incarnation, with the run's epoch
    and seq."""
    desk = Desk().dialed()
    desk.push(part(12, 1, HTTP))
    desk.flush()
    key = RunKey(SessionId(1, 5, 12), 2)
    assert desk.started() == [key]
    desk.agent.write(key, Verb.APPEND, 1, desk.now_ms, b"step")
    desk.agent.write(key, Verb.DELETE, 2, desk.now_ms)
    desk.flush()
    (message,) = desk.packed_to_pipe()
    assert message.incarnation == OWN
    (batch,) = desk.to_pipe(Batch)
    assert isinstance(batch, Batch)
    assert [(op.verb, op.epoch, op.seq) for op in batch.ops] == [(Verb.APPEND, 2, 1), (Verb.DELETE, 2, 2)]
    desk.pipe(Ack(batch.number, 50))
    desk.flush()
    assert [(one.token, one.error) for one in desk.wrote()] == [(1, None), (2, None)]
    desk.agent.finished(key, desk.now_ms, None)
    desk.flush()
    assert desk.agent.drained
    assert last_credit(desk, HTTP) == 4


def test_drain_stops_the_intake_and_releases_what_waits() -> None:
    """What runs may finish; a push that was on its way is released; services that take runs are told."""
    desk = Desk().serving(concurrency=1, kinds=(ATTACHED, PYTHON)).dialed()
    desk.push(part(10, 1), part(11, 2, PYTHON))
    desk.flush()
    desk.agent.drain(desk.now_ms)
    desk.push(part(12, 3, HTTP))
    desk.flush()
    (error,) = desk.to_service(ANN, Error)
    assert isinstance(error, Error)
    assert error.code == Code.SHUTTING_DOWN
    waited, came = endings(desk)
    assert waited == (Verb.RELEASE, 11 if waited[1] == 11 else 10, 2, 0)
    assert came == (Verb.RELEASE, 12, 2, BY_POLICY)
    assert last_credit(desk, HTTP) == 1
    assert desk.agent.running == 1


def test_after_the_grace_the_rest_is_stopped_and_released() -> None:
    desk = Desk().serving().dialed()
    desk.push(part(10, 1), part(12, 2, HTTP))
    desk.flush()
    desk.agent.drain(desk.now_ms)
    desk.agent.release_rest(desk.now_ms)
    desk.flush()
    assert len(desk.to_service(ANN, Stop)) == 1
    assert len(desk.stopped()) == 1
    assert [one[0] for one in endings(desk)] == [Verb.RELEASE, Verb.RELEASE]
    assert not desk.agent.drained
    desk.pipe(Ack(1, 9))
    assert desk.agent.drained


@pytest.mark.parametrize("payload", [b"", b"garbage", bytes(40), b"\xff" * 400, bytes(48)])
def test_garbage_on_a_dial_is_counted_and_nothing_else(payload: bytes) -> None:
    desk = Desk().serving().dialed()
    before = desk.agent.counts.total()
    desk.agent.from_dial(payload, desk.now_ms)
    desk.flush()
    assert desk.agent.counts.total() <= before + 1
    desk.push(part(10, 1))
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2)]


def test_messages_that_no_pipe_sends_over_a_dial_are_counted() -> None:
    desk = Desk().dialed()
    desk.dial(Goodbye())
    desk.dial(Accepted(1, 5, 3, (KindCredit(1, 1, 1),)))
    assert desk.agent.counts["dial_unexpected"] == 2


def test_the_setup_of_this_desk_is_as_the_tests_say() -> None:
    assert {kind.id for kind in KINDS} == {ATTACHED, HTTP, PYTHON}
    assert PIPE != OWN
