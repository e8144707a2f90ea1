"""Live processes for tests: a pipe, a sidecar, peers that send any bytes, and a client beside them that is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import zmq

import mpy6a
from mpy6a import wire
from mpy6a.errors import Code
from mpy6a.messages import (
    Ack,
    AdminReply,
    AdminRequest,
    AnyMessage,
    Batch,
    Ending,
    Error,
    Goodbye,
    Hello,
    Outcomes,
    Push,
    Serve,
    Welcome,
)
from mpy6a.model import BY_POLICY, AttemptOutcome, Op, SessionId, Verb
from tests.ports import FreePorts
from tests.processes import Processes

START_S: Final = 20.0  # a start takes 0.5 s; a busy machine gets the rest
ANSWER_S: Final = 10.0
ACK_S: Final = 2.5  # what a client beside a hostile one waits at most: its acks take 1 ms, and the machine is shared
PIPE: Final = 1
KIND: Final = 1

_PIPE_YAML: Final = """\
pipe: 1
data: {path}/data
listen: [{listen}]
admin: ipc://{path}/admin.sock
sidecars: {{users: {push}}}
routes: routes.yaml
log: {{segment: 16MiB}}
"""
_ROUTES_YAML: Final = """\
kinds:
  work: {id: 1, sidecars: [users], handler: {attached: true}, repeat: {delay: 0s, backoff: 1ms..2ms}}
  other: {id: 2, sidecars: [users], handler: {attached: true}}
"""
_SIDECAR_YAML: Final = """\
name: users
listen: ipc://{path}/users.sock
pipes: [{listen}]
push: {push}
routes: routes.yaml
"""


def environment(**more: str) -> dict[str, str]:
    """What a child needs to import the same package as this process, wherever it is."""
    package = Path(mpy6a.__file__).resolve().parent.parent
    told = {name: value for name, value in os.environ.items() if not name.startswith("MPY6A_")}
    return told | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"} | more


def new_incarnation() -> bytes:
    """16 random bytes that ZeroMQ takes as an identity too: the first is not 0."""
    return b"\x01" + os.urandom(15)


class Live:
    """The directory of one pipe and one sidecar, their configs, doors and processes."""

    def __init__(self, path: Path, free_port: FreePorts, processes: Processes) -> None:
        self.path = path
        self.listen = f"tcp://127.0.0.1:{free_port()}"
        self.push = f"tcp://127.0.0.1:{free_port()}"
        self.admin = f"ipc://{path}/admin.sock"
        self.service = f"ipc://{path}/users.sock"
        self.pipe: subprocess.Popen[bytes]
        self.sidecar: subprocess.Popen[bytes]
        self._processes = processes
        where = {"path": path, "listen": self.listen, "push": self.push}
        (path / "pipe.yaml").write_text(_PIPE_YAML.format(**where), encoding="utf-8")
        (path / "routes.yaml").write_text(_ROUTES_YAML, encoding="utf-8")
        (path / "sidecar.yaml").write_text(_SIDECAR_YAML.format(**where), encoding="utf-8")

    def run(self, *argv: str, said: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts `python -m ...` here; what it says goes to the file `said`."""
        with (self.path / said).open("ab") as log:
            return self._processes.start(
                [sys.executable, "-m", *argv], cwd=self.path, env=env or environment(), stdout=log, stderr=log
            )

    def start_pipe(self) -> subprocess.Popen[bytes]:
        """A pipe that answers."""
        process = self.run("mpy6a", "serve", "--log-format", "json", said="pipe.log")
        with Peer(self.listen) as peer:
            peer.hello(process)
        return process

    def start_sidecar(self) -> subprocess.Popen[bytes]:
        """A sidecar that answers and has heard its pipe."""
        process = self.run("sidecar", "--log-format", "json", said="sidecar.log")
        with Peer(self.service) as peer:
            peer.hello(process, pipes=1)
        return process

    def said(self, name: str) -> str:
        """What a process has said so far."""
        return (self.path / name).read_text(encoding="utf-8")

    def counted(self) -> dict[str, int]:
        """What the sidecar told of messages that it did not take; it says so at its end."""
        counts: dict[str, int] = {}
        for line in self.said("sidecar.log").splitlines():
            facts = json.loads(line)
            if facts["message"].startswith("messages were not taken"):
                counts |= {name: value for name, value in facts.items() if isinstance(value, int)}
        return counts

    def status(self) -> dict[str, Any]:
        """The pipe at a glance, over its admin door."""
        with Peer(self.admin) as peer:
            return peer.ask("status")

    def dropped(self) -> dict[str, int]:
        """How many messages the pipe did not take, by reason."""
        counts: dict[str, int] = self.status()["dropped"]
        return counts


