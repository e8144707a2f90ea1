"""Waits for the first answer at a door: the moment from which on a process does its work."""

from __future__ import annotations

import os
import time
from typing import Final

import zmq

from mpy6a import limits, wire
from mpy6a.benchmark.processes import Child
from mpy6a.errors import Unavailable
from mpy6a.messages import Goodbye, Hello, Welcome

UP_S: Final = 20.0  # a start takes half a second; a machine under load may take many
_LOOK_MS: Final = 2  # between two looks: the error of the time measured
_AGAIN_MS: Final = 20  # between two hellos to a sidecar that knows no live pipe yet


def first_answer(door: str, child: Child, *, patience_s: float = UP_S) -> int:
    """When the door welcomed a client and named a live pipe, in ns of `time.perf_counter_ns`.

    Raises CannotStart if `child` ends before, Unavailable if it takes longer than `patience_s`.
    """
    incarnation = os.urandom(16)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(zmq.DEALER)
    try:
        socket.linger = 100
        socket.setsockopt(zmq.MAXMSGSIZE, limits.ENVELOPE_BYTES_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL, _LOOK_MS)
        socket.connect(door)
        give_up_at = time.monotonic() + patience_s
        socket.send(wire.encode(Hello(pid=os.getpid(), name="bench"), incarnation=incarnation))
        while time.monotonic() < give_up_at:
            if not socket.poll(_AGAIN_MS):
                child.check()
                continue
            answer = wire.decode(wire.unpack(socket.recv())[0])
            answered_ns = time.perf_counter_ns()
            if isinstance(answer, Welcome) and any(pipe.live for pipe in answer.pipes):
                socket.send(wire.encode(Goodbye(), incarnation=incarnation))
                return answered_ns
            time.sleep(_AGAIN_MS / 1000)
            socket.send(wire.encode(Hello(pid=os.getpid(), name="bench"), incarnation=incarnation))
    finally:
        socket.close()
    raise Unavailable(f"the {child.name} did not answer at {door} in {patience_s:g} s: is the machine overloaded?")
