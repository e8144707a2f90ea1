"""What became of each New, kept until its client has surely heard: New is answered once.

Outcomes are kept from the highest mark a client named until an hour of log time after its last frame
(semantics, "One writer"). Deterministic: part of the state, changed by `apply` only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from mpy6a import limits
from mpy6a.limits import OUTCOME_KEPT_MS


class Outcome(NamedTuple):
    """The verdict on a New: OK with the session's id, KEY_LIVE with the other session's, or a refusal."""

    code: int
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    term: int = 0
    state: int = 0


class Client:
    """One client incarnation that made a New."""

    __slots__ = ("last_ms", "mark", "outcomes")

    def __init__(self) -> None:
        self.mark = 0
        self.last_ms = 0
        self.outcomes: dict[int, Outcome] = {}


class Requests:
    """Outcomes by client incarnation and request number; forgets by marks and by log time."""

    __slots__ = ("_clients", "kept")

    def __init__(self) -> None:
        self._clients: OrderedDict[bytes, Client] = OrderedDict()  # by last frame, oldest first
        self.kept = 0  # outcomes in all

    def heard(self, origin: bytes, mark: int, log_ms: int, makes_new: bool) -> Client | None:
        """Take in that a frame of `origin` with this mark was logged; None for a client that never made a New."""
        client = self._clients.get(origin)
        if client is None:
            if not makes_new:
                return None
            client = self._clients[origin] = Client()
        else:
            self._clients.move_to_end(origin)
        client.last_ms = log_ms
        if mark > client.mark:
            self._forget_below(client, mark)
        return client

    def _forget_below(self, client: Client, mark: int) -> None:
        outcomes = client.outcomes
        before = len(outcomes)
        if mark - client.mark <= before:
            for request in range(client.mark, mark):
                outcomes.pop(request, None)
        elif before:
            client.outcomes = {request: kept for request, kept in outcomes.items() if request >= mark}
        client.mark = mark
        self.kept -= before - len(client.outcomes)

    def keep(self, client: Client, request: int, outcome: Outcome) -> None:
        """Remember the verdict on a New, refused or not."""
        client.outcomes[request] = outcome
        self.kept += 1

    def forget_before(self, log_ms: int) -> None:
        """Drop clients whose last frame is an hour of log time old."""
        while self._clients:
            origin = next(iter(self._clients))
            client = self._clients[origin]
            if client.last_ms + OUTCOME_KEPT_MS > log_ms:
                return
            self.kept -= len(client.outcomes)
            del self._clients[origin]

    def of(self, origin: bytes) -> int:
        """How many outcomes are kept of one client (the bound is checked before the log)."""
        client = self._clients.get(origin)
        return 0 if client is None else len(client.outcomes)

    def has_room(self, origin: bytes, mark: int, requests: Collection[int]) -> bool:
        """Whether the verdicts on these News may be kept; those that are kept already take no more room."""
        client = self._clients.get(origin)
        kept = {} if client is None else client.outcomes
        fresh = sum(request not in kept for request in requests)
        if not fresh:
            return True
        if self.kept + fresh > limits.OUTCOMES_MAX:
            return False
        if len(kept) + fresh <= limits.CLIENT_OUTCOMES_MAX:
            return True
        return sum(request >= mark for request in kept) + fresh <= limits.CLIENT_OUTCOMES_MAX

    def mark_of(self, origin: bytes) -> int:
        """The highest mark that a client named."""
        client = self._clients.get(origin)
        return 0 if client is None else client.mark

    def heard_since(self, log_ms: int) -> Iterator[tuple[bytes, Client]]:
        """The clients whose last frame has this log time or a later one, latest first."""
        for origin, client in reversed(self._clients.items()):
            if client.last_ms < log_ms:
                return
            yield origin, client

    def restore(self, clients: Iterable[tuple[bytes, Client]]) -> None:
        """New requests become those of a checkpoint: clients in the order of their last frame, oldest first."""
        assert not self._clients, "only new requests are restored"
        for origin, client in clients:
            self._clients[origin] = client
            self.kept += len(client.outcomes)

    def dump(self) -> dict[str, dict[int, tuple[int, int, int]]]:
        """Plain data for comparing two states."""
        return {
            origin.hex(): {r: (o.code, o.index, o.term) for r, o in sorted(client.outcomes.items())}
            for origin, client in self._clients.items()
            if client.outcomes
        }
