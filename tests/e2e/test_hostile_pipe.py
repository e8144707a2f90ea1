"""What bad input gets at a live pipe: its sender an error or a counted drop, and nobody else anything.

Every case runs against one pipe process beside a well-behaved client whose acks are timed.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest
import zmq

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.exits import EXIT_CANNOT_START
from mpy6a.messages import Ack, AdminRequest, Batch, Error, Heartbeat, Hello, MessageType, Stop
from mpy6a.model import Extra, Op, Verb
from mpy6a.sockets import HIGH_WATER_MESSAGES
from tests.e2e import hostile
from tests.e2e.beside import dropped, greeted, has_not_ended, is_fine, pipe_beside
from tests.e2e.live import KIND, PIPE, START_S, Companion, Live, Peer, new_incarnation
from tests.ports import FreePorts
from tests.wire_samples import MESSAGES

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

FUZZ_S: Final = 1.5  # at each of the three sockets
SEED: Final = 6


@pytest.fixture(scope="module")
def live(free_port: FreePorts) -> Iterator[Live]:
    """One pipe for all cases of this file: whoever ends it has failed, and so has everybody after."""
    with pipe_beside(free_port) as live:
        yield live


@pytest.fixture(autouse=True)
def _not_after_its_end(live: Live) -> None:
    has_not_ended(live)


# ---------------------------------------------------------------------- listen and admin: what is no message


@pytest.mark.parametrize("door", ["listen", "admin"])
@pytest.mark.parametrize("name", hostile.ENVELOPES)
def test_what_is_no_envelope_is_refused_whole_and_counted(live: Live, door: str, name: str) -> None:
    """A damaged envelope is refused whole: one error with its code, one count, and the connection still serves."""
    bad = hostile.ENVELOPES[name]
    reason = bad.code.name.lower()
    before = dropped(live, reason)
    with Peer(getattr(live, door)) as peer:
        peer.send(*bad.frames)
        error = peer.error()
        assert error.code == bad.code
        assert error.message
        assert peer.is_silent(0.02)
        peer.hello()
    assert dropped(live, reason) == before + 1


@pytest.mark.parametrize("door", ["listen", "admin"])
@pytest.mark.parametrize("name", hostile.FRAMES)
def test_a_message_of_several_frames_is_refused_and_shifts_nothing(live: Live, door: str, name: str) -> None:
    """One ZeroMQ message is one frame: more are answered with an error, and the next one is read as ever."""
    with Peer(getattr(live, door)) as peer:
        peer.send(*hostile.FRAMES[name])
        assert peer.error().code == Code.MALFORMED
        peer.hello()
        assert peer.is_silent(0.02)


@pytest.mark.parametrize("door", ["listen", "admin"])
def test_every_message_of_garbage_gets_an_error_and_the_rest_of_its_envelope_is_taken(live: Live, door: str) -> None:
    """Unknown types, damaged bodies: an error each; nothing else of the envelope is touched."""
    before = dropped(live, "malformed")
    refused = list(hostile.MESSAGES_REFUSED.values())
    if door == "admin":  # a hello is answered there without a look into it
        refused = [message for message in refused if message[35] != MessageType.HELLO]
    with Peer(getattr(live, door)) as peer:
        good = hostile.packed(Hello(), peer.incarnation)
        peer.send(b"".join([*refused, good]))
        errors = [peer.error() for _ in refused]
        assert {error.code for error in errors} <= {Code.MALFORMED, Code.NOT_ADMIN, Code.DENIED}
        peer.hello()
    assert dropped(live, "malformed") + dropped(live, "not_admin") >= before + len(refused)
    is_fine(live)


def test_what_is_not_for_a_pipe_is_refused_by_name(live: Live) -> None:
    """Answers, pushes and services' messages at `listen`, and operators' verbs at the wrong door."""
    taken = {
        MessageType.HELLO,
        MessageType.BATCH,
        MessageType.HEARTBEAT,
        MessageType.GOODBYE,
        MessageType.SIDECAR_HELLO,
        MessageType.ACCEPTED,
    }
    with Peer(live.listen) as peer:
        for value in MESSAGES.values():
            packed = wire.encode(value, incarnation=peer.incarnation, pipe=PIPE)
            kind = packed[35]
            if kind in taken:
                continue
            peer.send(packed)
            error = peer.error()
            assert error.code == (Code.NOT_ADMIN if kind == MessageType.ADMIN_REQUEST else Code.MALFORMED)
            assert error.type == kind


@pytest.mark.parametrize("door", ["listen", "admin"])
def test_no_version_in_common_is_said_at_hello(live: Live, door: str) -> None:
    """A newer client is told VERSION, not welcomed (PROTOCOL.md, "The life of a connection")."""
    with Peer(getattr(live, door)) as peer:
        peer.say(Hello(version_low=2, version_high=7), pipe=0)
        assert peer.error().code == Code.VERSION
        peer.say(Hello(version_low=1, version_high=7), pipe=0)
        peer.hello()


@pytest.mark.parametrize(
    "value", [Batch(1, 1, 1, [Op(Verb.NEW, 1, argument=KIND)], []), Heartbeat()], ids=["batch", "heartbeat"]
)
def test_the_admin_door_takes_operators_verbs_only(live: Live, value: Batch | Heartbeat) -> None:
    """Clients' messages there get an error, and make no session."""
    with Peer(live.admin) as peer:
        sessions = peer.ask("status")["kinds"][0]["open"]
        peer.say(value)
        assert isinstance(peer.receive(), Error)
        assert peer.ask("status")["kinds"][0]["open"] <= sessions + 1  # of the client beside


