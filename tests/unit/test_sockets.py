"""Sockets as every process opens them: one owner a path, refused in one sentence, bounded, frames never shifted."""

from __future__ import annotations

import os
import socket as sockets_of_os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mpy6a import limits
from mpy6a.errors import CannotStart
from mpy6a.sockets import HIGH_WATER_MESSAGES, Socket, bind, drain, open_socket
from tests.ports import FreePorts

WAIT_MS = 5_000


class Net:
    """A context, and the sockets that a test opened in it."""

    def __init__(self) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self.opened: list[Socket] = []

    def open(self, kind: int) -> Socket:
        self.opened.append(open_socket(self.context, kind))
        return self.opened[-1]

    def router(self) -> Socket:
        return self.open(zmq.ROUTER)

    def dealer(self, address: str, identity: bytes = b"") -> Socket:
        socket = self.context.socket(zmq.DEALER)
        self.opened.append(socket)
        socket.setsockopt(zmq.LINGER, 0)
        if identity:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.connect(address)
        return socket


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    try:
        yield net
    finally:
        net.context.destroy(linger=0)


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("kind", [zmq.ROUTER, zmq.DEALER])
def test_every_bound_is_set(net: Net, kind: int) -> None:
    """Queues, messages and the wait at close are bounded; a send to nobody is an error."""
    socket = net.open(kind)
    options = (zmq.SNDHWM, zmq.RCVHWM, zmq.MAXMSGSIZE, zmq.LINGER)
    found = [int(socket.getsockopt(option)) for option in options]
    assert found == [HIGH_WATER_MESSAGES, HIGH_WATER_MESSAGES, limits.ENVELOPE_BYTES_MAX, 0]
    if kind == zmq.ROUTER:
        with pytest.raises(zmq.ZMQError) as caught:
            socket.send_multipart([b"nobody", b"x"])
        assert caught.value.errno == zmq.EHOSTUNREACH


def test_heartbeats_and_a_bounded_receiving_queue_never_meet(net: Net) -> None:
    """With both, a peer that fills the queue ends the process: it goes (`!_io_error`), or is read too late
    (`_input_stopped`). So a bound socket has the bound, and one that dials has the heartbeats."""
    for dials in (False, True):
        socket = open_socket(net.context, zmq.ROUTER, dials=dials)
        net.opened.append(socket)
        beats, room = (int(socket.getsockopt(option)) for option in (zmq.HEARTBEAT_IVL, zmq.RCVHWM))
        assert (beats > 0, room > 0) == (dials, not dials)


CHILD = """\
import sys, zmq
from mpy6a.sockets import bind, open_socket
context = zmq.Context()
door = open_socket(context, zmq.ROUTER)
door.setsockopt(zmq.RCVHWM, 10)
lock = bind(door, sys.argv[1])
print("bound", flush=True)
sys.stdin.readline()  # the flood fills ZeroMQ's queue, and its sender goes
while door.poll(300):
    door.recv_multipart()
context.destroy(linger=0)
print("alive", flush=True)
"""


def test_a_bound_socket_survives_a_peer_that_fills_its_queue_and_goes(
    net: Net, short_tmp: Path
) -> None:
    """libzmq 4.3.5 aborts a process with heartbeats of its own on such a socket: `Assertion failed: !_io_error`.

    In a child process, because the answer may be the end of it.
    """
    address = f"ipc://{short_tmp}/door.sock"
    package = Path(limits.__file__).resolve().parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(package)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"bound\n"
        peer = net.dealer(address)
        while peer.poll(100, zmq.POLLOUT):  # until both queues and the kernel's are full: the child reads nothing
            peer.send(b"x" * 1_000)
        peer.close(0)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.0)  # its heart would beat twice a second
        said, complained = child.communicate(b"go\n", timeout=20)
        assert (child.returncode, said) == (0, b"alive\n"), complained
    finally:
        child.kill()
        child.communicate()


# ---------------------------------------------------------------------- bind


def test_an_ipc_path_has_one_owner_and_the_mode_asked_for(net: Net, short_tmp: Path) -> None:
    """A second bind on an ipc path would steal it silently: the lock beside it refuses, and the first one serves."""
    path = short_tmp / "deep" / "door.sock"
    address = f"ipc://{path}"
    first = net.router()
    before = os.umask(0o022)
    try:
        lock = bind(first, address, 0o660)
        assert os.umask(0o022) == 0o022, "the umask is given back"
    finally:
        os.umask(before)
    assert lock is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(CannotStart, match="another process listens there"):
        bind(net.router(), address)
    peer = net.dealer(address)
    peer.send(b"hello")
    assert first.poll(WAIT_MS)
    os.close(lock)


