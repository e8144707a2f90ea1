"""The sidecar towards its service and its pipes: packs without reading, answers for liveness, survives
garbage."""

from __future__ import annotations

import random

import pytest

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.messages import (
    Ack,
    AdminRequest,
    Batch,
    Ending,
    Error,
    Goodbye,
    Heartbeat,
    Hello,
    MessageType,
    Notice,
    Outcomes,
    Pong,
    Role,
    Serve,
    Welcome,
)
from mpy6a.model import NOBODY, AttemptOutcome, Op, Verb
from sidecar.values import SendPipe, SendService
from tests.unit.sidecar.desk import ANN, ATTACHED, BOB, HTTP, OWN, Desk, part, welcome


def batch(number: int = 1, record: bytes = b"x") -> Batch:
    return Batch(number, 1, 0, [Op(Verb.NEW, 1, argument=1, record=record)], [])


def test_a_hello_is_answered_with_kinds_limits_and_pipes_as_last_heard() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello(name="app"))
    desk.flush()
    (answer,) = desk.to_service(ANN)
    assert isinstance(answer, Welcome)
    assert answer.role == Role.SIDECAR
    assert answer.hop[:8] == OWN[:8]
    assert [(pipe.pipe, pipe.term, pipe.live) for pipe in answer.pipes] == [(1, 5, True)]
    assert len(answer.kinds) == 3


def test_a_hello_before_any_pipe_is_heard_is_answered_and_again_when_one_is() -> None:
    """The sidecar waits for nobody, and no client has to ask twice."""
    desk = Desk()
    desk.service(ANN, Hello())
    desk.tick()
    (first,) = desk.to_service(ANN)
    assert isinstance(first, Welcome)
    assert first.pipes == ()
    desk.pipe(welcome())
    desk.flush()
    (again,) = desk.to_service(ANN)
    assert isinstance(again, Welcome)
    assert again.pipes[0].live


def test_clients_hear_when_a_pipe_falls_silent_and_when_it_comes_back_with_a_new_term() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello())
    desk.flush()
    told = desk.to_service(BOB)
    while not told:
        desk.tick(1_000)
        told = desk.to_service(ANN, Welcome)
        desk.service(ANN, Heartbeat())
        assert desk.now_ms < 20_000
    assert isinstance(told[0], Welcome)
    assert not told[0].pipes[0].live
    desk.pipe(welcome(term=6))
    desk.flush()
    (back,) = desk.to_service(ANN, Welcome)
    assert isinstance(back, Welcome)
    assert (back.pipes[0].live, back.pipes[0].term) == (True, 6)


def test_another_protocol_version_is_told_so() -> None:
    desk = Desk()
    desk.service(ANN, Hello(version_low=2, version_high=3))
    desk.flush()
    (error,) = desk.to_service(ANN)
    assert isinstance(error, Error)
    assert error.code == Code.VERSION


def test_waiting_operations_of_many_clients_leave_in_one_envelope() -> None:
    """Bodies as they came, each with its own incarnation; pipe and principal filled in."""
    desk = Desk().heard()
    bodies = [wire.unpack(wire.encode(batch(n), incarnation=ANN))[0].body for n in range(3)]
    for body, who in zip(bodies, (ANN, BOB, ANN), strict=True):
        desk.agent.from_service(who[:4], wire.pack(MessageType.BATCH, body, incarnation=who), 0, principal=1001)
    desk.flush()
    sent = [one for one in desk.effects if isinstance(one, SendPipe)]
    assert len(sent) == 1
    messages = wire.unpack(sent[0].payload)
    assert [(m.incarnation, m.pipe, m.principal) for m in messages] == [(who, 1, 1001) for who in (ANN, BOB, ANN)]
    assert [message.body for message in messages] == bodies


def test_a_body_is_not_looked_into() -> None:
    """What is no batch inside is for the pipe to refuse."""
    desk = Desk().heard()
    desk.agent.from_service(b"c", wire.pack(MessageType.BATCH, b"\xff" * 64, incarnation=ANN), 0)
    desk.flush()
    assert [message.body for message in desk.packed_to_pipe()] == [b"\xff" * 64]


def test_a_client_cannot_choose_its_principal() -> None:
    desk = Desk().heard()
    desk.agent.from_service(b"c", wire.encode(batch(), incarnation=ANN, principal=1), 0, principal=0)
    desk.flush()
    assert [message.principal for message in desk.packed_to_pipe()] == [0]