def test_another_pipes_number_is_refused(live: Live) -> None:
    """WRONG_PIPE names both numbers; nothing is logged."""
    with Peer(live.listen) as peer:
        peer.say(Batch(1, 1, 1, [Op(Verb.NEW, 1, argument=KIND)], []), pipe=7)
        error = peer.error()
    assert error.code == Code.WRONG_PIPE
    assert "1" in error.message
    assert "7" in error.message


def test_an_oversized_message_costs_its_sender_the_connection(live: Live) -> None:
    """ZeroMQ itself cuts what is over the envelope's limit: it never reaches the pipe, and the next one is served."""
    with Peer(live.listen) as peer:
        peer.send(bytes(limits.ENVELOPE_BYTES_MAX + 1))
        assert peer.is_silent()
        peer.hello()
    with Peer(live.listen) as peer:
        peer.send(bytes(limits.ENVELOPE_BYTES_MAX))
        assert peer.error().code == Code.MALFORMED


# ---------------------------------------------------------------------- listen: operations that do not fit


def test_operations_out_of_order_get_their_verdicts_and_touch_nothing(live: Live) -> None:
    """Stale and future epochs, gaps, late copies, foreign writers, unknown kinds and ids: a code each, by position."""
    with Peer(live.listen) as owner, Peer(live.listen) as stranger:
        session = owner.new(record=b"mine")
        id = (session.index, session.term)
        owner.batch(Op(Verb.APPEND, *id, 1, 1, record=b"1"), Op(Verb.APPEND, *id, 1, 2, record=b"2"), mark=2)
        cases = {
            Code.SEQ_GAP: (owner, Op(Verb.APPEND, *id, 1, 4, record=b"x")),
            Code.STALE_COPY: (owner, Op(Verb.APPEND, *id, 1, 2, record=b"x")),
            Code.LOG_BEHIND: (owner, Op(Verb.APPEND, *id, 2, 1, record=b"x")),
            Code.FENCED: (stranger, Op(Verb.DELETE, *id, 1, 3)),
            Code.ENDED: (stranger, Op(Verb.FAIL, *id, 1, record=b"x")),
            Code.UNKNOWN_KIND: (stranger, Op(Verb.NEW, 9, argument=4_000_000_000)),
            Code.GONE: (stranger, Op(Verb.TOUCH, 1, session.term, 1, 1)),
        }
        for code, (peer, op) in cases.items():
            (result,) = peer.batch(op, mark=9).results
            assert (result.position, result.code) == (0, code), code
        with Peer(live.admin) as operator:
            shown = operator.ask("sessions.show", id=str(session), records=True)
        assert (shown["state"], shown["seq"], shown["record_bytes"]) == ("open", 2, [4, 1, 1])
        assert owner.batch(Op(Verb.DELETE, *id, 1, 3), mark=9).results == ()


