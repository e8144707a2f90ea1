"""What an attached service holds of its sidecar's pushes: parts that wait for the rest, and runs. Pure."""

from __future__ import annotations

from typing import NamedTuple

from mpy6a.client.records import Record
from mpy6a.messages import RepeatPart
from mpy6a.model import SessionId


class RunKey(NamedTuple):
    """One epoch of one session: what is handed to one handler process once."""

    session: SessionId
    epoch: int

    @classmethod
    def of(cls, pipe: int, term: int, index: int, epoch: int) -> RunKey:
        return cls(SessionId(pipe, term, index), epoch)


class Whole(NamedTuple):
    """A RepeatData with all its parts: the facts of the first, the records of all."""

    key: RunKey
    facts: RepeatPart
    records: tuple[Record, ...]


class Assembly:
    """Joins the parts of pushed sessions, in whatever order they come; at most `bound` sessions at a time."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._parts: dict[RunKey, dict[int, RepeatPart]] = {}

    def add(self, pipe: int, part: RepeatPart) -> Whole | None:
        """The session, once this part makes it whole. Over the bound the oldest incomplete one is forgotten: its
        sidecar will miss its outcome, and the pipe repeats it."""
        key = RunKey.of(pipe, part.term, part.index, part.epoch)
        if part.parts <= 1:
            return Whole(key, part, tuple(map(Record, part.records)))
        parts = self._parts.setdefault(key, {})
        parts[part.part] = part
        if len(parts) < part.parts:
            if len(self._parts) > self._bound:
                del self._parts[next(iter(self._parts))]
            return None
        del self._parts[key]
        joined = [parts[number] for number in sorted(parts)]
        return Whole(key, joined[0], tuple(Record(record) for each in joined for record in each.records))

    def forget(self, key: RunKey) -> None:
        self._parts.pop(key, None)

    def clear(self) -> None:
        """The connection is a new one: the missing parts of what was begun will not come."""
        self._parts.clear()