class Peer:
    """One socket to a door. It sends whatever bytes it is given, and says what came back."""

    def __init__(
        self,
        address: str,
        *,
        identity: bytes = b"",
        bind: bool = False,
        router: bool = False,
        probe: bool = False,
        room: int = 0,
    ) -> None:
        self.incarnation = new_incarnation()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER if router else zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self.socket.setsockopt(zmq.SNDTIMEO, int(ANSWER_S * 1_000))
        self.socket.setsockopt(zmq.PROBE_ROUTER, int(probe))
        if room:  # a slow reader: so many messages, and no more in the kernel than it has to take
            self.socket.setsockopt(zmq.RCVHWM, room)
            self.socket.setsockopt(zmq.RCVBUF, 4_096)
        if identity:
            self.socket.setsockopt(zmq.ROUTING_ID, identity)
        if bind:
            self.socket.bind(address)
        else:
            self.socket.connect(address)
        self.sidecar = b""  # the incarnation that was met, by a ROUTER that dials
        self._waiting: list[AnyMessage] = []
        self._number = 0

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def send(self, *frames: bytes) -> None:
        """One ZeroMQ message of these frames."""
        self.socket.send_multipart(frames)

    def say(self, value: AnyMessage, pipe: int = PIPE) -> None:
        """One message as it should be."""
        self.send(wire.encode(value, incarnation=self.incarnation, pipe=pipe))

    def receive(self, timeout_s: float = ANSWER_S) -> AnyMessage:
        """The next message. Raises TimeoutError."""
        while not self._waiting:
            if not self.socket.poll(max(0, int(timeout_s * 1_000))):
                raise TimeoutError(f"no answer in {timeout_s} s")
            frames = self.socket.recv_multipart()
            self._waiting = [wire.decode(message) for message in wire.unpack(frames[-1])] if frames[-1] else []
        return self._waiting.pop(0)

    def error(self) -> Error:
        """The next message, which has to be an error; welcomes that come by themselves are passed over."""
        while isinstance(value := self.receive(), Welcome):
            continue
        assert isinstance(value, Error), value
        return value

    def is_silent(self, for_s: float = 0.2) -> bool:
        """Whether nothing comes for so long."""
        return not self._waiting and not self.socket.poll(int(for_s * 1_000))

    def hello(self, process: subprocess.Popen[bytes] | None = None, pipes: int = 0) -> Welcome:
        """Says hello until a welcome comes that names so many live pipes. Raises TimeoutError."""
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            assert process is None or process.poll() is None, f"it ended with {process and process.returncode}"
            self.say(Hello(name="test"), pipe=0)
            try:
                while True:
                    value = self.receive(0.3)
                    if isinstance(value, Welcome) and sum(info.live for info in value.pipes) >= pipes:
                        return value
            except TimeoutError:
                continue
        raise TimeoutError("no welcome")

    def batch(self, *ops: Op, mark: int = 1, timeout_s: float = ANSWER_S) -> Ack:
        """One batch and its ack. Raises TimeoutError."""
        self._number += 1
        self.say(Batch(self._number, mark, int(time.time() * 1_000), list(ops), []))
        end_s = time.monotonic() + timeout_s
        while True:
            value = self.receive(end_s - time.monotonic())
            if isinstance(value, Ack) and value.number == self._number:
                return value
            assert not isinstance(value, Error), value

    def new(self, request: int = 1, record: bytes | None = b"first", kind: int = KIND) -> SessionId:
        """A New that has to succeed."""
        ack = self.batch(Op(Verb.NEW, request, argument=kind, record=record), mark=request)
        assert (ack.code, ack.results) == (Code.OK, ()), ack
        return SessionId(PIPE, ack.term, ack.first_index)

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One operator's question that has to be answered."""
        reply = self.request(verb, json.dumps(arguments))
        assert reply.code == Code.OK, reply
        body: dict[str, Any] = json.loads(reply.body)
        return body

    def request(self, verb: str, arguments: str) -> AdminReply:
        """One operator's question, and what came back."""
        self._number += 1
        self.say(AdminRequest(self._number, verb, arguments))
        while True:
            value = self.receive()
            if isinstance(value, AdminReply) and value.number == self._number:
                return value
            assert not isinstance(value, Error), value


