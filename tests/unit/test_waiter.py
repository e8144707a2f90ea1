"""One poll call for all sockets: nothing is missed, whatever order messages, sends and questions come in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import zmq

from mpy6a.sockets import Socket
from mpy6a.waiter import Waiter

WAIT_MS = 5_000  # a deadline: what is waited for is on its way


class Pairs:
    """A router and a dealer that have met, as often as asked for."""

    def __init__(self) -> None:
        self.context: zmq.Context[Socket] = zmq.Context()
        self.made: list[Socket] = []

    def __call__(self, name: str) -> tuple[Socket, Socket]:
        router, dealer = self.context.socket(zmq.ROUTER), self.context.socket(zmq.DEALER)
        self.made += (router, dealer)
        router.bind(f"inproc://{name}")
        dealer.connect(f"inproc://{name}")
        return router, dealer


@pytest.fixture
def pair() -> Iterator[Pairs]:
    pairs = Pairs()
    yield pairs
    for socket in pairs.made:
        socket.close(linger=0)
    pairs.context.term()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("spin", [False, True])
def test_every_message_wakes(pair: Pairs, pipe: tuple[int, int], spin: bool) -> None:
    """Also when sends and receives in between took note of what the descriptor had to tell."""
    first, to_first = pair("first")
    second, to_second = pair("second")
    waiter = Waiter((first, second), pipe[0])
    for number in range(200):
        router, dealer = ((first, to_first), (second, to_second))[number % 3 == 0]
        dealer.send(b"%d" % number)
        assert waiter.wait(WAIT_MS, spin=spin) == {router}
        identity, payload = router.recv_multipart()
        assert payload == b"%d" % number
        router.send_multipart([identity, payload])
        assert dealer.recv() == payload
    assert waiter.wait(0, spin=spin) == set()


def test_what_is_left_waits_for_nothing(pair: Pairs, pipe: tuple[int, int]) -> None:
    """Messages that one turn did not take are told of again, without the descriptor's help; both sockets get a turn."""
    first, to_first = pair("first")
    second, to_second = pair("second")
    waiter = Waiter((first, second), pipe[0])
    for number in range(10):
        to_first.send(b"%d" % number)
    to_second.send(b"x")
    for left in range(10, 0, -1):
        ready = waiter.wait(WAIT_MS, spin=True)
        assert ready == ({first, second} if left == 10 else {first})
        first.recv_multipart()
        if second in ready:
            second.recv_multipart()


def test_descriptors_are_told_beside_sockets(pair: Pairs, pipe: tuple[int, int]) -> None:
    """The one for waking up, and one more that comes and goes."""
    router, dealer = pair("only")
    waiter = Waiter((router,), pipe[0])
    read, write = os.pipe()
    waiter.watch(read)
    os.write(pipe[1], b"x")
    os.write(write, b"x")
    dealer.send(b"x")
    assert waiter.wait(WAIT_MS) == {router, pipe[0], read}
    os.close(read)
    os.close(write)
    waiter.watch(None)
    router.recv_multipart()
    assert waiter.wait(0) == {pipe[0]}