def test_what_a_dead_process_left_behind_is_taken_over(net: Net, short_tmp: Path) -> None:
    """A socket file and its lock file without a holder: no hand has to clear them away."""
    path = short_tmp / "door.sock"
    with sockets_of_os.socket(sockets_of_os.AF_UNIX) as left:
        left.bind(str(path))
    (short_tmp / "door.sock.lock").touch()
    lock = bind(net.router(), f"ipc://{path}")
    assert lock is not None
    os.close(lock)


def test_a_file_of_the_user_at_an_ipc_path_is_not_removed(net: Net, short_tmp: Path) -> None:
    """ZeroMQ removes whatever is there before it binds: a slip in a config must not cost a file."""
    path = short_tmp / "routes.yaml"
    path.write_text("kinds: {}\n")
    with pytest.raises(CannotStart, match=r"routes\.yaml"):
        bind(net.router(), f"ipc://{path}")
    assert path.read_text() == "kinds: {}\n"


def test_a_path_that_is_too_long_or_not_allowed_is_refused_in_one_sentence(
    net: Net, short_tmp: Path
) -> None:
    """Over 100 bytes (the kernel's limit is 107), a file where a directory has to be, no right to write."""
    with pytest.raises(CannotStart, match="100 bytes") as caught:
        bind(net.router(), f"ipc://{short_tmp}/{'x' * 100}")
    assert "shorter" in str(caught.value)
    (short_tmp / "file").touch()
    with pytest.raises(CannotStart, match="directory"):
        bind(net.router(), f"ipc://{short_tmp}/file/door.sock")
    with pytest.raises(CannotStart, match="/proc"):
        bind(net.router(), "ipc:///proc/mpy6a/door.sock")


def test_a_port_in_use_or_not_of_this_machine_is_refused_in_one_sentence(
    net: Net, free_port: FreePorts
) -> None:
    """Each says what to do."""
    address = f"tcp://127.0.0.1:{free_port()}"
    assert bind(net.router(), address) is None
    with pytest.raises(CannotStart, match="another process listens there"):
        bind(net.router(), address)
    with pytest.raises(CannotStart, match="no such address on this machine"):
        bind(net.router(), "tcp://192.0.2.1:7400")


# ---------------------------------------------------------------------- drain


def drained(socket: Socket, wanted: int, most: int = 1_000) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Drains until so many messages came."""
    taken: list[tuple[bytes, bytes]] = []
    malformed: list[bytes] = []
    while len(taken) + len(malformed) < wanted:
        assert socket.poll(WAIT_MS)
        taken += drain(socket, most, malformed)
    return taken, malformed


def test_drain_takes_what_waits_and_never_waits_itself(net: Net) -> None:
    """(identity, payload) in each peer's order; nothing there is no wait and no error."""
    door = net.router()
    door.bind("inproc://door")
    assert list(drain(door, 10, [])) == []
    peer = net.dealer("inproc://door", b"peer")
    for number in range(5):
        peer.send(b"%d" % number)
    taken, malformed = drained(door, 5)
    assert taken == [(b"peer", b"%d" % number) for number in range(5)]
    assert malformed == []


def test_drain_takes_at_most_as_many_as_told(net: Net) -> None:
    """So that the other sockets get their turn."""
    door = net.router()
    door.bind("inproc://door")
    peer = net.dealer("inproc://door")
    for _ in range(7):
        peer.send(b"x")
    assert door.poll(WAIT_MS)
    assert [len(list(drain(door, 3, []))) for _ in range(3)] == [3, 3, 1]


@pytest.mark.parametrize("frames", [[b"a", b"b"], [b"", b"a"], [b"a", b"", b"", b"a"], [b"x"] * 1_000])
def test_messages_of_more_frames_are_named_and_shift_nothing(net: Net, frames: list[bytes]) -> None:
    """An unchecked extra frame would shift identities against payloads for good."""
    door = net.router()
    door.bind("inproc://door")
    hostile, good = net.dealer("inproc://door", b"hostile"), net.dealer("inproc://door", b"good")
    for number in range(3):
        hostile.send_multipart(frames)
        hostile.send(b"whole")
        good.send(b"%d" % number)
    taken, malformed = drained(door, 9)
    assert malformed == [b"hostile"] * 3
    assert [payload for identity, payload in taken if identity == b"good"] == [b"0", b"1", b"2"]
    assert [payload for identity, payload in taken if identity == b"hostile"] == [b"whole"] * 3


def test_an_empty_message_is_a_message(net: Net) -> None:
    """PROBE_ROUTER sends one: it is told by its empty payload."""
    door = net.router()
    door.bind("inproc://door")
    net.dealer("inproc://door", b"peer").send(b"")
    assert drained(door, 1) == ([(b"peer", b"")], [])
