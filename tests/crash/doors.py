"""Speak to a pipe's doors with plain messages of the wire: one operation or question at a time, or many."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import zmq

from mpy6a.messages import Ack, AdminReply, AdminRequest, AnyMessage, Batch, Hello, Welcome
from mpy6a.model import Op, SessionId
from mpy6a.wire import decode, encode, unpack
from tests.crash.oracle import Id, Session

ANSWER_S = 10.0
_PAGE = 1_000
_AHEAD = 64  # questions on their way at a time


class NoAnswer(TimeoutError):
    """Nothing came in time."""


class Door:
    """One DEALER to a door of a pipe."""

    def __init__(self, address: str) -> None:
        self.incarnation = os.urandom(16)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 50)
        self._socket.connect(address)
        self._number = 0

    def __enter__(self) -> Door:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def send(self, value: AnyMessage) -> None:
        self._socket.send(encode(value, incarnation=self.incarnation, pipe=1))

    def receive(self, timeout_s: float = ANSWER_S) -> AnyMessage:
        """The next message. Raises NoAnswer."""
        if not self._socket.poll(max(0, int(timeout_s * 1_000))):
            raise NoAnswer(f"no answer in {timeout_s} s")
        (message,) = unpack(self._socket.recv())
        return decode(message)

    def hello(self, timeout_s: float = ANSWER_S) -> Welcome:
        """Wait until the pipe answers. Raises NoAnswer."""
        end_s = time.monotonic() + timeout_s
        while True:
            self.send(Hello(name="test"))
            try:
                value = self.receive(min(0.5, end_s - time.monotonic()))
            except NoAnswer:
                if time.monotonic() >= end_s:
                    raise
                continue
            if isinstance(value, Welcome):
                return value

    def batch(self, ops: Sequence[Op], number: int = 0, timeout_s: float = ANSWER_S) -> Ack:
        """Send one batch and wait for its ack; answers to others are passed over. Raises NoAnswer."""
        self._number = number or self._number + 1
        self.send(Batch(self._number, 1, int(time.time() * 1_000), list(ops), []))
        end_s = time.monotonic() + timeout_s
        while True:
            value = self.receive(max(0.0, end_s - time.monotonic()))
            if isinstance(value, Ack) and value.number == self._number:
                return value

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One question at the admin door."""
        (body,) = self.ask_all(verb, [arguments])
        return body

    def ask_all(self, verb: str, arguments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Many questions at the admin door, some of them on their way at a time; answers in their order."""
        bodies: dict[int, dict[str, Any]] = {}
        asked = 0
        while len(bodies) < len(arguments):
            while asked < len(arguments) and asked < len(bodies) + _AHEAD:
                self.send(AdminRequest(asked + 1, verb, json.dumps(arguments[asked])))
                asked += 1
            reply = self.receive()
            if isinstance(reply, Welcome):
                continue
            assert isinstance(reply, AdminReply), reply
            assert not reply.code, reply.message
            bodies[reply.number] = json.loads(reply.body)
        return [bodies[number + 1] for number in range(len(arguments))]


def read_sessions(admin: str) -> dict[Id, Session]:
    """Every live session with its records, as `sessions list` and `sessions show` tell them."""
    with Door(admin) as door:
        ids: list[str] = []
        after = 0
        while True:
            page = door.ask("sessions.list", after=after, limit=_PAGE)
            ids += [session["id"] for session in page["sessions"]]
            if not page["more"]:
                break
            after = SessionId.parse(ids[-1]).index
        assert page["live"] == len(ids)
        shown = door.ask_all("sessions.show", [{"id": id, "records": True} for id in ids])
    found: dict[Id, Session] = {}
    for text, session in zip(ids, shown, strict=True):
        id = SessionId.parse(text)
        records = [base64.b64decode(record) for record in session["records_base64"]]
        assert session["epoch"] == 1
        kind = {"one": 1, "two": 2}[session["kind"]]
        found[id.term, id.index] = Session(b"", kind, records, session["seq"], stored=session["state"] == "stored")
    return found