@pytest.mark.parametrize(
    "ops",
    [
        [Op(Verb.APPEND, 5, 1, 1, 1, record=b"a"), Op(Verb.APPEND, 5, 1, 1, 3, record=b"b")],
        [Op(Verb.APPEND, 5, 1, 1, 1, record=b"a"), Op(Verb.APPEND, 5, 1, 2, 2, record=b"b")],
        [Op(Verb.APPEND, 5, 1, 1, 0, record=b"a")],
        [Op(Verb.APPEND, 5, 1, 0, 1, record=b"a")],
        [Op(Verb.APPEND, 5, 0, 1, 1, record=b"a")],
        [Op(Verb.APPEND, 0, 1, 1, 1, record=b"a")],
        [Op(Verb.APPEND, 5, 1, 1, 1)],
        [Op(Verb.NEW, 2, argument=KIND), Op(Verb.NEW, 2, argument=KIND)],
        [Op(Verb.NEW, 3, argument=KIND), Op(Verb.NEW, 2, argument=KIND)],
        [Op(Verb.FAIL, 5, 1, 1, 1)],
        [Op(Verb.FAIL, 5, 1, 1, 0, record=b"x" * (limits.TEXT_BYTES_MAX + 1))],
        [Op(9, 5, 1, 1, 1)],
        [Op(Verb.NEW, number, argument=KIND) for number in range(1, limits.MESSAGE_OPERATIONS_MAX + 2)],
        [],
    ],
)
def test_a_batch_that_breaks_a_rule_is_refused_whole(live: Live, ops: list[Op]) -> None:
    """A batch is validated whole before it is used: one error, and nothing of it is logged."""
    with Peer(live.listen) as peer:
        body = wire.encode_batch_body(1, 1, 1, [Op(Verb.NEW, 1, argument=KIND), *ops] if len(ops) == 1 else ops)
        peer.send(wire.pack(MessageType.BATCH, body, incarnation=peer.incarnation, pipe=PIPE))
        error = peer.error()
        assert error.code == Code.MALFORMED
        assert error.message
        # Request number 1 is free: had it been logged, this would be the answer to a copy, a result with its id.
        assert peer.batch(Op(Verb.NEW, 1, argument=KIND)).results == ()


# ---------------------------------------------------------------------- operations that are all refused


def _in_time(peer: Peer, batch: Batch) -> Ack:
    """The verdict on a batch for whoever obeys BUSY: the same again, once the time has passed that it named."""
    end_s = time.monotonic() + 2 * limits.REFUSALS_WAIT_MAX_MS / 1_000
    while time.monotonic() < end_s:
        peer.say(batch)
        while not isinstance(ack := peer.receive(), Ack) or ack.number != batch.number:
            continue
        if ack.code != Code.BUSY:
            return ack
        peer.socket.poll(ack.retry_after_ms)  # nothing comes: everything was answered
    raise AssertionError(f"batch {batch.number} was held for ever")


def test_a_flood_of_refused_operations_is_held_and_nobody_beside_notices(live: Live) -> None:
    """Refusals are rate-limited a client: BUSY, counted, not logged; whoever obeys it hears every verdict."""
    before = dropped(live, "refusals")
    with Companion(live.listen) as beside, Peer(live.listen) as peer, Peer(live.listen) as neighbour:
        term = peer.new().term
        gone = [Op(Verb.TOUCH, 1, term, 1, seq) for seq in range(1, limits.MESSAGE_OPERATIONS_MAX + 1)]
        verdicts = 0
        while (ack := peer.batch(*gone)).code == Code.OK:  # one at a time: the bucket is overdrawn by one of them
            verdicts += len(ack.results)
            assert verdicts < 8 * limits.REFUSALS_BURST, "nothing holds it"
        assert verdicts >= limits.REFUSALS_BURST
        assert (ack.code, ack.results) == (Code.BUSY, ())
        assert limits.REFUSALS_WAIT_MIN_MS <= ack.retry_after_ms <= limits.REFUSALS_WAIT_MAX_MS
        acks = beside.acks
        sent_ms = int(time.time() * 1_000)
        flood = [Batch(number, 1, sent_ms, gone[:1], []) for number in range(1_000, 4_000)]
        for batch in flood:  # obeys nothing
            peer.say(batch)
        answered = {answer.number: answer.code for answer in (peer.receive() for _ in flood) if isinstance(answer, Ack)}
        assert answered.keys() == {batch.number for batch in flood}
        assert set(answered.values()) <= {Code.BUSY, Code.OK}
        assert dropped(live, "refusals") - before > list(answered.values()).count(Code.BUSY) > 0
        neighbour.new()
        for number in (1_000, 3_999):
            (result,) = _in_time(peer, flood[number - 1_000]).results
            assert result.code == Code.GONE
        assert _in_time(peer, Batch(5_000, 2, sent_ms, gone, [])).results[-1].code == Code.GONE
        assert beside.acks > acks
    is_fine(live)


# ---------------------------------------------------------------------- no stall


