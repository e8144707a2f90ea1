"""Which ids a log has given: index ranges by term. Part of the state; says LOST or LOG_BEHIND of an id it never gave.

Source: semantics, "One session": an id is (pipe, term, index), and every opening begins a term.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from mpy6a.errors import Code


class GivenIds:
    """The first index of each term."""

    __slots__ = ("terms",)

    def __init__(self, terms: Iterable[tuple[int, int]] = ()) -> None:
        self.terms = list(terms)  # (term, its first index) of each opening, ascending

    def open(self, term: int, first_index: int) -> None:
        """A term begins."""
        self.terms.append((term, first_index))

    def judge(self, term: int, index: int, next_index: int) -> int:
        """LOG_BEHIND or LOST for an id that this log, which ends before `next_index`, never gave; 0 for one that it may
        have given."""
        terms = self.terms
        last = terms[-1][0] if terms else 0
        if term > last:
            return Code.LOG_BEHIND
        place = bisect_left(terms, (term, 0))
        if place == len(terms) or terms[place][0] != term or index < terms[place][1]:
            return Code.LOST
        if term == last:
            return Code.LOG_BEHIND if index >= next_index else 0
        return 0 if index < terms[place + 1][1] else Code.LOST  # a closed term will never reach further
