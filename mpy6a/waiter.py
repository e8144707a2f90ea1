"""Waits for ZeroMQ sockets with one system call, and for a moment without sleeping where the next message is near.

A ZeroMQ socket's descriptor is readable when its I/O threads have something to tell, not while messages wait; asking
for messages takes note of what they told, and so does every send. So all sockets are asked before sleeping, in one
call, and after it only those whose descriptor spoke. `zmq.Poller` does as much with four calls a socket.
Source: zmq_getsockopt(3), ZMQ_FD; shared evidence, "ZeroMQ traps" (spin with sched_yield only).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Final

import zmq

from mpy6a.sockets import Socket, readable

SPIN_NS: Final = 60_000  # after an answer to a lone operation; sleeping and waking costs as much as this
_POLLIN: Final = int(zmq.POLLIN)


class Waiter:
    """Waits for messages on `sockets`, the first of which may be spun on, and for a plain descriptor."""

    def __init__(self, sockets: Sequence[Socket], descriptor: int) -> None:
        self._first = sockets[0]
        self._questions = [(socket, _POLLIN) for socket in sockets]
        self._descriptor = descriptor
        self._by_fd: dict[int, Socket] = {int(socket.getsockopt(zmq.FD)): socket for socket in sockets}
        self._poll = select.poll()
        for fd in (*self._by_fd, descriptor):
            self._poll.register(fd, select.POLLIN)
        self.watched: int | None = None

    def watch(self, descriptor: int | None) -> None:
        """Have `wait` tell of one more descriptor, instead of the one named last, which may be closed."""
        if descriptor == self.watched:
            return
        if self.watched is not None:
            self._poll.unregister(self.watched)
        if descriptor is not None:
            self._poll.register(descriptor, select.POLLIN)
        self.watched = descriptor

    def wait(self, timeout_ms: int, *, spin: bool = False) -> set[object]:
        """The sockets with messages, and the descriptor if it is readable; empty after `timeout_ms`."""
        first = self._first
        ready: set[object] = {socket for socket, _ in zmq.zmq_poll(self._questions, 0)}
        if not ready and spin and timeout_ms:
            until_ns = time.perf_counter_ns() + SPIN_NS
            while time.perf_counter_ns() < until_ns:
                os.sched_yield()
                if readable(first):
                    ready.add(first)
                    break
        for fd, _ in self._poll.poll(0 if ready else timeout_ms):
            one = self._by_fd.get(fd)
            if one is None:
                ready.add(fd)
            elif one not in ready and readable(one):
                ready.add(one)
        return ready
