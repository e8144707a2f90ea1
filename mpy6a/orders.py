"""Which sessions of one kind share an order key: they repeat one at a time, in the order of their index.

Kept for what is in memory; what waits in the checkpoint's file is asked for there, from `floor` on. Pure. Source:
semantics, "Why is this session not running?" (BEHIND); the rule itself is `Sessions.ahead`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final

Order = tuple[int, str]  # kind, order key
FLOORS_MAX: Final = 65_536  # 10 MB; a floor that is forgotten costs a longer look at the file


class Orders:
    """The orders of a pipe's sessions."""

    __slots__ = ("_floors", "_live", "moved")

    def __init__(self) -> None:
        self.moved: dict[Order, None] = {}  # in which somebody else may be first now; whoever dispatches takes them out
        self._live: dict[Order, list[int]] = {}  # indexes in memory, ascending
        self._floors: dict[Order, int] = {}  # below it no row of the file counts any more

    def add(self, order: Order, index: int) -> None:
        """A session is in memory."""
        live = self._live.get(order)
        if live is None:
            self._live[order] = [index]
        elif index > live[-1]:
            live.append(index)
        else:
            insort(live, index)

    def remove(self, order: Order, index: int) -> None:
        """It is finished: somebody else is first, if it was."""
        self._take(order, index)
        self.moved[order] = None

    def drop(self, order: Order, index: int) -> None:
        """It left memory for the file, where it counts."""
        self._take(order, index)
        self._floors.pop(order, None)

    def _take(self, order: Order, index: int) -> None:
        live = self._live[order]
        del live[bisect_left(live, index)]
        if not live:
            del self._live[order]

    def live(self, order: Order) -> Sequence[int]:
        """Indexes of those in memory, ascending. Not to be kept."""
        return self._live.get(order, ())

    def floor(self, order: Order) -> int:
        """Rows of the file up to this index do not count."""
        return self._floors.get(order, 0)

    def raise_floor(self, order: Order, index: int) -> None:
        """Rows up to this index were looked at, and none counts."""
        if len(self._floors) >= FLOORS_MAX:
            self._floors.clear()
        self._floors[order] = index
