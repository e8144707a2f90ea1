"""How fast a kind may be handed out, judged from the log alone: its rate, its total, and when its breaker is open.

A pipe that starts begins anew: breakers closed, buckets full. What the pipe chose at a group's beginning is held
against what stood then; what changed within the group counts from the next one on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .facts import KindSeen, Violation

GOOD: Final = "good"  # a run was decided by its handler
BAD: Final = "bad"  # it failed
OTHER: Final = "other"  # neither: given back, or an operator's word


class _Kind:
    __slots__ = ("closed", "failed", "full_ms", "open_at", "probing", "running")

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.failed: set[int] = set()  # sessions that failed since the last success
        self.open_at = 0  # log index at which the breaker opened, 0: closed
        self.closed = (0, 0)  # log indexes at which it opened before that, and closed
        self.probing: set[int] = set()  # dispatched since then, and not over
        self.full_ms = 0.0  # when the bucket is full again


class Paces:
    """One pipe's kinds."""

    def __init__(self) -> None:
        self._kinds: dict[int, _Kind] = {}

    def opened(self) -> None:
        """Another process: it knows what runs, and nothing else."""
        for kind in self._kinds.values():
            kind.failed.clear()
            kind.probing.clear()
            kind.open_at = 0
            kind.closed = (0, 0)
            kind.full_ms = 0.0

    def reloaded(self, kinds: Mapping[int, KindSeen], change: int, log_ms: int) -> None:
        """Another policy, from that log index on."""
        for number, kind in self._kinds.items():
            if kind.open_at and (number not in kinds or not kinds[number].breaker):
                kind.closed = (kind.open_at, change)
                kind.open_at = 0
            if number not in kinds:
                kind.failed.clear()
                kind.probing.clear()
                kind.full_ms = 0.0
            elif kinds[number].rate:
                burst_ms = kinds[number].burst * kinds[number].rate_ms / kinds[number].rate
                kind.full_ms = min(kind.full_ms, log_ms + burst_ms)

    def is_open(self, number: int, group_index: int) -> bool:
        """Whether the breaker was open when the pipe chose what stands in the group that begins there."""
        kind = self._kinds.get(number)
        if kind is None:
            return False
        opened, closed = kind.closed
        return 0 < kind.open_at < group_index or (0 < opened < group_index <= closed)

    def dispatched(self, number: int, index: int, policy: KindSeen, log_ms: int, group_index: int, live: bool) -> None:
        """One more of the kind runs."""
        kind = self._kinds.setdefault(number, _Kind())
        kind.running.add(index)
        if not live:
            return
        if policy.total and len(kind.running) > policy.total:
            raise Violation("limits", f"kind {number}: {len(kind.running)} run, {policy.total} are allowed")
        if policy.rate:
            cost_ms = policy.rate_ms / policy.rate
            kind.full_ms = max(kind.full_ms, log_ms) + cost_ms
            if kind.full_ms - log_ms > policy.burst * cost_ms + 1.001:  # the pipe counts in whole ns
                raise Violation("limits", f"kind {number} is handed out faster than its rate")
        if 0 < kind.open_at < group_index:  # else it was chosen before
            kind.probing.add(index)
            if len(kind.probing) > 1:
                raise Violation("breaker", f"kind {number} is open, and tries {sorted(kind.probing)} at a time")

    def ended(self, number: int, index: int, how: str, policy: KindSeen | None, change: int) -> str:
        """A run is over; what it did to the breaker, in a word."""
        kind = self._kinds.setdefault(number, _Kind())
        kind.running.discard(index)
        kind.probing.discard(index)
        if policy is None:
            return ""
        if how == GOOD:
            closes = kind.open_at > 0
            if closes:
                kind.closed = (kind.open_at, change)
            kind.failed.clear()
            kind.probing.clear()
            kind.open_at = 0
            return "closed" if closes else ""
        if how == BAD and not kind.open_at:
            kind.failed.add(index)
            if policy.breaker and len(kind.failed) >= policy.breaker:
                kind.failed.clear()
                kind.open_at = change
                return "opened"
        return ""
