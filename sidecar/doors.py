"""The sidecar's sockets: the service's ROUTER, a DEALER to each pipe, and the bound DEALER that the pipes
dial.

No call waits. Messages of more than one frame are dropped and counted. File descriptors of ZeroMQ are
edge-triggered, and sending or reading takes their edge: so a socket is asked when its descriptor spoke (`note`), and
again after whatever was done with it (`pending`), and no other one is. Source: shared evidence, "ZeroMQ traps".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import zmq

from mpy6a import limits
from mpy6a.sockets import Socket, bind, open_socket, readable, take_whole
from sidecar.peers import Peers

# As plain numbers: pyzmq's enums cost a conversion for each use.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_SNDMORE: Final = int(zmq.SNDMORE) | _NOBLOCK
_POLLOUT: Final = int(zmq.POLLOUT)
_COPY_BYTES: Final = 65_536  # above it, sending without a copy is cheaper


class Doors:
    """All sockets of one sidecar, bound and connected. Raises CannotStart with one sentence."""

    def __init__(
        self,
        incarnation: bytes,
        listen: str,
        mode: int,
        group: int,
        pipes: Sequence[str],
        push: str | None,
        counts: Counter[str],
    ) -> None:
        self._counts = counts
        self._context: zmq.Context[Socket] = zmq.Context()
        self._locks: list[int] = []
        self._monitors: list[Socket] = []
        self._links: list[Socket] = []
        self._dial: Socket | None = None
        self._asked: set[Socket] = set()  # sockets that may have something to read
        try:
            self._service = self._bound(zmq.ROUTER, listen, mode, group)
            if push is not None:
                self._dial = self._dialed(push, incarnation)
            for address in pipes:
                self._link(address)
            self._by_descriptor = {int(socket.getsockopt(zmq.FD)): socket for socket in self._all()}
            self.note_all()
        except BaseException:
            self.close()
            raise

    def descriptors(self) -> list[int]:
        """What becomes readable when there is something to do."""
        return list(self._by_descriptor)

    def note(self, descriptor: int) -> None:
        """That descriptor became readable."""
        self._asked.add(self._by_descriptor[descriptor])

    def note_all(self) -> None:
        """Look at every socket, whatever its descriptor said."""
        self._asked.update(self._by_descriptor.values())

    def pending(self) -> bool:
        """Has any socket more to read?"""
        self._asked = {socket for socket in self._asked if readable(socket)}
        return bool(self._asked)

    # ---- reading

    def from_service(self, peers: Peers) -> Iterator[tuple[bytes, bytes, int]]:
        """(identity, payload, principal) of what clients sent, at most one drain of it."""
        socket = self._service
        if socket not in self._asked:
            return
        for _ in range(limits.DRAIN_MESSAGES_MAX):
            if not readable(socket):
                return
            identity = socket.recv(_NOBLOCK)  # a ROUTER puts it before each message: something follows
            frame = take_whole(socket)
            if frame is None:
                self._counts["service_frames"] += 1
                continue
            principal = peers.principal(identity)
            if principal is None:
                principal = peers.seen(identity, frame)
            yield identity, frame.bytes, principal

    def from_pipe(self, number: int) -> Iterator[bytes]:
        """What the pipe of that link sent."""
        return self._single(self._links[number], "pipe_frames")

    def from_dials(self) -> Iterator[bytes]:
        """What pipes sent over the connections they dialed."""
        return self._single(self._dial, "dial_frames") if self._dial is not None else iter(())

    def connected(self) -> list[int]:
        """Links whose handshake was done since the last call: a peer that lives."""
        done: list[int] = []
        for number, monitor in enumerate(self._monitors):
            for _ in range(limits.DRAIN_MESSAGES_MAX if monitor in self._asked else 0):
                if not readable(monitor):
                    break
                take_whole(monitor)  # two frames; only that there was an event matters
                done.append(number)
        return done

    def writable(self, number: int) -> bool:
        self._asked.add(self._links[number])
        return bool(zmq.zmq_poll([(self._links[number], _POLLOUT)], 0))

    # ---- writing

    def to_pipe(self, number: int, payload: bytes) -> bool:
        """False: it would block; nobody is there, or the queue is full."""
        self._asked.add(self._links[number])
        try:
            self._links[number].send(payload, _NOBLOCK, copy=len(payload) < _COPY_BYTES)
        except zmq.Again:
            return False
        return True

    def to_service(self, identity: bytes, payload: bytes) -> bool:
        """False: that connection is gone, or does not read."""
        self._asked.add(self._service)
        try:
            self._service.send(identity, _SNDMORE)
            self._service.send(payload, _NOBLOCK, copy=len(payload) < _COPY_BYTES)
        except zmq.Again:
            self._counts["service_slow"] += 1
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._counts["service_gone"] += 1
            return False
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Closes all sockets; what was sent may still go out for `linger_ms`."""
        for socket in self._links:
            if not socket.closed:
                socket.disable_monitor()
        for monitor in self._monitors:
            monitor.close(0)
        self._context.destroy(linger=linger_ms)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    # ---- opening

    def _all(self) -> list[Socket]:
        dial = [] if self._dial is None else [self._dial]
        return [self._service, *self._links, *self._monitors, *dial]

    def _bound(self, kind: int, address: str, mode: int, group: int) -> Socket:
        socket = open_socket(self._context, kind)
        lock = bind(socket, address, mode, group)
        if lock is not None:
            self._locks.append(lock)
        return socket

    def _dialed(self, address: str, incarnation: bytes) -> Socket:
        socket = open_socket(self._context, zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, incarnation)
        # An empty message to each that dials: a dialing ROUTER knows whom it reached only by a first message.
        socket.setsockopt(zmq.PROBE_ROUTER, 1)
        lock = bind(socket, address)
        if lock is not None:
            self._locks.append(lock)
        return socket

    def _link(self, address: str) -> None:
        socket = open_socket(self._context, zmq.DEALER, dials=True)
        # Nothing is queued for nobody: a send without a connection fails, and waits in a queue of our own.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, limits.RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, limits.RECONNECT_MAX_MS)
        self._links.append(socket)
        # CONNECTED fires for a stopped peer too; a handshake is done by one that lives.
        monitor = socket.get_monitor_socket(int(zmq.EVENT_HANDSHAKE_SUCCEEDED))
        monitor.linger = 0
        self._monitors.append(monitor)
        socket.connect(address)

    # ---- frames

    def _single(self, socket: Socket, counted: str) -> Iterator[bytes]:
        if socket not in self._asked:
            return
        for _ in range(limits.DRAIN_MESSAGES_MAX):
            if not readable(socket):
                return
            frame = take_whole(socket)
            if frame is None:
                self._counts[counted] += 1
            else:
                yield frame.bytes
