"""The client's socket: what it makes of peers that come, go, and send what they should not."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mpy6a.client.link import Link


@pytest.fixture
def router(short_tmp: Path) -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.linger = 0
    socket.rcvtimeo = socket.sndtimeo = 5_000
    socket.bind(f"ipc://{short_tmp}/door.sock")
    yield socket
    socket.close(0)
    context.term()


@pytest.fixture
def link(short_tmp: Path) -> Iterator[Link]:
    made = Link(f"ipc://{short_tmp}/door.sock")
    yield made
    made.close()


def wait(fd: int) -> None:
    """Until the descriptor has something."""
    assert select.select([fd], [], [], 5)[0]


def received(link: Link) -> list[bytes]:
    """The next that arrives."""
    while not (payloads := link.receive()):
        wait(link.fd)
    return payloads


def changed(link: Link) -> list[bool]:
    while not (changes := link.changes()):
        wait(link.monitor_fd)
    return changes


def test_a_handshake_and_its_end_are_told(router: zmq.Socket[bytes], link: Link) -> None:
    """Up once a peer that lives has answered, down when it is gone."""
    assert changed(link) == [True]
    router.close(0)
    assert changed(link)[0] is False


def test_messages_of_several_frames_are_dropped(router: zmq.Socket[bytes], link: Link) -> None:
    """A peer that sends extra frames does not shift what comes after them."""
    link.send([b"hello"])
    peer, payload = router.recv_multipart()
    assert payload == b"hello"
    router.send_multipart([peer, b"one", b"two", b"three"])
    router.send_multipart([peer, b"", b""])
    router.send_multipart([peer, b"plain"])
    assert received(link) == [b"plain"]
    assert link.dropped == 2
    assert not link.pending()


def test_without_a_peer_a_heartbeat_is_dropped_not_queued(short_tmp: Path) -> None:
    """A message that says "now" is of no use later."""
    link = Link(f"ipc://{short_tmp}/nobody.sock", queue_unconnected=False)
    try:
        link.send([b"beat"])
        assert link.dropped == 1
    finally:
        link.close()
        link.close()
