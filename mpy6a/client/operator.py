"""An operator's questions and orders to a pipe, over its admin door: one request at a time, blocking."""

from __future__ import annotations

import json
import os
import time
from types import TracebackType
from typing import Final

import zmq

from mpy6a import errors, limits, wire
from mpy6a.client import door as doors
from mpy6a.errors import Code
from mpy6a.messages import AdminReply, AdminRequest, Error

TIMEOUT_S: Final = 10.0  # a reply is quick; a pipe that takes longer is not there


class Operator:
    """Talks to the admin door at `address` (a path, `ipc://path` or `tcp://host:port`). Constructing does no I/O."""

    def __init__(self, address: str, *, timeout: float = TIMEOUT_S) -> None:
        self.address = doors.address(address)
        self._timeout = timeout
        self._incarnation = os.urandom(16)
        self._number = 0
        self._socket: zmq.Socket[bytes] | None = None

    def request(self, verb: str, arguments: dict[str, object] | None = None) -> dict[str, object]:
        """The reply to one verb of `mpy6a.admin`.

        Raises by the reply's code (NoSuchSession, BadRequest, NotAdmin, ...), and Unavailable, naming the address, when
        no reply comes in time: then the order may still be carried out.
        """
        self._number += 1
        request = AdminRequest(self._number, verb, json.dumps(arguments or {}, ensure_ascii=False))
        socket = self._connected()
        socket.send(wire.encode(request, incarnation=self._incarnation))
        give_up_at = time.monotonic() + self._timeout
        while (left := give_up_at - time.monotonic()) > 0 and socket.poll(int(left * 1000) + 1):
            reply = self._read(socket.recv_multipart())
            if isinstance(reply, AdminReply) and reply.number == self._number:
                if reply.code != Code.OK:
                    raise errors.from_code(reply.code, reply.message)
                body: dict[str, object] = json.loads(reply.body)
                return body
            if isinstance(reply, Error) and reply.number in (0, self._number):
                raise errors.from_code(reply.code, reply.message)
        self.close()  # what is queued there must not be carried out by a pipe that starts later
        raise errors.Unavailable(
            f"no answer from {self.address} in {self._timeout:g} s: does the pipe run, is this its `admin:` address?"
        )

    def close(self) -> None:
        """Closes the socket; the next request opens it again."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> zmq.Socket[bytes]:
        if self._socket is not None:
            return self._socket
        path = self.address.removeprefix("ipc://")
        if path != self.address and not os.path.exists(path):
            raise errors.Unavailable(f"nobody listens at {self.address}: start the pipe with `mpy6a serve`")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, limits.ENVELOPE_BYTES_MAX)
        socket.connect(self.address)
        return socket

    def _read(self, frames: list[bytes]) -> object:
        """The message that is for this operator; None for anything else."""
        if len(frames) != 1:
            return None
        try:
            for message in wire.unpack(frames[0]):
                if message.incarnation == self._incarnation:
                    return wire.decode(message)
        except errors.Refused as error:
            raise errors.Unavailable(f"{self.address} does not speak this protocol: {error}") from error
        return None
