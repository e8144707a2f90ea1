"""The loop on real sockets over a memory log, in a thread: it answers, counts, takes turns, and ends when told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pytest
import zmq

from mpy6a import limits, wire
from mpy6a.clock import OsClock
from mpy6a.errors import CannotStart, Code, DamagedLog
from mpy6a.log.memory import MemoryLog
from mpy6a.messages import (
    Accepted,
    Ack,
    AdminReply,
    AdminRequest,
    AnyMessage,
    Batch,
    Error,
    Goodbye,
    Greeting,
    Heartbeat,
    Hello,
    KindCredit,
    MessageType,
    Pong,
    Push,
    Role,
    SessionEpoch,
    SidecarHello,
    Stop,
    Welcome,
)
from mpy6a.model import NOBODY, Op, Verb
from mpy6a.policy import policy_of
from mpy6a.server import Server, log_facts
from mpy6a.sockets import Socket
from tests.fakes.core import KIND

A, S = b"A" * 16, b"S" * 16
WAIT_MS: Final = 10_000


class Running:
    """A server in a thread, and the sockets that a test opens to it."""

    def __init__(self, path: Path, log: MemoryLog | None = None) -> None:
        self.log = log or MemoryLog()
        self.listen, self.admin = f"ipc://{path}/listen.sock", f"ipc://{path}/admin.sock"
        self.push = f"ipc://{path}/push.sock"
        self.server = Server(
            self.log,
            1,
            policy_of([KIND]),
            OsClock(),
            listen=[self.listen],
            admin=self.admin,
            sidecars={"users": self.push},
        )
        self.server.replay()
        self._context: zmq.Context[Socket] = zmq.Context()
        self._opened: list[Socket] = []
        self._asks: Socket | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:  # noqa: BLE001 -- told to the test's own thread
            self._failure = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._context.destroy(linger=0)
        self.server.close()
        if self._failure is not None:
            raise self._failure

    def peer(self, address: str = "", identity: bytes = b"", *, bind: bool = False) -> Socket:
        socket = self._context.socket(zmq.DEALER)
        self._opened.append(socket)
        socket.setsockopt(zmq.LINGER, 0)
        if identity:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        if bind:
            socket.setsockopt(zmq.PROBE_ROUTER, 1)
            socket.bind(address)
        else:
            socket.connect(address or self.listen)
        return socket

    def status(self) -> dict[str, Any]:
        if self._asks is None:  # one for all questions: who asks until something is so asks thousands of times
            self._asks = self.peer(self.admin)
        reply = ask(self._asks, AdminRequest(1, "status"))
        assert isinstance(reply, AdminReply)
        body: dict[str, Any] = json.loads(reply.body)
        return body


@pytest.fixture
def running(short_tmp: Path) -> Iterator[Running]:
    with Running(short_tmp) as running:
        yield running


def say(socket: Socket, value: AnyMessage, who: bytes = A) -> None:
    socket.send(wire.encode(value, incarnation=who, pipe=1))


def hear(socket: Socket) -> tuple[AnyMessage, bytes]:
    """The next message and the incarnation in its header."""
    assert socket.poll(WAIT_MS), "no answer"
    [message] = wire.unpack(socket.recv())
    return wire.decode(message), message.incarnation


def ask(socket: Socket, value: AnyMessage, who: bytes = A) -> AnyMessage:
    say(socket, value, who)
    return hear(socket)[0]


def new(request: int = 1, record: bytes = b"first") -> Batch:
    return Batch(request, request, int(time.time() * 1_000), [Op(Verb.NEW, request, argument=1, record=record)], [])


def test_a_client_is_welcomed_acked_and_forgotten(running: Running) -> None:
    """Hello, batch, heartbeat, goodbye; the log has the opening and the policy before anything else."""
    peer = running.peer()
    welcome = ask(peer, Hello())
    assert isinstance(welcome, Welcome)
    assert (welcome.role, welcome.pipes[0].pipe, welcome.hop) == (Role.PIPE, 1, running.server.pipe.incarnation)
    ack = ask(peer, new())
    assert isinstance(ack, Ack)
    assert (ack.first_index, ack.results) == (3, ())
    assert isinstance(ask(peer, Heartbeat()), Pong)
    say(peer, Goodbye())
    while running.status()["kinds"][0]["stored"] != 1:
        continue  # its session waits for its repeat, at once


def test_answers_go_by_the_headers_incarnation(running: Running) -> None:
    """Two clients in one envelope: two answers, each with the incarnation that it is for."""
    peer = running.peer()
    clients = [b"B" * 16, b"C" * 16]
    peer.send(b"".join(wire.encode(Heartbeat(), incarnation=client, pipe=1) for client in clients))
    assert [hear(peer)[1] for _ in clients] == clients


def test_what_cannot_be_read_is_answered_to_nobody_in_particular(running: Running) -> None:
    """Only an error may have zeros: it answers what could not be read; several frames too."""
    peer = running.peer()
    for frames in ([b"noise"], [b""], [b"a", b"b"]):
        peer.send_multipart(frames)
        error, who = hear(peer)
        assert isinstance(error, Error)
        assert (error.code, who) == (Code.MALFORMED, NOBODY)
    assert running.status()["dropped"] == {"malformed": 3}


def test_the_doors_keep_to_their_messages(running: Running) -> None:
    """Operators' verbs at `listen` are NOT_ADMIN; clients' messages at `admin` are refused; hello is answered there."""
    client, operator = running.peer(), running.peer(running.admin)
    error = ask(client, AdminRequest(1, "status"))
    assert isinstance(error, Error)
    assert error.code == Code.NOT_ADMIN
    welcome = ask(operator, Hello())
    assert isinstance(welcome, Welcome)
    assert welcome.role == Role.ADMIN
    for value in (new(), Heartbeat(), SidecarHello(1, 1, "users")):
        assert isinstance(ask(operator, value), Error)
    assert running.status()["live"] == 0


def test_a_version_that_nobody_has_in_common_is_said(running: Running) -> None:
    """VERSION, at both doors; a range that holds ours is welcome."""
    for address in (running.listen, running.admin):
        peer = running.peer(address)
        error = ask(peer, Hello(version_low=2, version_high=3))
        assert isinstance(error, Error)
        assert error.code == Code.VERSION
        assert isinstance(ask(peer, Hello(version_low=0, version_high=9)), Welcome)


def test_what_is_dear_to_read_holds_up_its_sender_only(running: Running) -> None:
    """One turn reads a door for a bounded time, not for a bounded number of messages."""
    hostile, good = running.peer(), running.peer()
    assert isinstance(ask(good, Hello(), b"G" * 16), Welcome)
    dear = wire.encode(
        Stop(1, 1, 1, tuple(SessionEpoch(1, number, 2) for number in range(1, 16_385))), incarnation=A, pipe=1
    )
    for _ in range(40):
        hostile.send(dear)  # up to 100 ms each: 4 s, if nobody else got a turn in between
    assert isinstance(ask(good, new(1), b"G" * 16), Ack)
    assert running.status()["dropped"].get("malformed", 0) < 40, "all of them were read first"


def test_a_sidecar_is_dialed_greeted_and_pushed_to(running: Running) -> None:
    """The pipe dials; the sidecar answers over its own connection; what is said over the dial is dropped."""
    sidecar, own, client = running.peer(running.push, S, bind=True), running.peer(), running.peer()
    greeting, _ = hear(sidecar)
    assert isinstance(greeting, Greeting)
    say(own, SidecarHello(greeting.dial, greeting.term, "users", (), (KindCredit(1, 4, 1 << 20),)), S)
    ack = ask(client, new())
    assert isinstance(ack, Ack)
    op = Op(Verb.STORE, ack.first_index, ack.term, 1, 1)
    assert isinstance(ask(client, Batch(2, 2, int(time.time() * 1_000), [op], [])), Ack)
    push, _ = hear(sidecar)
    assert isinstance(push, Push)
    assert push.sessions[0].records == (b"first",)
    say(own, Accepted(greeting.dial, greeting.term, 1, (KindCredit(1, 5, 1 << 20),)), S)
    sidecar.send(b"noise")
    sidecar.send_multipart([b"two", b"frames"])
    while (status := running.status())["dropped"].get("spoke_on_dial") != 2:
        continue
    assert status["sidecars"][0]["connected"]
    assert status["kinds"][0]["repeating"] == 1


def test_a_sidecar_that_went_is_found_out_by_the_next_send(short_tmp: Path) -> None:
    """ROUTER_MANDATORY: a push to nobody is counted, and the dial is over."""
    with Running(short_tmp) as running:
        sidecar, own, client = running.peer(running.push, S, bind=True), running.peer(), running.peer()
        greeting, _ = hear(sidecar)
        assert isinstance(greeting, Greeting)
        say(own, SidecarHello(greeting.dial, greeting.term, "users", (), (KindCredit(1, 4, 1 << 20),)), S)
        while not running.status()["sidecars"][0]["connected"]:
            continue
        sidecar.close(0)
        ack = ask(client, new())
        assert isinstance(ack, Ack)
        op = Op(Verb.STORE, ack.first_index, ack.term, 1, 1)
        ask(client, Batch(2, 2, int(time.time() * 1_000), [op], []))
        while running.status()["sidecars"][0]["connected"]:
            continue
        assert running.status()["dropped"]["peer_gone"] >= 1


def test_stop_ends_after_what_was_taken_in_is_committed(short_tmp: Path) -> None:
    """SIGTERM: finishes what it took; the next server has it, in a new term."""
    with Running(short_tmp) as running:
        ack = ask(running.peer(), new())
        assert isinstance(ack, Ack)
        log = running.log
    with Running(short_tmp, log.restarted()) as again:
        status = again.status()
        assert (status["term"], status["live"]) == (2, 1)


def test_stop_may_be_called_at_any_time_and_more_than_once(short_tmp: Path) -> None:
    """Before `run`, from another thread, again and again: it never blocks."""
    running = Running(short_tmp)
    for _ in range(10_000):
        running.server.stop()
    with running:
        pass


def test_a_door_in_use_is_refused_and_the_one_who_has_it_serves_on(running: Running, short_tmp: Path) -> None:
    """A second server on the same paths cannot start, and says why."""
    with pytest.raises(CannotStart, match="another process listens there"):
        Running(short_tmp)
    assert isinstance(ask(running.peer(), Hello()), Welcome)


def test_a_log_without_its_beginning_is_refused(short_tmp: Path) -> None:
    """Nothing tells what was before its first index: damage, not an empty pipe."""
    log = MemoryLog()
    log._first_index = 7
    running = Running.__new__(Running)
    with pytest.raises(DamagedLog, match="index 7"):
        Running.__init__(running, short_tmp, log)
    running.server.close()


def test_status_tells_the_log_and_the_process(running: Running) -> None:
    """Only the driver knows them: syncs, processor time, memory."""
    ask(running.peer(), new())
    status = running.status()
    assert status["process"]["rss_max_kib"] > 0
    assert status["log"]["entries"] == 3
    assert log_facts(running.log)["frames"] == 3
    assert status["durable"] is False, "a memory log makes nothing durable"


def test_a_full_envelope_is_taken_and_every_message_answered(running: Running) -> None:
    """1,024 messages in one: as many answers, in order."""
    peer = running.peer()
    one = wire.encode(Heartbeat(), incarnation=A, pipe=1)
    peer.send(one * limits.ENVELOPE_MESSAGES_MAX)
    assert all(isinstance(hear(peer)[0], Pong) for _ in range(limits.ENVELOPE_MESSAGES_MAX))
    peer.send(one * (limits.ENVELOPE_MESSAGES_MAX + 1))
    assert isinstance(hear(peer)[0], Error)


@pytest.mark.parametrize("kind", [MessageType.WELCOME, MessageType.PUSH, MessageType.NOTICE, 0, 200])
def test_an_unknown_type_or_a_damaged_body_costs_its_sender_an_error(running: Running, kind: int) -> None:
    """With the type that was not taken; the rest of the envelope is."""
    peer = running.peer()
    body = b"\xff" * 64
    bad = wire.pack(kind, body, incarnation=A, pipe=1)
    peer.send(bad + wire.encode(Heartbeat(), incarnation=A, pipe=1))
    error, _ = hear(peer)
    assert isinstance(error, Error)
    assert (error.code, error.type) == (Code.MALFORMED, kind)
    assert isinstance(hear(peer)[0], Pong)
