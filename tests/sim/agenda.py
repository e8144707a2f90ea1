"""What happens when: one queue of calls for the whole world, and its clock."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

START_MS: Final = 1_000
WALL_MS: Final = 1_800_000_000_000  # a fixed day


class Agenda:
    """Time of the world in ms, and the calls that are due, in order. What is due at one time comes as it was put."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.wall_leap_ms = 0  # what the machine's wall clock was set by
        self.calls = 0
        self._due: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []  # Any: whatever the call takes
        self._put = 0

    @property
    def wall_ms(self) -> int:
        """What the wall clock shows."""
        return WALL_MS + self.now_ms + self.wall_leap_ms

    def at(self, when_ms: int, call: Callable[..., None], *arguments: Any) -> None:
        """Have a call made; one of the past is made next."""
        self._put += 1
        heappush(self._due, (when_ms, self._put, call, arguments))

    def run_until(self, end_ms: int) -> None:
        """Make what is due up to and at `end_ms`."""
        due = self._due
        while due and due[0][0] <= end_ms:
            when_ms, _, call, arguments = heappop(due)
            if when_ms > self.now_ms:
                self.now_ms = when_ms
            self.calls += 1
            call(*arguments)
        self.now_ms = max(self.now_ms, end_ms)

    def leap(self, ms: int) -> None:
        """Time goes by while nobody runs: what was due comes late."""
        self.now_ms += ms
