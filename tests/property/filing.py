"""A checkpoint beside the pair: whoever follows the log writes it, into SQLite in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import apsw

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.checkpoint.writing import CheckpointWriter
from mpy6a.framing import Frame
from mpy6a.session import Session
from mpy6a.state import State

LOG: Final = bytes(16)
_NAMES = itertools.count()


class Filing:
    """A file that is written by a state of its own, and read by the one that is compared."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._name = f"/filing-{next(_NAMES)}"
        self._kept = self._connect("", write=True)  # a database in memory is there while somebody is connected
        self._written = CheckpointFile.open("", write=True, connect=self._connect)
        self.file = CheckpointFile.open("", connect=self._connect)
        self._state = State(pipe)
        self._writer = CheckpointWriter(self._written, self._state, self._records, LOG)
        self._frames: Sequence[Frame] = ()

    def _connect(self, path: str, write: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        return apsw.Connection(f"file:{self._name}?vfs=memdb", flags=flags)

    def write(self, frames: Sequence[Frame], position: int) -> None:
        """A checkpoint of all frames, which end at that position."""
        self._frames = frames
        for frame in frames:
            if frame.first_index >= self._state.next_index:
                self._state.apply(replace(frame))
        self._writer.write(position, 0)

    def _records(self, session: Session) -> list[bytes]:
        return self._state.sessions.records(session, self._read)

    def _read(self, position: int, length: int) -> bytes:
        for frame in reversed(self._frames):
            if frame.position <= position:
                return frame.batch[position - frame.position : position - frame.position + length]
        raise AssertionError("a record stands in some frame")

    def load(self) -> State:
        """The state as of the last checkpoint."""
        return load_state(self.file, self._pipe, LOG)
