"""What bad input gets at a live sidecar: on its ipc door, on the socket that pipes dial, and from the pipe it calls.

Its sender gets an error, or the message is dropped and counted (the sidecar's last log line says how many); nobody
else notices: a well-behaved service beside it gets its acks in time, and its unfinished sessions come back to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.exits import EXIT_CANNOT_START, EXIT_USAGE
from mpy6a.messages import (
    AdminRequest,
    Batch,
    Ending,
    Error,
    Goodbye,
    Greeting,
    Heartbeat,
    Hello,
    MessageType,
    Outcomes,
    Push,
    RepeatPart,
    Serve,
    SessionEpoch,
    Stop,
    Welcome,
)
from mpy6a.model import AttemptOutcome, Op, Verb
from mpy6a.sockets import HIGH_WATER_MESSAGES
from tests.e2e import hostile
from tests.e2e.live import ANSWER_S, KIND, PIPE, START_S, Companion, Live, Peer, new_incarnation, repeat_once
from tests.ports import FreePorts, short_directory
from tests.processes import Processes
from tests.wire_samples import MESSAGES

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

FUZZ_S: Final = 1.5  # at each of the three sockets
SEED: Final = 7
STRANGER: Final = 6  # a pipe's number that nobody has


@pytest.fixture(scope="module")
def live(free_port: FreePorts) -> Iterator[Live]:
    """One pipe and one sidecar for all cases of this file, and a service beside them."""
    with short_directory() as path, Processes() as processes:
        place = Live(path, free_port, processes)
        place.pipe = place.start_pipe()
        place.sidecar = place.start_sidecar()
        with Companion(place.service):
            yield place


@pytest.fixture(autouse=True)
def _not_after_its_end(live: Live) -> None:
    """Once a case has ended the sidecar or the pipe, the others say so at once."""
    assert live.pipe.poll() is None, f"an earlier case ended the pipe: {live.said('pipe.log')[-1_000:]}"
    assert live.sidecar.poll() is None, f"an earlier case ended the sidecar: {live.said('sidecar.log')[-1_000:]}"


def _is_fine(live: Live) -> None:
    """The sidecar lives, hears its pipe, and hands an unfinished session to a service."""
    assert live.sidecar.poll() is None, live.said("sidecar.log")
    assert "Traceback" not in live.said("sidecar.log"), live.said("sidecar.log")
    repeat_once(live.service)


# ---------------------------------------------------------------------- the ipc door


@pytest.mark.parametrize("name", hostile.ENVELOPES)
def test_what_is_no_envelope_is_refused_whole(live: Live, name: str) -> None:
    """One error with its code, and the connection still serves."""
    bad = hostile.ENVELOPES[name]
    with Peer(live.service) as peer:
        peer.send(*bad.frames)
        error = peer.error()
        assert error.code == bad.code
        assert error.message
        peer.hello()


def test_a_message_of_several_frames_is_dropped_and_shifts_nothing(live: Live) -> None:
    """Whatever the frames are: the next message is read as ever."""
    with Peer(live.service) as peer:
        for frames in hostile.FRAMES.values():
            peer.send(*frames)
            peer.hello()


def test_every_message_of_garbage_gets_an_error_and_the_rest_of_its_envelope_is_taken(live: Live) -> None:
    """Unknown types and damaged bodies. A batch's body is not looked at: that error is the pipe's."""
    refused = [message for message in hostile.MESSAGES_REFUSED.values() if message[35] != MessageType.HEARTBEAT]
    with Peer(live.service) as peer:
        good = hostile.packed(Hello(), peer.incarnation, 0)
        refused = [message[:8] + peer.incarnation + message[24:] for message in refused]
        refused = [message for message in refused if message[35] != MessageType.GOODBYE]
        peer.send(b"".join([*refused, good]))
        for _ in refused:
            assert peer.error().code in (Code.MALFORMED, Code.NOT_ADMIN)
        peer.hello()


def test_what_is_not_for_a_sidecar_is_refused_by_name(live: Live) -> None:
    """Answers and pushes from a service, operators' verbs, an unknown pipe, a newer version."""
    with Peer(live.service) as peer:
        peer.hello()
        for value in MESSAGES.values():
            packed = wire.encode(value, incarnation=peer.incarnation, pipe=PIPE)
            if packed[35] in (
                MessageType.HELLO,
                MessageType.BATCH,
                MessageType.HEARTBEAT,
                MessageType.GOODBYE,
                MessageType.SERVE,
                MessageType.OUTCOMES,
            ):
                continue
            peer.send(packed)
            error = peer.error()
            assert (error.type, error.code) == (
                packed[35],
                Code.NOT_ADMIN if packed[35] == MessageType.ADMIN_REQUEST else Code.MALFORMED,
            )
        peer.say(AdminRequest(1, "status"))
        assert peer.error().code == Code.NOT_ADMIN
        peer.say(Batch(1, 1, 1, [Op(Verb.NEW, 1, argument=KIND)], []), pipe=STRANGER)
        error = peer.error()
        assert (error.code, error.retry_after_ms > 0) == (Code.NO_PIPE, True)
        peer.say(Hello(version_low=2, version_high=9), pipe=0)
        assert peer.error().code == Code.VERSION
        peer.say(Serve((4_000_000_000,), 4), pipe=0)
        error = peer.error()
        assert error.code == Code.UNKNOWN_KIND
        assert "4000000000" in error.message


