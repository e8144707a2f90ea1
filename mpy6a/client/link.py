"""The client's socket at its door: a DEALER that is drained without waiting, and says when its peer came or
went."""

from __future__ import annotations

import struct
import weakref
from typing import Final

import zmq

from mpy6a import limits
from mpy6a.sockets import readable, take_whole

# As plain numbers: pyzmq's enums cost a conversion for each use (evidence.md, "ZeroMQ from Python").
_NOBLOCK: Final = int(zmq.NOBLOCK)
_UP: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DOWN: Final = int(zmq.EVENT_DISCONNECTED)
_EVENT: Final = struct.Struct("=HI")

_DRAIN_MAX: Final = limits.DRAIN_MESSAGES_MAX


class Link:
    """One DEALER to `address`, with its monitor. No call waits. Used by one thread at a time.

    `fd` and `monitor_fd` become readable when `receive` and `changes` have something; both are
    edge-triggered: look again with `pending` after every send. Without `queue_unconnected` a message finds
    a peer or is dropped. `dropped` counts messages of more than one frame, and sends that found ZeroMQ's
    own queue full (the exchange sends again).
    """

    def __init__(
        self,
        address: str,
        *,
        queue_unconnected: bool = True,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        # A context of its own, because only the end of a context waits for what was sent last. A second socket of the
        # client shares it, and has to be closed before.
        self._owns_context = context is None
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context() if context is None else context
        self.dropped = 0
        self._up = False
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndhwm = limits.CLIENT_QUEUE_MESSAGES
        self.socket.rcvhwm = 0  # with heartbeats, a full queue ends the process (mpy6a.sockets.open_socket)
        self.socket.setsockopt(zmq.MAXMSGSIZE, limits.ENVELOPE_BYTES_MAX)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, limits.ZMQ_HEARTBEAT_MS)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, limits.ZMQ_HEARTBEAT_TIMEOUT_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL, limits.RECONNECT_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, limits.RECONNECT_MAX_MS)
        self.socket.setsockopt(zmq.IMMEDIATE, not queue_unconnected)
        # CONNECTED fires for a stopped peer too; a handshake is done by one that lives (evidence.md).
        self._monitor = self.socket.get_monitor_socket(_UP | _DOWN)
        self._monitor.linger = 0
        self.fd = int(self.socket.getsockopt(zmq.FD))
        self.monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        self.socket.connect(address)
        # When it is forgotten rather than closed: a context that is collected with open sockets waits for ever.
        self._forgotten = weakref.finalize(self, _let_go, self.socket, self._monitor)
        self._forgotten.atexit = False

    def send(self, messages: list[bytes]) -> None:
        """Hands each message to ZeroMQ, or drops and counts it when ZeroMQ's queue is full."""
        for message in messages:
            try:
                self.socket.send(message, _NOBLOCK)
            except zmq.Again:
                self.dropped += 1

    def pending(self) -> bool:
        """Whether `receive` would find something."""
        return readable(self.socket)

    def receive(self) -> list[bytes]:
        """What has arrived, at most DRAIN_MESSAGES_MAX messages; what has more than one frame is dropped."""
        payloads: list[bytes] = []
        socket = self.socket
        while len(payloads) < _DRAIN_MAX and readable(socket):
            frame = take_whole(socket)
            if frame is None:
                self.dropped += 1
            else:
                payloads.append(frame.bytes)
        return payloads

    def changes(self) -> list[bool]:
        """Since the last call, in order: True for a handshake done, False for a connection lost."""
        found: list[bool] = []
        while readable(self._monitor):
            event, *_ = self._monitor.recv_multipart(_NOBLOCK)
            number, _ = _EVENT.unpack(event)
            found.append(number == _UP)
            self._up = number == _UP
        return found

    def close(self, linger_ms: int = 0) -> None:
        """Closes. Waits up to `linger_ms` until what was sent has left, so that the process may end at once: no time at
        all where the door is reached, and none where it is known to be lost."""
        if self.socket.closed:
            return
        self.changes()
        self._forgotten.detach()
        _let_go(self.socket, self._monitor, linger_ms if self._up else 0)
        if self._owns_context:
            self.context.term()


def _let_go(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], linger_ms: int = 0) -> None:
    socket.disable_monitor()
    monitor.close(0)
    socket.close(linger_ms)
