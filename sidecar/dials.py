"""The newest connection that each pipe dialed to this sidecar: what may be pushed on it, and what was taken.

Pure. A dial is (term, dial) of the greeting; pushes and credit count from 1 in each. Source: semantics
"Pushing".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mpy6a import limits
from mpy6a.messages import Greeting, KindCredit, RepeatPart


@dataclass(slots=True)
class Dial:
    """One dial of one pipe. `taken` is the last push number taken; every one up to it was."""

    pipe: int
    term: int
    dial: int
    answered: bool = False  # the sidecar hello went out; before it nothing is taken
    taken: int = 0
    told_through: int = -1  # what the last Accepted said; -1: nothing yet
    told_credit: tuple[KindCredit, ...] = ()
    sessions_taken: Counter[int] = field(default_factory=Counter)  # by kind
    bytes_taken: Counter[int] = field(default_factory=Counter)
    _parts: list[RepeatPart] = field(default_factory=list)
    _bytes: int = 0
    _records: int = 0

    def take(self, part: RepeatPart, bytes_max: int, records_max: int) -> tuple[RepeatPart, ...] | str:
        """The parts of a session when this one completes it, () when more are to come; a word when it is
        dropped."""
        if part.number != self.taken + 1:
            return "push_again" if part.number <= self.taken else "push_gap"
        if part.part != len(self._parts) or (self._parts and not _belongs(part, self._parts[0])):
            if part.part < len(self._parts):
                return "push_again"
            self._drop()
            return "push_gap"
        self._bytes += sum(map(len, part.records))
        self._records += len(part.records)
        if self._bytes > bytes_max or self._records > records_max:
            self._drop()
            return "push_too_large"
        self._parts.append(part)
        if len(self._parts) < part.parts:
            return ()
        whole = tuple(self._parts)
        self.taken += 1
        self.sessions_taken[part.kind] += 1
        self.bytes_taken[part.kind] += self._bytes
        self._drop()
        return whole

    def _drop(self) -> None:
        self._parts.clear()
        self._bytes = self._records = 0


class Dials:
    """The newest dial of each pipe, by the pipe's number."""

    __slots__ = ("_by_pipe",)

    def __init__(self) -> None:
        self._by_pipe: dict[int, Dial] = {}

    def greeted(self, pipe: int, greeting: Greeting) -> Dial | None:
        """The dial that begins by this greeting; None: it is not newer than the one that is."""
        known = self._by_pipe.get(pipe)
        if known is not None and (greeting.term, greeting.dial) <= (known.term, known.dial):
            return None
        if known is None and len(self._by_pipe) >= limits.DIALS_MAX:
            unanswered = next((dial.pipe for dial in self._by_pipe.values() if not dial.answered), None)
            if unanswered is None:
                return None
            del self._by_pipe[unanswered]
        dial = self._by_pipe[pipe] = Dial(pipe, greeting.term, greeting.dial)
        return dial

    def named(self, pipe: int, term: int, dial: int) -> Dial | None:
        """The dial that a message from the pipe names, if it is the newest and was answered."""
        known = self._by_pipe.get(pipe)
        if known is None or not known.answered or (term, dial) != (known.term, known.dial):
            return None
        return known

    def all(self) -> list[Dial]:
        return list(self._by_pipe.values())


def whole(parts: tuple[RepeatPart, ...]) -> RepeatPart:
    """One RepeatData of all its parts."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return first._replace(parts=1, records=tuple(record for part in parts for record in part.records))


def size(parts: tuple[RepeatPart, ...]) -> int:
    """Bytes of all records: what a session counts against credit."""
    return sum(len(record) for part in parts for record in part.records)


def _belongs(part: RepeatPart, first: RepeatPart) -> bool:
    return (part.term, part.index, part.epoch, part.kind, part.parts) == (
        first.term,
        first.index,
        first.epoch,
        first.kind,
        first.parts,
    )
