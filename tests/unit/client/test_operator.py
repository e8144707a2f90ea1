"""An operator's requests to the admin door."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from mpy6a import errors, wire
from mpy6a.client.operator import Operator
from mpy6a.errors import Code
from mpy6a.messages import AdminReply, AdminRequest, AnyMessage, Error, MessageType

Answer = Callable[[AdminRequest], list[AnyMessage]]


class Door:
    """An admin door in a thread: each request is answered as `answer` says."""

    def __init__(self, address: str, answer: Answer) -> None:
        self.address = address
        self.answer = answer
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._router.poll(5):
                continue
            peer, payload = self._router.recv_multipart()
            (message,) = wire.unpack(payload)
            request = wire.decode(message)
            assert isinstance(request, AdminRequest)
            for answer in self.answer(request):
                self._router.send_multipart([peer, wire.encode(answer, incarnation=message.incarnation)])

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._router.close(0)
        self._context.term()


def test_a_request_gets_its_reply(short_tmp: Path) -> None:
    """Verb and arguments arrive, the body comes back; a late reply to an earlier request is not taken for it."""

    def answer(request: AdminRequest) -> list[AnyMessage]:
        body = {"verb": request.verb, "arguments": json.loads(request.arguments)}
        late = AdminReply(request.number - 1, 0, "", '{"late": true}')
        return [late, AdminReply(request.number, 0, "", json.dumps(body))]

    with Door(f"ipc://{short_tmp}/admin.sock", answer) as door, Operator(door.address) as operator:
        assert operator.request("status") == {"verb": "status", "arguments": {}}
        assert operator.request("sessions.kick", {"who": "Zoë"}) == {
            "verb": "sessions.kick",
            "arguments": {"who": "Zoë"},
        }


def test_a_refusal_is_raised_by_its_code(short_tmp: Path) -> None:
    def answer(request: AdminRequest) -> list[AnyMessage]:
        if request.verb == "no":
            return [AdminReply(request.number, Code.NO_SUCH_SESSION, "no live session 1.2.3")]
        return [Error(Code.NOT_ADMIN, "this is no admin door", MessageType.ADMIN_REQUEST)]

    with Door(f"ipc://{short_tmp}/admin.sock", answer) as door, Operator(door.address) as operator:
        with pytest.raises(errors.NoSuchSession, match=r"no live session 1\.2\.3"):
            operator.request("no")
        with pytest.raises(errors.NotAdmin, match="no admin door"):
            operator.request("status")


def test_nobody_there_is_said_with_the_address(short_tmp: Path) -> None:
    """At once where the socket's file is missing, after the timeout where nobody answers; then a pipe that starts
    later does not carry the order out."""
    with (
        Operator(str(short_tmp / "admin.sock")) as operator,
        pytest.raises(errors.Unavailable, match=r"nobody listens at ipc://.*/admin\.sock"),
    ):
        operator.request("status")
    path = short_tmp / "dead.sock"
    path.touch()
    seen: list[str] = []

    def answer(request: AdminRequest) -> list[AnyMessage]:
        seen.append(request.verb)
        return [AdminReply(request.number, 0)] if request.verb != "lost" else []

    with Operator(str(path), timeout=0.05) as operator:
        with pytest.raises(errors.Unavailable, match=r"no answer from ipc://.*/dead\.sock in 0\.05 s"):
            operator.request("lost")
        path.unlink()
        with Door(f"ipc://{path}", answer), Operator(str(path)) as second:
            assert second.request("status") == {}
    assert seen == ["status"]
