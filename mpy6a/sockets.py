"""ZeroMQ sockets as every process of the pipe opens them: bounded, one owner an ipc path, drained without waiting.

Source: shared evidence, "ZeroMQ traps": a second bind on an ipc path steals it silently (so a lock file stands beside
it), the mode follows the umask, a path over 107 bytes fails, and an unchecked extra frame shifts identities against
payloads for good.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zmq

from mpy6a import limits
from mpy6a.errors import CannotStart

HIGH_WATER_MESSAGES: Final = 10_000  # ZeroMQ's own queues, per peer; beyond it the peer's sends wait or fail
HEARTBEAT_IVL_MS: Final = 500  # a stopped peer is noticed within HEARTBEAT_TIMEOUT_MS
HEARTBEAT_TIMEOUT_MS: Final = 2_000
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


def readable(socket: Socket) -> bool:
    """Whether a message waits, or something else that takes the descriptor's edge is known now.

    With zmq_poll: it costs 2.1 us where getsockopt(EVENTS) costs 3.5 (pyzmq makes an enum of the option first), and a
    recv that finds nothing and raises 9.9 (slow machine).
    """
    return bool(zmq.zmq_poll([(socket, _POLLIN)], 0))


def take_whole(socket: Socket) -> zmq.Frame | None:
    """The next frame, if it is its message's last; if not, the message is read away. zmq.Again if none waits.

    As a Frame, which knows whether more follows: two frames and RCVMORE asked twice cost 7.4 us, so it is 3.5.
    """
    frame = socket.recv(_NOBLOCK, copy=False)
    if not frame.more:
        return frame
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
    return None


def drain(socket: Socket, most: int, malformed: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(identity, payload) of up to `most` waiting messages of a ROUTER; identities of those with another number of
    frames go to `malformed`."""
    for _ in range(most):
        if not readable(socket):
            return
        try:
            identity = socket.recv(_NOBLOCK)  # a ROUTER puts it before each message: something follows
        except zmq.Again:
            return
        frame = take_whole(socket)
        if frame is None:
            malformed.append(identity)
        else:
            yield identity, frame.bytes
