"""ZeroMQ sockets as every process of the pipe opens them: bounded, one owner an ipc path, drained without waiting.

Source: shared evidence, "ZeroMQ traps": a second bind on an ipc path steals it silently (so a lock file stands beside
it), the mode follows the umask, a path over 107 bytes fails, and an unchecked extra frame shifts identities against
payloads for good.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import zmq

from mpy6a import limits
from mpy6a.errors import CannotStart

HIGH_WATER_MESSAGES: Final = 10_000  # ZeroMQ's own queues, per peer; beyond it the peer's sends wait or fail
HEARTBEAT_IVL_MS: Final = 500  # a stopped peer is noticed within HEARTBEAT_TIMEOUT_MS
HEARTBEAT_TIMEOUT_MS: Final = 2_000
_RCVMORE: Final = int(zmq.RCVMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)  # plain ints: an enum's operators cost more than the call

Socket = zmq.Socket[bytes]


def open_socket(context: zmq.Context[Socket], kind: int, *, dials: bool = False) -> Socket:
    """A socket with every bound set; one that `dials` a peer it trusts has heartbeats instead of a bound on receiving.

    Never both: libzmq 4.3.5 ends the process ("Assertion failed: !_io_error") when the heartbeat's timer meets a peer
    that filled our queue and went. Whoever connects beats, and leases do the rest.
    """
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.ENVELOPE_BYTES_MAX)
    if dials:
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a peer that is gone is an error, not a silent loss
    return socket


def bind(socket: Socket, address: str, mode: int = 0o600, group: int = -1) -> int | None:
    """Bind; for ipc take the lock beside the path and set mode and group. Returns the lock's descriptor, to keep.

    Raises CannotStart with one sentence that says what to do.
    """
    if not address.startswith("ipc://"):
        _bind(socket, address)
        return None
    path = Path(address.removeprefix("ipc://"))
    if path.exists() and not path.is_socket():
        raise CannotStart(f"{address}: {path.name} is there and is no socket; it is left alone, use another path")
    if len(os.fsencode(path)) > limits.IPC_PATH_BYTES_MAX:
        raise CannotStart(f"{address}: path over {limits.IPC_PATH_BYTES_MAX} bytes; use a shorter one, as in /run")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise CannotStart(f"{address}: {problem.strerror}; use a directory that this user may write to") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise CannotStart(f"{address}: another process listens there; stop it, or use another path") from None
    before = os.umask(0o777 & ~mode)
    try:
        _bind(socket, address)
        if group >= 0:
            os.chown(path, -1, group)
        os.chmod(path, mode)
    except CannotStart:
        os.close(lock)
        raise
    except OSError as problem:
        os.close(lock)
        raise CannotStart(f"{address}: {problem.strerror}") from None
    finally:
        os.umask(before)
    return lock


def _bind(socket: Socket, address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as problem:
        todo = {
            errno.EADDRINUSE: "another process listens there; stop it, or use another address",
            errno.EACCES: "this user may not listen there",
            errno.EADDRNOTAVAIL: "no such address on this machine",
            errno.ENODEV: "no such address on this machine",
        }.get(problem.errno or 0, os.strerror(problem.errno or 0))
        raise CannotStart(f"{address}: {todo}") from None


def drain(socket: Socket, most: int, malformed: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(identity, payload) of up to `most` waiting messages of a ROUTER; identities of those with another number of
    frames go to `malformed`.

    It asks EVENTS before it takes: a recv that finds nothing raises, which costs four times as much as the question.
    """
    recv: Callable[[int], bytes] = socket.recv
    option: Callable[[int], Any] = socket.getsockopt  # an int for both options asked here
    for _ in range(most):
        if not option(_EVENTS) & _POLLIN:
            return
        try:
            identity = recv(_NOBLOCK)
        except zmq.Again:
            return
        if not option(_RCVMORE):
            malformed.append(identity)
            continue
        payload = recv(_NOBLOCK)
        if option(_RCVMORE):
            while option(_RCVMORE):
                recv(_NOBLOCK)
            malformed.append(identity)
            continue
        yield identity, payload
