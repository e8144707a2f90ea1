"""Who is at the other end of an ipc connection: the kernel says its uid and pid, and when the process dies.

A process that dies is known at once by a pidfd, where the kernel gives one; otherwise its lease ends.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import zmq

from mpy6a import limits

# What a dead process had sent may still be on its way through ZeroMQ's thread; what comes later ends by its
# lease.
SETTLE_S: Final = 0.05
_AUTOMATIC: Final = b"\0"  # identities that the ROUTER drew itself, never twice, begin with it


class Peers:
    """Processes behind connections. `on_death` is called once for each connection of a process that died."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_death: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._on_death = on_death
        self._known: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # identity -> principal, pid
        self._watched: dict[int, tuple[int, set[bytes]]] = {}  # pid -> pidfd, its connections

    def principal(self, identity: bytes) -> int | None:
        """uid + 1 of the process, 0 if it cannot be known; None: ask the next frame with `seen`."""
        known = self._known.get(identity)
        return None if known is None else known[0]

    def seen(self, identity: bytes, frame: zmq.Frame) -> int:
        """The same, by a frame of the connection; from now on the process is watched."""
        uid, pid = _credentials(frame)
        principal = uid + 1
        # A connection that named itself may be another process at its next message: never remembered.
        if identity.startswith(_AUTOMATIC):
            self._known[identity] = principal, pid
            self._watch(pid, identity)
            if len(self._known) > limits.CLIENTS_MAX:
                self._forget(next(iter(self._known)))
        return principal

    def close(self) -> None:
        for pid in list(self._watched):
            self._unwatch(pid)
        self._known.clear()

    def _watch(self, pid: int, identity: bytes) -> None:
        if pid <= 0 or pid == os.getpid():
            return
        watched = self._watched.get(pid)
        if watched is None:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._loop.call_later(SETTLE_S, self._on_death, identity)
                return
            except OSError:
                return  # no descriptor left, or none allowed: the lease tells
            watched = self._watched[pid] = descriptor, set()
            self._loop.add_reader(descriptor, self._died, pid)
        watched[1].add(identity)

    def _died(self, pid: int) -> None:
        for identity in self._unwatch(pid):
            self._known.pop(identity, None)
            self._loop.call_later(SETTLE_S, self._on_death, identity)

    def _forget(self, identity: bytes) -> None:
        _, pid = self._known.pop(identity)
        watched = self._watched.get(pid)
        if watched is not None:
            watched[1].discard(identity)
            if not watched[1]:
                self._unwatch(pid)

    def _unwatch(self, pid: int) -> set[bytes]:
        descriptor, identities = self._watched.pop(pid)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        return identities


def _credentials(frame: zmq.Frame) -> tuple[int, int]:
    """(uid, pid) of the peer as libzmq tells them for ipc, `host:uid:gid:pid`; (-1, 0) for anything else."""
    try:
        address = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return -1, 0
    fields = address.split(":")
    if len(fields) != 4 or fields[0] != "localhost" or not all(field.isdecimal() for field in fields[1:]):
        return -1, 0
    return int(fields[1]), int(fields[3])