def test_an_envelope_is_never_over_its_bound() -> None:
    desk = Desk().heard()
    for number in range(7):
        desk.service(bytes([20 + number] * 16), batch(number, bytes(1 << 20)))
    desk.flush()
    sent = [one.payload for one in desk.effects if isinstance(one, SendPipe)]
    assert len(sent) > 1
    assert max(map(len, sent)) <= limits.ENVELOPE_BYTES_MAX
    assert sum(len(wire.unpack(payload)) for payload in sent) == 7


def test_a_pipe_that_is_not_known_is_an_error() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello(), batch())
    desk.service(ANN, batch(), pipe=9)
    desk.flush()
    (error,) = desk.to_service(ANN, Error)
    assert isinstance(error, Error)
    assert (error.code, error.type) == (Code.NO_PIPE, MessageType.BATCH)
    assert len(desk.to_pipe(Batch)) == 1


def test_a_blocked_pipe_queues_up_to_its_bounds_then_busy() -> None:
    """One client cannot fill the queue alone; nothing that was taken is lost or reordered."""
    desk = Desk().heard()
    desk.service(ANN, batch(1))
    (first,) = [one for one in desk.flush() if isinstance(one, SendPipe)]
    desk.agent.unsent(0, first.payload)
    fits = 0
    while not desk.to_service(ANN, Error):
        fits += 1
        desk.service(ANN, batch(1 + fits, bytes(1 << 20)))
        desk.flush()
        assert fits < 100
    (error,) = desk.to_service(ANN, Error)
    assert isinstance(error, Error)
    assert error.code == Code.BUSY
    assert error.retry_after_ms > 0
    assert fits - 1 == limits.CLIENT_QUEUE_BYTES_MAX // (1 << 20) - 1
    desk.service(BOB, batch(99))
    desk.agent.writable(0)
    desk.flush()
    numbers = [one.number for one in desk.to_pipe(Batch) if isinstance(one, Batch)]
    assert numbers == [*range(1, 1 + fits), 99]


def test_a_resend_does_not_wait_twice_for_a_blocked_pipe() -> None:
    """An outage fills no queue with copies."""
    desk = Desk().heard()
    desk.service(ANN, batch(1))
    (first,) = [one for one in desk.flush() if isinstance(one, SendPipe)]
    desk.agent.unsent(0, first.payload)
    for _ in range(5):
        desk.service(ANN, batch(2))
    desk.agent.writable(0)
    desk.flush()
    assert [one.number for one in desk.to_pipe(Batch) if isinstance(one, Batch)] == [1, 2]
    desk.service(ANN, batch(2))
    desk.flush()
    assert len(desk.to_pipe(Batch)) == 1


def test_answers_go_to_the_client_they_are_for() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello())
    desk.service(BOB, Hello())
    desk.flush()
    desk.pipe(Ack(7, 70), to=BOB)
    desk.pipe(Error(Code.MALFORMED, "no"), to=ANN)
    desk.pipe(Notice(5, 10, 1, 1000), to=ANN)
    desk.pipe(Ack(1), to=bytes([99] * 16))
    desk.flush()
    assert desk.to_service(BOB) == [Ack(7, 70)]
    assert [type(one) for one in desk.to_service(ANN)] == [Error, Notice]
    assert desk.agent.counts["answer_without_client"] == 1


def test_a_heartbeat_is_answered_at_once_where_it_came_from() -> None:
    """The library beats from a connection of its own: answers to operations still go to the other."""
    desk = Desk().heard()
    desk.service(ANN, Hello())
    desk.flush()
    desk.service(ANN, Heartbeat(), identity=b"beat")
    desk.pipe(Ack(1), to=ANN)
    desk.flush()
    (pong,) = [one for one in desk.effects if isinstance(one, SendService) and one.identity == b"beat"]
    assert wire.decode(wire.unpack(pong.payload)[0]) == Pong(1000, 5)
    assert [type(one) for one in desk.to_service(ANN)] == [Ack]


def test_clients_are_answered_for_in_one_message_every_third_of_the_lease() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello())
    desk.service(BOB, Hello())
    desk.flush()
    desk.tick(5_000)
    (beat,) = desk.to_pipe(Heartbeat)
    assert isinstance(beat, Heartbeat)
    assert sorted(beat.alive) == [ANN, BOB]
    assert beat.gone == ()


def test_a_goodbye_is_told_to_the_pipe_at_once_and_repeated() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello())
    desk.service(BOB, Hello())
    desk.flush()
    desk.service(ANN, Goodbye())
    desk.flush()
    assert desk.to_pipe() == [Heartbeat((), (ANN,))]
    desk.tick(5_000)
    assert desk.to_pipe(Heartbeat) == [Heartbeat((BOB,), (ANN,))]


