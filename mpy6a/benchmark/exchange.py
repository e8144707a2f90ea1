"""Level `exchange`: the library's sans-IO connection over one raw DEALER in one tight loop, without futures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from mpy6a import limits
from mpy6a.benchmark.ahead import Ahead
from mpy6a.benchmark.checked import CheckedConnection, CheckedExchange
from mpy6a.benchmark.figures import CpuClock, Measured
from mpy6a.benchmark.lifecycles import Lifecycles
from mpy6a.benchmark.place import KIND_ID
from mpy6a.errors import Unavailable

WARM_UP_S: Final = 0.25  # connections, caches, and the first segment
SILENCE_S: Final = 10.0  # without any answer the run is given up
_LOOK_MS: Final = 500  # how long one receive waits before resends are looked at


class ExchangeLoad:
    """One client process's connection. Use `measure` once, and `close`."""

    def __init__(self, door: str) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = socket = context.socket(zmq.DEALER)
        socket.linger = 100
        socket.setsockopt(zmq.MAXMSGSIZE, limits.ENVELOPE_BYTES_MAX)
        socket.setsockopt(zmq.RCVTIMEO, _LOOK_MS)
        socket.connect(door)
        self._door = door
        self._connection: CheckedConnection[int] = CheckedConnection(os.urandom(16), door=door, name="bench")
        self._silent_since_ns = 0

    def measure(self, in_flight: int, seconds: float, record: bytes, cpu: CpuClock) -> Measured:
        """Runs lifecycles for a warm-up and then `seconds`, and lets the last ones end.

        Raises Unavailable when operations are refused or nobody answers any more.
        """
        connection = self._connection
        connection.link_up(_now_ms())
        lifecycles = self._begin(in_flight, record)
        latencies = lifecycles.latencies_ns
        self._until(lifecycles, time.perf_counter_ns() + int(WARM_UP_S * 1e9))
        before, warm_up, begun_ns = cpu(), len(latencies), time.perf_counter_ns()
        self._until(lifecycles, begun_ns + int(seconds * 1e9))
        ended_ns, upto, after = time.perf_counter_ns(), len(latencies), cpu()
        lifecycles.ending = True
        self._until(lifecycles, None)
        acks, acks_not_durable = connection.acks()
        return Measured(
            operations=upto - warm_up,
            elapsed_ns=ended_ns - begun_ns,
            latencies_ns=latencies[warm_up:upto],
            cpu_ns={name: after[name] - before[name] for name in before},
            operations_all=len(latencies),
            acks=acks,
            acks_not_durable=acks_not_durable,
        )

    def fill(self, in_flight: int, sessions: int, record: bytes, store_ms: int) -> tuple[float, Sequence[int]]:
        """Store so many sessions, due within `store_ms`; the seconds it took, and the latencies in ns.

        Raises Unavailable as `measure`.
        """
        self._connection.link_up(_now_ms())
        begun_ns = time.perf_counter_ns()
        lifecycles = self._begin(in_flight, record)
        lifecycles.sessions, lifecycles.store_ms = sessions, store_ms
        self._until(lifecycles, None)
        return (time.perf_counter_ns() - begun_ns) / 1e9, lifecycles.latencies_ns

    def store_ahead(
        self, kinds: Sequence[int], sessions: int, record: bytes, after_ms: Callable[[], int]
    ) -> Ahead:
        """Store so many sessions, kinds by turns, each due after as many ms as `after_ms` says when it is asked.

        Raises Unavailable as `measure`.
        """
        self._connection.link_up(_now_ms())
        ahead = Ahead(self._exchange(), kinds, sessions, record)
        ahead.begin(_now_ms(), time.perf_counter_ns())
        self._send(_now_ms())
        self._until(ahead, None)
        while not ahead.stored:
            ahead.store(after_ms(), _now_ms())
            self._send_joined(_now_ms())
            self._until(ahead, None)
        return ahead

    def durable(self) -> bool:
        """Whether every ack so far said so."""
        return not self._connection.acks()[1]

    def close(self) -> None:
        """Says goodbye and closes the socket."""
        self._socket.send(self._connection.goodbye())
        self._socket.close()

    def _begin(self, in_flight: int, record: bytes) -> Lifecycles:
        """The sessions' first News, once the door has named its pipe."""
        lifecycles = Lifecycles(self._exchange(), KIND_ID, in_flight, record)
        lifecycles.begin(_now_ms(), time.perf_counter_ns())
        self._send(_now_ms())
        return lifecycles

    def _exchange(self) -> CheckedExchange[int]:
        """That with the door's pipe, once the door has named it."""
        connection = self._connection
        self._send(_now_ms())
        self._silent_since_ns = time.perf_counter_ns()
        while connection.welcome is None:
            payload = self._receive()
            if payload is not None:
                connection.receive(payload, _now_ms())
        return connection.exchange(connection.welcome.pipes[0].pipe)

    def _until(self, lifecycles: Lifecycles | Ahead, end_ns: int | None) -> None:
        """The loop: an answer, and what it makes possible sent at once; until a time, or all sessions are gone."""
        connection, clock_ns = self._connection, time.perf_counter_ns
        while lifecycles.running and (end_ns is None or clock_ns() < end_ns):
            payload = self._receive()
            now_ms = _now_ms()
            if payload is not None:
                lifecycles.answered(connection.receive(payload, now_ms), now_ms, clock_ns())
            self._send(now_ms)

    def _receive(self) -> bytes | None:
        try:
            payload = self._socket.recv()
        except zmq.Again:
            if time.perf_counter_ns() - self._silent_since_ns > SILENCE_S * 1e9:
                raise Unavailable(f"{self._door} has not answered for {SILENCE_S:g} s: the run is given up") from None
            return None
        self._silent_since_ns = time.perf_counter_ns()
        return payload

    def _send(self, now_ms: int) -> None:
        for message in self._connection.outgoing(now_ms):
            self._socket.send(message)

    def _send_joined(self, now_ms: int) -> None:
        """The same in as few envelopes as it takes: a pipe takes each of them whole."""
        part: list[bytes] = []
        for message in self._connection.outgoing(now_ms):
            size = sum(map(len, part)) + len(message)
            if part and (size > limits.ENVELOPE_BYTES_MAX or len(part) == limits.ENVELOPE_MESSAGES_MAX):
                self._socket.send(b"".join(part))
                part = []
            part.append(message)
        if part:
            self._socket.send(b"".join(part))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