def test_a_message_of_32_bytes_that_claims_millions_of_elements_stalls_nobody(live: Live) -> None:
    """Lists of no size, at every pointer of every type: an error at once (pycapnp alone took 15.7 s)."""
    messages = [message for message in hostile.stalls() if message[35] != MessageType.ERROR]
    with Companion(live.listen), Peer(live.listen) as peer:
        for message in messages:
            peer.send(message)
        for _ in messages:
            peer.receive()
    is_fine(live)


@pytest.mark.parametrize("door", ["listen", "admin"])
@pytest.mark.parametrize(
    ("value", "count"),
    [
        (hostile.DEAR, 64),  # 5 s for all of them, if nobody got a turn in between
        (Heartbeat((), tuple(b"\x02" * 8 + n.to_bytes(8, "big") for n in range(16_384))), 64),
        (AdminRequest(1, "sessions.list", "[" * 1_000_000), 64),
    ],
    ids=["stop", "heartbeat", "admin request"],
)
def test_the_dearest_messages_hold_up_nobody(
    live: Live, door: str, value: Stop | Heartbeat | AdminRequest, count: int
) -> None:
    """The biggest lists that are allowed, many times over: the client beside gets its acks in between."""
    with Peer(getattr(live, door)) as peer:
        message = wire.encode(value, incarnation=peer.incarnation, pipe=PIPE)
        with Companion(live.listen):
            for _ in range(count):
                peer.send(message)
            peer.hello()  # answered behind all of them
    is_fine(live)


def test_a_flood_of_small_messages_holds_up_nobody(live: Live) -> None:
    """50,000 hellos in fifty envelopes: whoever sends them waits, the client beside does not."""
    with Companion(live.listen), Peer(live.listen) as peer:
        envelope = hostile.packed(Hello(), peer.incarnation, 0) * limits.ENVELOPE_MESSAGES_MAX
        for _ in range(50):
            peer.send(envelope)
        for _ in range(50):
            peer.receive()
    is_fine(live)


def test_a_peer_that_never_reads_holds_up_nobody(live: Live) -> None:
    """Its answers fill its own queue and are dropped and counted from there on; nobody else's are."""
    with Companion(live.listen), Peer(live.listen, room=1) as peer:
        envelope = hostile.packed(Hello(), peer.incarnation, 0) * limits.ENVELOPE_MESSAGES_MAX
        before = live.dropped()
        for _ in range(60):
            peer.send(envelope)
        end_s = time.monotonic() + START_S
        # Its queue is full, or ZeroMQ's heartbeat has found that it does not even answer pings.
        while live.dropped().items() <= before.items():
            assert time.monotonic() < end_s
    is_fine(live)


@pytest.mark.parametrize("door", ["listen", "admin", "dial"])
def test_who_fills_its_queue_and_leaves_does_not_end_the_pipe(live: Live, door: str) -> None:
    """More messages than ZeroMQ takes in for one peer, then a broken connection: the pipe lives.

    libzmq 4.3.5 ends a process that does so with heartbeats of its own on such a socket: its heart beats on the
    connection that is gone (stream_engine_base.cpp: Assertion failed: !_io_error).
    """
    dear = wire.encode(hostile.DEAR, incarnation=hostile.WHO, pipe=PIPE)
    bound = door == "dial"
    address = live.push if bound else getattr(live, door)
    with Peer(live.listen) as busy, Peer(live.listen) as witness:
        witness.hello()
        with Peer(address, identity=new_incarnation(), bind=bound, probe=bound) as flood:
            if bound:
                greeted(flood)
            for _ in range(10):
                busy.send(dear)  # the pipe reads these, 0.1 s each, while the flood waits in ZeroMQ's queue
            for _ in range(3 * HIGH_WATER_MESSAGES):
                flood.send(hostile.BEAT)
        witness.hello()
    is_fine(live)


def test_connections_that_break_in_the_middle_cost_nothing(live: Live) -> None:
    """Half-open peers and peers that break their connection in the middle of a message are nobody's matter."""
    host, port = live.listen.removeprefix("tcp://").split(":")
    with Companion(live.listen):
        sockets = [socket.create_connection((host, int(port))) for _ in range(200)]
        for number, one in enumerate(sockets):
            one.sendall(hostile.ENVELOPES["http"].frames[0] if number % 2 else b"\xff\0\0\0\0\0\0\0\x01\x7f\x03")
        for one in sockets:
            one.close()
    is_fine(live)


