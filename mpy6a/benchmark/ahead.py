"""Sessions stored ahead by one client, so that many of them are due at one moment.

First all News, a number at a time in flight; then the Stores, joined into envelopes that the pipe takes in one turn: it
gives all frames of a turn one log time, so that up to STORES_AT_ONCE sessions are due in the same millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mpy6a.client.exchange import Completion, Exchange
from mpy6a.client.writer import Writer
from mpy6a.errors import Mpy6aError, Unavailable
from mpy6a.model import SessionId, Verb

NEWS_IN_FLIGHT: Final = 1_024
STORES_AT_ONCE: Final = 32_768  # half of what a client may have unanswered; 1.3 MiB, one envelope
_STORE: Final = int(Verb.STORE)


class Ahead:
    """The sessions of one run, kinds by turns. `begin` and `answered` as those of `Lifecycles`; `store` when `running`
    is 0, until `stored` says that all are. `due_ms` has, by session, the log time at which it is due."""

    def __init__(self, exchange: Exchange[int], kinds: Sequence[int], sessions: int, record: bytes) -> None:
        self.running = 0
        self.kinds: dict[SessionId, int] = {}
        self.due_ms: dict[SessionId, int] = {}
        self._exchange = exchange
        self._turn = kinds
        self._sessions = sessions
        self._record = record
        self._begun = 0
        self._writers: list[Writer[int]] = []
        self._after_ms = 0

    @property
    def stored(self) -> bool:
        """Whether every session waits for its due time."""
        return len(self.due_ms) == self._sessions

    def begin(self, now_ms: int, now_ns: int) -> None:
        """Calls the first News."""
        for _ in range(min(self._sessions, NEWS_IN_FLIGHT)):
            self._new(now_ms)

    def store(self, after_ms: int, now_ms: int) -> None:
        """Calls Store for the next STORES_AT_ONCE sessions."""
        first = len(self.due_ms)
        self._after_ms = after_ms
        for place in range(first, min(first + STORES_AT_ONCE, self._sessions)):
            self._exchange.submit(self._writers[place], _STORE, place, now_ms, None, after_ms)
            self.running += 1

    def answered(self, done: Sequence[Completion[int]], now_ms: int, now_ns: int) -> None:
        """Takes completions. Raises Unavailable: a refused operation measures nothing."""
        for place, value in done:
            self.running -= 1
            if isinstance(value, Mpy6aError):
                raise Unavailable(f"an operation was refused, so there is nothing to measure: {value}")
            if isinstance(value, SessionId):
                self._writers.append(self._exchange.open(value))
                self.kinds[value] = self._turn[place % len(self._turn)]
                if self._begun < self._sessions:
                    self._new(now_ms)
            else:
                self.due_ms[self._writers[place].session] = self._exchange.log_ms + self._after_ms  # as its frame says

    def _new(self, now_ms: int) -> None:
        kind = self._turn[self._begun % len(self._turn)]
        self._exchange.submit_new(kind, self._record, self._begun, now_ms)
        self._begun += 1
        self.running += 1