def test_a_damaged_batch_is_answered_by_the_pipe_to_its_sender_only(live: Live) -> None:
    """The sidecar packs it beside those of others; they are acked, it gets MALFORMED."""
    with Peer(live.service) as peer, Companion(live.service):
        for body in (b"\xff" * 64, hostile.stalling(2, 3), b""):
            peer.send(wire.pack(MessageType.BATCH, body, incarnation=peer.incarnation, pipe=PIPE))
            error = peer.error()
            assert (error.code, error.type) == (Code.MALFORMED, MessageType.BATCH)


def test_outcomes_of_runs_that_a_service_was_never_handed_end_nothing(live: Live) -> None:
    """A stranger cannot end another's run: it is counted."""
    with Peer(live.service) as handler, Peer(live.service) as client, Peer(live.service) as stranger:
        handler.hello(pipes=1)
        handler.say(Serve((KIND,), 1), pipe=0)
        client.hello(pipes=1)
        session = client.new()
        client.batch(Op(Verb.STORE, session.index, session.term, 1, 1, 0), mark=2)
        while not isinstance(push := handler.receive(), Push):
            assert isinstance(push, Welcome)
        part = push.sessions[0]
        for outcome in (AttemptOutcome.DECIDED, AttemptOutcome.FAIL, AttemptOutcome.PARK):
            stranger.say(Outcomes((Ending(part.term, part.index, part.epoch, outcome),)))
        stranger.hello()
        assert handler.batch(Op(Verb.DELETE, part.index, part.term, part.epoch, 1)).results == ()
        handler.say(Outcomes((Ending(part.term, part.index, part.epoch, AttemptOutcome.DECIDED),)))
        handler.say(Goodbye())
        handler.hello()


def test_an_oversized_message_costs_its_sender_the_connection(live: Live) -> None:
    """ZeroMQ itself cuts what is over the envelope's limit; the next connection is served."""
    with Peer(live.service) as peer:
        peer.send(bytes(limits.ENVELOPE_BYTES_MAX + 1))
        assert peer.is_silent()
        peer.hello()


# ---------------------------------------------------------------------- no stall, no crash


def test_a_message_of_32_bytes_that_claims_millions_of_elements_stalls_nobody(live: Live) -> None:
    """Lists of no size, at every pointer of every type, on both sockets that the sidecar binds."""
    with Companion(live.service), Peer(live.service) as peer, Peer(live.push, router=True) as dialing:
        _dialed(dialing)
        for message in hostile.stalls():
            peer.send(message)
            dialing.send(_dialed(dialing), message)
        peer.hello()
    _is_fine(live)