def test_more_goodbyes_than_one_heartbeat_may_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over its bound ends by the pipe's own lease; the sidecar goes on."""
    monkeypatch.setattr(limits, "CLIENTS_MAX", 100)
    desk = Desk().heard()
    for number in range(limits.CLIENTS_MAX + 10):
        desk.service(b"\x02" + number.to_bytes(15, "big"), Goodbye(), identity=b"flood")
    desk.flush()
    (beat,) = desk.to_pipe(Heartbeat)
    assert isinstance(beat, Heartbeat)
    assert len(beat.gone) == limits.CLIENTS_MAX
    desk.tick(5_000)
    assert len(desk.to_pipe(Heartbeat)) == 1


def test_one_connection_cannot_use_up_the_room_for_clients() -> None:
    desk = Desk().heard()
    for number in range(limits.CONNECTION_CLIENTS_MAX + 10):
        desk.service(b"\x03" + number.to_bytes(15, "big"), Hello(), identity=b"many")
    desk.service(ANN, Hello())
    desk.flush()
    assert desk.agent.counts["service_too_many"] == 10
    assert len(desk.agent.clients) == limits.CONNECTION_CLIENTS_MAX + 1
    assert len(desk.to_service(ANN, Welcome)) == 1


def test_a_late_heartbeat_does_not_revive_a_client_that_left() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello(), Goodbye())
    desk.service(ANN, Heartbeat(), identity=b"beat")
    desk.flush()
    desk.tick(5_000)
    assert desk.to_pipe(Heartbeat) == [Heartbeat((), (ANN,))]


def test_a_client_that_fell_silent_is_gone() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello(name="app"))
    desk.flush()
    gone: list[object] = []
    while not gone:
        desk.tick(1_000)
        gone = [one for one in desk.to_pipe(Heartbeat) if isinstance(one, Heartbeat) and one.gone == (ANN,)]
        assert desk.now_ms < 20_000
    assert desk.now_ms >= 15_000
    assert "a client is gone without a goodbye" in desk.told()


def test_clients_do_not_die_of_a_pause_of_the_sidecar_itself() -> None:
    """Stopped for a minute, it reads what they said meanwhile before it judges; who is silent then, is
    gone."""
    desk = Desk().heard()
    desk.service(ANN, Hello())
    desk.service(BOB, Hello())
    desk.flush()
    desk.tick(60_000)
    assert len(desk.agent.clients) == 2
    for _ in range(20):
        desk.service(ANN, Heartbeat())
        desk.tick(1_000)
    assert [client.incarnation for client in desk.agent.clients.all()] == [ANN]


def test_a_client_that_never_said_hello_here_learns_that_this_is_another_process() -> None:
    """Its connection came back by itself after the sidecar was started again."""
    desk = Desk().heard()
    desk.service(ANN, batch())
    desk.flush()
    (answer,) = desk.to_service(ANN)
    assert isinstance(answer, Welcome)
    assert answer.hop[:8] == OWN[:8]
    assert len(desk.to_pipe(Batch)) == 1


def test_no_service_can_take_kinds_that_the_routes_give_to_another_handler() -> None:
    desk = Desk()
    desk.service(ANN, Hello(), Serve((ATTACHED, HTTP, 77), 4))
    desk.flush()
    (error,) = desk.to_service(ANN, Error)
    assert isinstance(error, Error)
    assert error.code == Code.UNKNOWN_KIND
    assert "2, 77" in error.message
    assert desk.agent.clients.served(ATTACHED)
    assert not desk.agent.clients.served(HTTP)


def test_operators_verbs_are_refused_here() -> None:
    desk = Desk()
    desk.service(ANN, Hello(), AdminRequest(1, "status"))
    desk.flush()
    (error,) = desk.to_service(ANN, Error)
    assert isinstance(error, Error)
    assert error.code == Code.NOT_ADMIN


def test_the_pipe_is_greeted_again_when_its_connection_comes_back_or_its_term_changed() -> None:
    desk = Desk().heard()
    desk.agent.connected(0, desk.now_ms)
    desk.tick()
    assert [type(one) for one in desk.to_pipe()] == [Hello, Heartbeat]
    desk.pipe(Pong(2000, 6))
    desk.tick()
    assert [type(one) for one in desk.to_pipe()] == [Hello, Heartbeat]


def test_a_silent_pipe_is_asked_again_every_second() -> None:
    desk = Desk()
    hellos = 0
    for _ in range(5):
        desk.tick(1_000)
        hellos += len(desk.to_pipe(Hello))
    assert hellos == 5


def test_a_blocked_link_does_not_keep_the_sidecar_busy() -> None:
    """Nothing is due while nothing can be sent: the next deadline lies ahead."""
    desk = Desk().heard()
    desk.agent.unsent(0, b"")
    desk.tick()
    for _ in range(10):
        assert desk.agent.deadline() > desk.now_ms
        desk.tick(desk.agent.deadline() - desk.now_ms)


