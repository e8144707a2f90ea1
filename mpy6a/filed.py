"""What a checkpoint holds of the sessions, as the core sees it: a pure function of the log so far, read only.

A row counts only while `Sessions.filed` names its index: what has changed since is in memory, what has finished is in
neither. So the file may be older than memory, and even newer than the pipe knows, and no answer changes.
Source: semantics, "The log decides"; design, "Checkpoint".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from mpy6a.session import Session


class Filed(Protocol):
    """Reads of one checkpoint. Every method raises DamagedLog for a row that is missing or whose checksum is wrong."""

    def load(self, index: int) -> Session:
        """The session's image; its records stay references."""
        ...

    def load_many(self, indexes: Collection[int]) -> list[Session]:
        """The images of several, in no order."""
        ...

    def key(self, kind: int, key: str) -> int:
        """Index of the row with that key in that kind; 0 for none."""
        ...

    def ordered(self, kind: int, order_key: str, after: int, before: int, most: int) -> list[tuple[int, int]]:
        """(index, state) of the first rows with that order key in that kind between two indexes, ascending."""
        ...

    def trace(self, term: int, index: int) -> tuple[int, int] | None:
        """(epoch, log time) in which a session finished that was repeated or deleted by an operator."""
        ...

    def due(self, kind: int, after: tuple[int, int], until_ms: int, most: int) -> list[Session]:
        """STORED sessions, not paused, with (due_ms, stored_index) above `after`, due by `until_ms`, in that order."""
        ...

    def next_due(self, kind: int, after: tuple[int, int]) -> int | None:
        """Due time of the first STORED row above `after`."""
        ...

    def page(self, after: int, most: int) -> list[Session]:
        """Rows above an index, in order of their index."""
        ...

    def traces(self) -> Iterator[tuple[int, int, int, int]]:
        """(term, index, epoch, log time) of all traces in the file, by index; those too old to count may be among
        them."""
        ...

    def records(self, index: int) -> dict[int, bytes]:
        """The row's records by reference (position << 32 | length)."""
        ...