class Companion:
    """A well-behaved client in a thread: one session after another, each of its acks timed.

    Leaving the block without an error asserts that it got answers all the while, each within ACK_S.
    """

    def __init__(self, address: str, *, pipes: int = 1) -> None:
        self._address = address
        self._pipes = pipes
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acks = 0
        self.worst_s = 0.0
        self.failure = ""

    def __enter__(self) -> Companion:
        self._thread.start()
        assert self._ready.wait(START_S), "the well-behaved client was never answered"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(START_S + 3 * ANSWER_S)
        if error is None:
            assert not self.failure, self.failure
            assert self.worst_s <= ACK_S, f"an ack took {self.worst_s:.1f} s beside a hostile peer"
            assert self.acks >= 2

    def _run(self) -> None:
        with Peer(self._address) as peer:
            try:
                peer.hello(pipes=self._pipes)
                request = 0
                while not self._stop.is_set() or request < 2:
                    request += 1
                    self._lifecycle(peer, request)
                    self._ready.set()
                    self._stop.wait(0.002)
            except (AssertionError, TimeoutError) as problem:
                self.failure = f"{type(problem).__name__}: {problem}"
            self._ready.set()

    def _lifecycle(self, peer: Peer, request: int) -> None:
        session = self._timed(peer, Op(Verb.NEW, request, argument=KIND, record=b"first"), mark=request)
        of = (session.first_index, session.term, 1)
        self._timed(peer, Op(Verb.APPEND, *of, 1, record=b"more"), Op(Verb.DELETE, *of, 2), mark=request + 1)

    def _timed(self, peer: Peer, *ops: Op, mark: int) -> Ack:
        begin_s = time.monotonic()
        ack = peer.batch(*ops, mark=mark, timeout_s=2 * ANSWER_S)
        self.worst_s = max(self.worst_s, time.monotonic() - begin_s)
        assert (ack.code, ack.results) == (Code.OK, ()), ack
        self.acks += 1
        return ack


def repeat_once(service: str) -> None:
    """Has an unfinished session come back to an attached service at this door, which finishes it."""
    with Peer(service) as handler, Peer(service) as client:
        handler.hello(pipes=1)
        handler.say(Serve((KIND,), 4), pipe=0)
        client.hello(pipes=1)
        session = client.new(record=b"unfinished")
        client.batch(Op(Verb.STORE, session.index, session.term, 1, 1, BY_POLICY), mark=2)
        while not isinstance(push := handler.receive(), Push):
            assert isinstance(push, Welcome), push
        (part,) = [part for part in push.sessions if part.index == session.index]
        assert part.records == (b"unfinished",)
        ack = handler.batch(Op(Verb.DELETE, part.index, part.term, part.epoch, 1))
        assert (ack.code, ack.results) == (Code.OK, ()), ack
        handler.say(Outcomes((Ending(part.term, part.index, part.epoch, AttemptOutcome.DECIDED),)))
        handler.say(Goodbye())
        handler.hello()  # answered behind the goodbye: it was taken