GARBAGE = [b"", b"x", b"\0" * 39, b"\0" * 40, b"\xff" * 40, b"\xff" * 4096, bytes(limits.ENVELOPE_BYTES_MAX + 1)]


@pytest.mark.parametrize("payload", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_from_a_client_costs_it_an_error_and_nobody_else_anything(payload: bytes) -> None:
    desk = Desk().heard()
    desk.service(BOB, Hello())
    desk.flush()
    desk.agent.from_service(ANN[:4], payload, desk.now_ms)
    desk.service(BOB, batch())
    desk.flush()
    assert all(isinstance(one, Error) for one in desk.to_service(ANN))
    assert desk.to_service(BOB) == []
    assert len(desk.to_pipe(Batch)) == 1
    assert desk.agent.counts["service_garbage"] == (1 if payload else desk.agent.counts["service_garbage"])


def test_flipped_bits_and_cut_messages_crash_nothing() -> None:
    """On every socket: each message that exists, cut anywhere, with any bit flipped."""
    chance = random.Random(6)
    desk = Desk().serving().dialed()
    messages = [
        wire.encode(value, incarnation=who, pipe=1)
        for who in (ANN, OWN)
        for value in (
            Hello(),
            welcome(),
            batch(),
            Ack(1),
            Heartbeat((BOB,), (BOB,)),
            Pong(5),
            Goodbye(),
            Error(1, "x"),
            Serve((1,), 2),
            Notice(5, 1, 1, 1),
        )
    ]
    for packed in messages:
        for _ in range(60):
            damaged = bytearray(packed)
            for _ in range(chance.randrange(3)):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            payload = bytes(damaged[: chance.randrange(len(damaged) + 1)]) if chance.random() < 0.3 else bytes(damaged)
            desk.agent.from_service(b"evil", payload, desk.now_ms)
            desk.agent.from_pipe(0, payload, desk.now_ms)
            desk.agent.from_dial(payload, desk.now_ms)
        desk.tick(10)
    desk.service(BOB, Hello())
    desk.flush()
    assert any(isinstance(one, Welcome) for one in desk.to_service(BOB))


def test_errors_to_nobody_in_particular_are_counted() -> None:
    """A pipe that could not read who it answers says so to nobody; a client that says so is nobody."""
    desk = Desk().heard()
    desk.pipe(Error(Code.MALFORMED, "no envelope"), to=NOBODY)
    desk.service(NOBODY, Error(Code.MALFORMED, "me neither"))
    assert desk.agent.counts == {"pipe_refused": 1, "service_unexpected": 1}
    assert len(desk.agent.clients) == 0


def test_what_a_client_may_not_send_is_refused_by_name() -> None:
    desk = Desk().heard()
    desk.service(ANN, Hello(), Ack(1))
    desk.service(OWN, batch())
    desk.flush()
    (error,) = desk.to_service(ANN, Error)
    assert isinstance(error, Error)
    assert (error.code, error.type) == (Code.MALFORMED, MessageType.ACK)
    assert desk.to_pipe(Batch) == []
    assert desk.agent.counts["service_unexpected"] == 2


def test_what_only_goes_through_leaves_before_anything_else() -> None:
    """An operation and its answer wait for no credit, hello or deadline; `flush` does not say them again."""
    desk = Desk().heard()
    desk.service(ANN, Hello(name="app"))
    desk.flush()
    desk.service(ANN, batch())
    (effect,) = desk.agent.pass_on()
    assert isinstance(effect, SendPipe)
    assert [message.type for message in wire.unpack(effect.payload)] == [MessageType.BATCH]
    assert desk.agent.flush(desk.now_ms) == []
    desk.pipe(Ack(1, first_index=7, term=5), to=ANN)
    (answer,) = desk.agent.pass_on()
    assert isinstance(answer, SendService)
    assert desk.agent.flush(desk.now_ms) == []


def test_what_has_to_be_said_before_an_operation_is() -> None:
    """The end of a run that was told before it; nothing overtakes."""
    desk = Desk().serving().dialed()
    desk.push(part(7, 1))
    desk.flush()
    desk.service(ANN, Outcomes((Ending(5, 7, 2, AttemptOutcome.FAIL),)), pipe=1)
    desk.service(ANN, batch())
    assert desk.agent.pass_on() == []
    desk.effects = desk.agent.flush(desk.now_ms)
    assert [message.type for message in desk.packed_to_pipe()][-1] == MessageType.BATCH
    assert len(desk.packed_to_pipe()) > 1