# ---------------------------------------------------------------------- the admin door


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("", "{}"),
        ("sessions.explode", "{}"),
        ("status", "{"),
        ("status", "[]"),
        ("status", "1" * 10_000),
        ("status", '{"a":' * 100_000),
        ("sessions.show", "{}"),
        ("sessions.show", '{"id": 7}'),
        ("sessions.show", '{"id": "1.1"}'),
        ("sessions.show", '{"id": "1.1.99999999999999999999"}'),
        ("sessions.list", '{"limit": -1}'),
        ("sessions.list", '{"limit": true}'),
        ("sessions.list", '{"after": "x"}'),
        ("sessions.list", '{"state": "lost"}'),
        ("sessions.list", '{"kind": "wrok"}'),
        ("sessions.list", '{"kind": [[[]]]}'),
        ("sessions.kick", "{}"),
    ],
)
def test_a_request_that_does_not_fit_is_answered_with_what_is_wrong(live: Live, verb: str, arguments: str) -> None:
    """BAD_REQUEST and a sentence; the door goes on."""
    with Peer(live.admin) as peer:
        reply = peer.request(verb, arguments)
        assert reply.code == Code.BAD_REQUEST
        assert 0 < len(reply.message.encode()) <= limits.TEXT_BYTES_MAX
        peer.ask("status")


def test_words_on_a_session_that_is_not_there(live: Live) -> None:
    """NO_SUCH_SESSION, for another pipe's sessions too."""
    with Peer(live.admin) as peer:
        for id in ("1.1.4000000000", "2.1.1"):
            assert peer.request("sessions.kick", f'{{"id": "{id}"}}').code == Code.NO_SUCH_SESSION


@pytest.mark.parametrize("reason", ["\\ud800", "\\u0000", "x" * 100_000, "\\ud83d\\ude00" * 5_000])
def test_any_text_may_be_an_operators_reason(live: Live, reason: str) -> None:
    """Texts that UTF-8 cannot say, zeros and long ones are logged as far as they can be, or refused; never a crash."""
    with Peer(live.listen) as owner, Peer(live.admin) as operator:
        session = owner.new()
        reply = operator.request("sessions.park", f'{{"id": "{session}", "who": "{reason}", "reason": "{reason}"}}')
        assert reply.code in (Code.OK, Code.BAD_REQUEST)
        operator.ask("sessions.show", id=str(session))
        operator.ask("sessions.delete", id=str(session))


# ---------------------------------------------------------------------- the process


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.PUB, zmq.PUSH, zmq.PAIR])
def test_sockets_of_another_kind_are_nobodys_matter(live: Live, kind: int) -> None:
    """ZeroMQ refuses most at the handshake; a REQ gets its delimiter refused."""
    for address in (live.listen, live.admin):
        with zmq.Context() as context, context.socket(kind) as other:
            other.setsockopt(zmq.LINGER, 0)
            other.connect(address)
            if kind in (zmq.REQ, zmq.PUB):
                other.send(hostile.BEAT)
            is_fine(live)


@pytest.mark.parametrize("door", ["listen", "admin", "dial"])
def test_random_mutations_of_valid_messages(live: Live, door: str) -> None:
    """Seeded, for a bounded time: the pipe answers or counts, and the client beside notices nothing."""
    chance = Random(SEED)
    incarnation = new_incarnation()
    messages = hostile.valid(PIPE, incarnation)
    messages += [hostile.packed(Batch(1, 1, 1, [Op(Verb.NEW, 1, argument=KIND)], [Extra(0, "k")]), incarnation)]
    address = live.push if door == "dial" else getattr(live, door)
    with (
        Companion(live.listen),
        Peer(address, identity=incarnation, bind=door == "dial", probe=door == "dial") as peer,
    ):
        if door == "dial":
            greeted(peer)
        sent = 0
        end_s = time.monotonic() + FUZZ_S
        while time.monotonic() < end_s:
            peer.send(*hostile.mutated(chance, messages))
            sent += 1
            while peer.socket.poll(0):
                peer.socket.recv_multipart()
        assert sent > 100
        if door != "dial":
            peer.hello()
    is_fine(live)


def test_none_of_it_was_a_crash(live: Live) -> None:
    """What all cases of this file left behind: no traceback, a clean end, and a log that the next pipe reads."""
    said = live.said("pipe.log")
    assert "Traceback" not in said
    assert '"ERROR"' not in said


def _refused(process: subprocess.Popen[bytes]) -> int:
    return process.wait(START_S)


def test_a_second_pipe_on_the_same_doors_does_not_disturb_the_first(live: Live) -> None:
    """It is refused with exit 3, whatever was thrown at the first one."""
    assert _refused(live.run("mpy6a", "serve", said="second.log")) == EXIT_CANNOT_START
    is_fine(live)
