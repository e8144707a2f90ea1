"""The newest connection that each pipe dialed to this sidecar: what may be pushed on it, and what was taken.

Pure. A dial is (term, dial) of the greeting; pushes and credit count from 1 in each. Anybody may greet: a dial
stands when it was answered, and it is answered when it comes from the process that the sidecar itself calls.
Source: semantics "Pushing".
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
    incarnation: bytes  # of the pipe's process, as the greeting's header says
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
    """The dial of each pipe that stands, by the pipe's number; greetings that wait for their pipe to be heard."""

    __slots__ = ("_greetings", "_standing")

    def __init__(self) -> None:
        self._standing: dict[int, Dial] = {}
        # A slot for each (pipe, incarnation): what a stranger says never displaces what a pipe said.
        self._greetings: dict[tuple[int, bytes], Dial] = {}

    def greeted(self, pipe: int, incarnation: bytes, greeting: Greeting) -> bool:
        """Keeps the greeting; False: it is not newer than the dial that stands, or than one that waits."""
        newest = greeting.term, greeting.dial
        standing = self._standing.get(pipe)
        if standing is not None and standing.incarnation == incarnation and newest <= (standing.term, standing.dial):
            return False
        waiting = self._greetings.get((pipe, incarnation))
        if waiting is not None and waiting.term == greeting.term and waiting.dial >= greeting.dial:
            return False
        if waiting is None and len(self._greetings) >= limits.DIALS_MAX:
            del self._greetings[next(iter(self._greetings))]
        self._greetings[pipe, incarnation] = Dial(pipe, incarnation, greeting.term, greeting.dial)
        return True

    def waiting(self) -> list[Dial]:
        """Greetings that are not answered."""
        return list(self._greetings.values())

    def stand(self, dial: Dial) -> None:
        """From here on this is its pipe's dial, and whatever stood is an older one."""
        del self._greetings[dial.pipe, dial.incarnation]
        self._standing[dial.pipe] = dial

    def refused(self, pipe: int, number: int) -> bool:
        """The pipe knows no such dial: it was somebody else's, and nothing of it stands."""
        standing = self._standing.get(pipe)
        if standing is None or standing.dial != number:
            return False
        del self._standing[pipe]
        return True

    def named(self, pipe: int, term: int, dial: int, incarnation: bytes | None) -> Dial | None:
        """The dial that a message names, if it stands and was answered. `incarnation` is who says so; None:
        it came over the sidecar's own connection to the pipe."""
        known = self._standing.get(pipe)
        if known is None or not known.answered or (term, dial) != (known.term, known.dial):
            return None
        return known if incarnation in (None, known.incarnation) else None

    def all(self) -> list[Dial]:
        """Those that stand."""
        return list(self._standing.values())


def whole(parts: tuple[RepeatPart, ...]) -> RepeatPart:
    """One RepeatData of all its parts."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return first._replace(parts=1, records=tuple(record for part in parts for record in part.records))


def size(parts: tuple[RepeatPart, ...]) -> int:
    """Bytes of all records: what a session counts against credit."""
    if len(parts) == 1:
        return sum(map(len, parts[0].records))
    return sum(len(record) for part in parts for record in part.records)


def _belongs(part: RepeatPart, first: RepeatPart) -> bool:
    return (part.term, part.index, part.epoch, part.kind, part.parts) == (
        first.term,
        first.index,
        first.epoch,
        first.kind,
        first.parts,
    )
