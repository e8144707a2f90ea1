"""A live pipe with a well-behaved client beside whoever misbehaves, and what can be asked of it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mpy6a.messages import Greeting
from tests.e2e.live import ANSWER_S, PIPE, START_S, Companion, Live, Peer
from tests.ports import FreePorts, short_directory
from tests.processes import Processes


@contextmanager
def pipe_beside(free_port: FreePorts) -> Iterator[Live]:
    """One pipe, and a client that is served all the while."""
    with short_directory() as path, Processes() as processes:
        live = Live(path, free_port, processes)
        live.pipe = live.start_pipe()
        with Companion(live.listen):
            yield live


def has_not_ended(live: Live) -> None:
    """Asserts that no earlier case has ended the pipe: the others say so at once."""
    assert live.pipe.poll() is None, f"an earlier case ended the pipe: {live.said('pipe.log')[-1_000:]}"


def is_fine(live: Live) -> None:
    """The pipe lives, and answers a new client and an operator."""
    assert live.pipe.poll() is None, live.said("pipe.log")
    with Peer(live.listen) as peer:
        peer.hello()
        peer.new()
    assert live.status()["pipe"] == PIPE


def dropped(live: Live, reason: str) -> int:
    return live.dropped().get(reason, 0)


def wait_dropped(live: Live, reason: str, count: int, bound: Peer | None = None) -> None:
    """Waits until so many were counted: what came over another socket may be read a moment later.

    `bound`: a peer that was dialed; ZeroMQ sends its probe only when its socket is looked at.
    """
    end_s = time.monotonic() + ANSWER_S
    while (found := dropped(live, reason)) < count:
        assert time.monotonic() < end_s, f"{reason}: {found} of {count}"
        if bound is not None:
            bound.socket.poll(10)


def greeted(peer: Peer) -> Greeting:
    """The greeting of a pipe that dials this bound socket."""
    greeting = peer.receive(START_S)
    assert isinstance(greeting, Greeting), greeting
    return greeting
