"""N sessions in flight, each New, three Appends, Delete, and then the next one: as an exchange sees it, sans-IO."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from random import randrange
from typing import Final

from mpy6a.benchmark.figures import OPERATIONS
from mpy6a.client.exchange import Completion, Exchange
from mpy6a.client.writer import Writer
from mpy6a.errors import Mpy6aError, Unavailable
from mpy6a.model import SessionId, Verb

_APPEND: Final = int(Verb.APPEND)
_DELETE: Final = int(Verb.DELETE)
_STORE: Final = int(Verb.STORE)


class Lifecycles:
    """Calls each session's next operation when the one before it is acknowledged; a slot is one session at a time.

    `latencies_ns` has, for each operation, the time from its call to the end of the processing of its ack. Once
    `ending` is set, a slot whose session is deleted rests; `running` counts the others.
    """

    def __init__(self, exchange: Exchange[int], kind: int, in_flight: int, record: bytes) -> None:
        self.latencies_ns = array("Q")
        self.ending = False
        self.running = in_flight
        self._exchange = exchange
        self._kind = kind
        self._record = record
        self._steps = [0] * in_flight
        self._called_ns = [0] * in_flight
        self._writers: list[Writer[int] | None] = [None] * in_flight

    store_ms = 0  # above it, a session ends in Store, due within so many ms, instead of Delete
    sessions = -1  # how many there are to be; below 0: no end

    def begin(self, now_ms: int, now_ns: int) -> None:
        """Calls the first New of every slot."""
        self.begun = self.running
        for slot in range(self.running):
            self._called_ns[slot] = now_ns
            self._exchange.submit_new(self._kind, None, slot, now_ms)

    def answered(self, done: Sequence[Completion[int]], now_ms: int, now_ns: int) -> None:
        """Takes completions, calls what comes next. Raises Unavailable: a refused operation measures nothing."""
        add_latency, exchange, record = self.latencies_ns.append, self._exchange, self._record
        submit, steps, called, writers = exchange.submit, self._steps, self._called_ns, self._writers
        for slot, value in done:
            add_latency(now_ns - called[slot])
            step = steps[slot] = (steps[slot] + 1) % OPERATIONS
            called[slot] = now_ns
            if step == 1:
                if not isinstance(value, SessionId):
                    raise _refused(value)
                writers[slot] = exchange.open(value)
            elif value is not None:
                raise _refused(value)
            writer = writers[slot]
            assert writer is not None
            if step:
                if step < OPERATIONS - 1:
                    submit(writer, _APPEND, slot, now_ms, record)
                elif self.store_ms:
                    submit(writer, _STORE, slot, now_ms, None, randrange(self.store_ms))
                else:
                    submit(writer, _DELETE, slot, now_ms)
            elif self.ending or self.begun == self.sessions:
                self.running -= 1
            else:
                self.begun += 1
                exchange.submit_new(self._kind, None, slot, now_ms)


def _refused(value: SessionId | Mpy6aError | None) -> Unavailable:
    return Unavailable(f"an operation was refused, so there is nothing to measure: {value}")
