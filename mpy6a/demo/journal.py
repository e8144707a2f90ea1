"""The client's own journal: what it began and how each row ended, on disk before it goes on.

The audit trusts this file and the services' databases, never the pipe. One JSON object a line, appended
with one write and synced before `write` returns. A line that a SIGKILL or power loss cut short is dropped
at the next opening: what it said had not been promised to anyone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

# started: before anything is done; done: created, indexed and the session deleted; refused: service A said
# that the nickname is taken; left: an error, the session is the pipe's now.
Phase = Literal["started", "done", "refused", "left"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: `row` is the line of the person in the input file."""

    row: int
    nickname: str
    phase: Phase
    session: str = ""
    user: int = 0
    why: str = ""


class Journal:
    """Append-only; one process writes at a time."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        content = _whole_lines(path.read_bytes())
        self.entries = [_parse(line) for line in content.splitlines()]
        os.ftruncate(self._file, len(content))
        os.lseek(self._file, 0, os.SEEK_END)
        os.fsync(self._file)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @property
    def rows(self) -> set[int]:
        """Rows that were begun in any life of the client: never begun again."""
        return {entry.row for entry in self.entries}

    def write(self, entry: Entry) -> None:
        """Append; on disk when it returns. A failed sync ends the client: the journal would lie from here."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the journal took part of a line: is the disk full?")
        os.fdatasync(self._file)
        self.entries.append(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def read(path: Path, after: int = 0) -> list[Entry]:
    """All whole lines behind the first `after` bytes, also while the client writes; none without a journal."""
    return [_parse(line) for line in _content(path)[after:].splitlines()]


def whole_bytes(path: Path) -> int:
    """How long the journal is, a line cut short at its end left out."""
    return len(_content(path))


def _content(path: Path) -> bytes:
    try:
        return _whole_lines(path.read_bytes())
    except FileNotFoundError:
        return b""


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _parse(line: bytes) -> Entry:
    return Entry(**json.loads(line))