def test_a_flood_of_goodbyes_of_thousands_of_incarnations_ends_nothing(live: Live) -> None:
    """More of them than one heartbeat to the pipe may tell: the sidecar goes on telling and serving."""
    chance = Random(SEED)
    with Companion(live.service), Peer(live.service) as peer:
        for _ in range(limits.CLIENTS_MAX // limits.ENVELOPE_MESSAGES_MAX + 4):
            one_envelope = [hostile.packed(Goodbye(), b"\x02" + chance.randbytes(15)) for _ in range(1_024)]
            peer.send(b"".join(one_envelope))
        peer.hello()
        _beats(peer, limits.LEASE_MS // 3 / 1_000 + 1)
    _is_fine(live)


def _beats(peer: Peer, for_s: float) -> None:
    """The sidecar answers for so long: over its next heartbeat to the pipe, without a sleep of our own."""
    end_s = time.monotonic() + for_s
    while time.monotonic() < end_s:
        peer.say(Heartbeat())
        peer.receive()
        peer.socket.poll(100)


def test_one_connection_cannot_use_up_the_room_for_clients(live: Live) -> None:
    """Thousands of incarnations of one connection are refused from some point on; a new service is welcome."""
    chance = Random(SEED + 1)
    with Companion(live.service), Peer(live.service) as peer:
        peer.hello()
        for _ in range(limits.CLIENTS_MAX // limits.ENVELOPE_MESSAGES_MAX + 1):
            peer.send(b"".join(hostile.packed(Heartbeat(), b"\x03" + chance.randbytes(15)) for _ in range(1_024)))
        peer.say(Hello(), pipe=0)
        while not any(message.incarnation == peer.incarnation for message in wire.unpack(peer.socket.recv())):
            continue  # answers to the others
        with Peer(live.service) as late:
            late.say(Hello(), pipe=0)
            assert isinstance(late.receive(), Welcome)
    _is_fine(live)


@pytest.mark.parametrize(
    "value",
    [
        Outcomes(tuple(Ending(1, n, 2, AttemptOutcome.FAIL, 0, "x" * 500) for n in range(1, 1_025))),
        Serve(tuple(range(1, limits.KINDS_MAX + 1)), 64),
        Heartbeat((), tuple(b"\x04" * 8 + n.to_bytes(8, "big") for n in range(16_384))),
    ],
    ids=["outcomes", "serve", "heartbeat"],
)
def test_the_dearest_messages_hold_up_nobody(live: Live, value: Outcomes | Serve | Heartbeat) -> None:
    """The biggest lists that are allowed, many times over: the service beside gets its acks in between."""
    with Companion(live.service), Peer(live.service) as peer:
        message = wire.encode(value, incarnation=peer.incarnation, pipe=PIPE)
        for _ in range(100):
            peer.send(message)
        peer.say(Goodbye())
        peer.hello()
    _is_fine(live)


def test_two_connections_of_one_identity_do_not_end_the_sidecar(live: Live) -> None:
    """A stranger that takes a service's identity, or a pipe that dials twice under one, is refused by ZeroMQ."""
    with (
        Companion(live.service),
        Peer(live.service, identity=b"service") as first,
        Peer(live.push, router=True, identity=b"pipe") as dialing,
    ):
        first.hello()
        _dialed(dialing)
        with (
            Peer(live.service, identity=b"service") as second,
            Peer(live.push, router=True, identity=b"pipe") as again,
        ):
            second.send(hostile.BEAT)
            assert again.socket.poll(5_000), "a bound DEALER has no use for identities: it probes each that dials"
            first.hello()
    _is_fine(live)


@pytest.mark.parametrize("door", ["service", "push"])
def test_who_fills_its_queue_and_leaves_does_not_end_the_sidecar(live: Live, door: str) -> None:
    """More messages than ZeroMQ takes in for one peer, then a broken connection (see the pipe's test)."""
    dear = wire.encode(hostile.DEAR, incarnation=hostile.WHO, pipe=PIPE)
    with Peer(live.service) as busy, Peer(live.service) as witness:
        witness.hello()
        with Peer(getattr(live, door), router=door == "push") as flood:
            before = [_dialed(flood)] if door == "push" else []
            for _ in range(10):
                busy.send(dear)
            for _ in range(3 * HIGH_WATER_MESSAGES):
                flood.send(*before, hostile.BEAT)
        witness.hello()
    _is_fine(live)


# ---------------------------------------------------------------------- the socket that pipes dial


def _dialed(dialing: Peer) -> bytes:
    """The sidecar's incarnation, told by its probe; the socket is a ROUTER as a pipe's is."""
    if not dialing.sidecar:
        dialing.sidecar, probe = dialing.socket.recv_multipart()
        assert probe == b""
    return dialing.sidecar


def test_what_is_said_over_a_dial_that_is_no_push_is_dropped(live: Live) -> None:
    """Noise, many frames, clients' messages: no answer (a bound DEALER would spread it), nobody notices."""
    with Companion(live.service), Peer(live.push, router=True) as peer:
        sidecar = _dialed(peer)
        for bad in hostile.ENVELOPES.values():
            peer.send(sidecar, *bad.frames)
        for frames in hostile.FRAMES.values():
            peer.send(sidecar, *frames)
        for message in [*hostile.MESSAGES_REFUSED.values(), *hostile.valid(STRANGER)]:
            peer.send(sidecar, message)
        assert peer.is_silent()
    _is_fine(live)


def test_pushes_and_stops_of_strangers_hand_over_and_stop_nothing(live: Live) -> None:
    """A push without a greeting, for another target, of an older dial, or out of its order is nobody's run."""
    with Peer(live.service) as handler, Peer(live.push, router=True) as peer:
        handler.hello(pipes=1)
        handler.say(Serve((KIND,), 8), pipe=0)
        handler.hello()
        sidecar = _dialed(peer)
        part = RepeatPart(1, 4_000_000_000, 2, 1 << 32 | 2, KIND, number=1, records=(b"stolen",))
        for pipe, dial, term, target in (
            (PIPE, 1, 1, sidecar),  # over a connection that is not that dial, under another number
            (PIPE, 99, 1, sidecar),
            (PIPE, 1, 99, sidecar),
            (PIPE, 1, 1, new_incarnation()),
            (STRANGER, 1, 1, sidecar),
        ):
            number = 7 if (pipe, dial, term, target) == (PIPE, 1, 1, sidecar) else 1
            push = Push(dial, term, target, (part._replace(number=number),))
            peer.send(sidecar, hostile.packed(push, pipe=pipe))
        peer.send(sidecar, hostile.packed(Stop(9, 9, 1, (SessionEpoch(1, 1, 1),)), pipe=PIPE))
        handler.hello()
        assert handler.is_silent()
        handler.say(Goodbye())
    _is_fine(live)


def test_a_greeting_that_is_older_or_of_a_pipe_unheard_changes_nothing(live: Live) -> None:
    """The newest dial of the pipe stays; a pipe that the sidecar does not call gets no hello."""
    with Peer(live.push, router=True) as peer:
        sidecar = _dialed(peer)
        for pipe, dial, term, name in ((PIPE, 0, 0, ""), (0, 1, 1, ""), (STRANGER, 1, 1, ""), (PIPE, 9, 9, "search")):
            peer.send(sidecar, hostile.packed(Greeting(dial, term, 1_000, 1, name), pipe=pipe))
        for pipe in range(100, 100 + 2 * limits.DIALS_MAX):
            peer.send(sidecar, hostile.packed(Greeting(1, 1, 1_000, 1, ""), pipe=pipe))
    _is_fine(live)


def test_a_strangers_greeting_of_the_highest_term_or_dial_keeps_no_push_out(live: Live) -> None:
    """Under the pipe's own number and term: the sidecar hears of the pipe's incarnation and term on the connection that
    it made itself, and answers nobody else. (Once it dropped every real push until it was started anew.)"""
    highest = (1 << 31) - 1, (1 << 64) - 1
    with Peer(live.listen) as peer:
        term = peer.hello().pipes[0].term
    with Companion(live.service), Peer(live.push, router=True) as peer:
        sidecar = _dialed(peer)
        _is_fine(live)
        for forged in (highest, (term, highest[1]), (term + 1, 1)):
            peer.send(sidecar, hostile.packed(Greeting(forged[1], forged[0], 1_000, 1, ""), pipe=PIPE))
            _is_fine(live)
    _is_fine(live)


# ---------------------------------------------------------------------- the pipe that the sidecar calls


def test_a_pipe_that_talks_nonsense_does_not_end_the_sidecar(
    free_port: FreePorts, processes: Processes
) -> None:
    """Whatever answers at `pipes:`: dropped and counted, hellos go on, services are told that there is no pipe."""
    with short_directory() as path:
        place = Live(path, free_port, processes)
        with Peer(place.listen, router=True, bind=True) as pipe:
            process = place.run("sidecar", "--log-format", "json", said="sidecar.log")
            identity, *_ = _next_hello(pipe)
            chance = Random(SEED)
            incarnation = _next_hello(pipe)[1][8:24]
            answers = [bad.frames for bad in hostile.ENVELOPES.values()]
            answers += [*hostile.FRAMES.values()]
            answers += [(message[:8] + incarnation + message[24:],) for message in hostile.MESSAGES_REFUSED.values()]
            answers += [(message[:8] + incarnation + message[24:],) for message in hostile.stalls()]
            answers += [(message,) for message in hostile.valid(STRANGER)]
            messages = hostile.valid(STRANGER, incarnation)
            for frames in answers:
                pipe.send(identity, *frames)
            end_s = time.monotonic() + FUZZ_S
            while time.monotonic() < end_s:
                pipe.send(identity, *hostile.mutated(chance, messages))
            with Peer(place.service) as service:
                service.hello(process)
                service.say(Batch(1, 1, 1, [Op(Verb.NEW, 1, argument=KIND)], []), pipe=PIPE)
                assert service.error().code == Code.NO_PIPE
            while _next_hello(pipe)[0] != identity:  # it reconnects when ZeroMQ cuts the line; it goes on asking
                continue
        process.terminate()
        assert process.wait(START_S) == 0
        assert "Traceback" not in place.said("sidecar.log")
        assert place.counted()["pipe_garbage"] > 0
        assert place.counted()["pipe_frames"] > 0


def _next_hello(pipe: Peer) -> list[bytes]:
    """(identity, payload) of the next message with a hello in it."""
    while True:
        assert pipe.socket.poll(int(START_S * 1_000)), "the sidecar says hello no more"
        frames = pipe.socket.recv_multipart()
        if any(message.type == MessageType.HELLO for message in wire.unpack(frames[1])):
            return frames


# ---------------------------------------------------------------------- fuzz, and the process


@pytest.mark.parametrize("door", ["service", "push"])
def test_random_mutations_of_valid_messages(live: Live, door: str) -> None:
    """Seeded, for a bounded time: answered or counted, and the service beside notices nothing."""
    chance = Random(SEED)
    incarnation = new_incarnation()
    messages = hostile.valid(PIPE if door == "service" else STRANGER, incarnation)
    with Companion(live.service), Peer(getattr(live, door), router=door == "push") as peer:
        before = [_dialed(peer)] if door == "push" else []
        sent = 0
        end_s = time.monotonic() + FUZZ_S
        while time.monotonic() < end_s:
            peer.send(*before, *hostile.mutated(chance, messages))
            sent += 1
            while peer.socket.poll(0):
                peer.socket.recv_multipart()
        assert sent > 100
        if door == "service":
            peer.hello()
    _is_fine(live)


def test_a_path_a_port_or_a_config_that_cannot_be_used(live: Live, free_port: FreePorts, processes: Processes) -> None:
    """In use, not there, not allowed: one sentence that says what to do, exit 3 or 2; who is there does not notice."""
    with short_directory() as path:
        place = Live(path, free_port, processes)
        good = (path / "sidecar.yaml").read_text(encoding="utf-8")

        def refused(text: str) -> tuple[int, str]:
            (path / "sidecar.yaml").write_text(text, encoding="utf-8")
            (path / "said").unlink(missing_ok=True)
            process = place.run("sidecar", said="said")
            code = process.wait(START_S)
            return code, _sentence(place.said("said"))

        code, said = refused(good.replace(place.service, live.service))
        assert (code, live.service in said, "another process" in said) == (EXIT_CANNOT_START, True, True)
        code, said = refused(good.replace(place.push, live.push))
        assert (code, live.push in said) == (EXIT_CANNOT_START, True)
        code, said = refused(good.replace(place.service, "ipc:///proc/none/users.sock"))
        assert (code, "/proc/none" in said) == (EXIT_CANNOT_START, True)
        code, said = refused(good.replace("users.sock", "u" * 100))
        assert (code, "100 bytes" in said) == (EXIT_USAGE, True)
        code, said = refused(good + "nmae: users\n")
        assert (code, "nmae" in said) == (EXIT_USAGE, True)
        (path / "sidecar.yaml").unlink()
        (path / "said").unlink()
        process = place.run("sidecar", said="said")
        assert process.wait(START_S) == EXIT_USAGE
        assert "mpy6a init" in _sentence(place.said("said"))
    _is_fine(live)


def _sentence(said: str) -> str:
    """What a process said at its end: one line for people, and no traceback."""
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    assert lines[0].startswith("mpy6a-sidecar: "), said
    return lines[0]


def test_it_drains_and_tells_what_it_did_not_take(free_port: FreePorts, processes: Processes) -> None:
    """SIGTERM: exit 0, and its last line counts what was dropped, by reason and exactly."""
    with short_directory() as path:
        place = Live(path, free_port, processes)
        place.start_pipe()
        sidecar = place.start_sidecar()
        with Peer(place.service) as peer, Peer(place.push, router=True) as dialing:
            peer.send(*hostile.FRAMES["two frames"])
            peer.send(*hostile.ENVELOPES["noise"].frames)
            assert isinstance(peer.receive(), Error)
            for frames in ((b"noise",), (b"two", b"frames"), (hostile.BEAT,)):
                dialing.send(_dialed(dialing), *frames)
            for _ in range(2):  # both sockets are read in each turn: behind the second answer the dial was read
                peer.hello()
        sidecar.terminate()
        assert sidecar.wait(START_S + ANSWER_S) == 0
        counted = place.counted()
        names = ("service_frames", "service_garbage", "dial_garbage", "dial_frames", "dial_unexpected")
        assert [counted.get(name) for name in names] == [1, 1, 1, 1, 1]
        assert "Traceback" not in place.said("sidecar.log")
