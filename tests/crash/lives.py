"""A pipe in this process, over a real data directory: the core, its log, its checkpoints and a repair, without sockets.

Syncs are left out: these tests are about bytes, and a hundred openings a second.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from click.testing import CliRunner

from mpy6a.checkpoint.child import Checkpoints
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.commands.repair import repair_command
from mpy6a.export import document
from mpy6a.files import Buffer, OsFile, OsFiles
from mpy6a.framing import Frame
from mpy6a.log.memory import MemoryLog
from mpy6a.log.segments import SegmentLog
from mpy6a.pipe import Pipe
from mpy6a.policy import Policy
from mpy6a.push import Pusher
from mpy6a.server import Server
from mpy6a.state import State
from tests.fakes.core import WALL_MS, World

PIPE: Final = 1
SEGMENT_BYTES: Final = 16 << 10
FRAME_BYTES_MAX: Final = 8 << 10
Read = Callable[[int, int], bytes]


class QuickFile(OsFile):
    """Nothing is synced."""

    __slots__ = ()

    def write_synced(self, data: Buffer, offset: int) -> None:
        self.write(data, offset)

    def sync(self) -> None:
        pass


class QuickFiles(OsFiles):
    """The operating system's files; nothing is synced."""

    __slots__ = ()

    def open(self, path: str, *, create: bool = False, write: bool = True) -> OsFile:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return QuickFile(os.open(path, flags, 0o600))

    def sync_dir(self, path: str) -> None:
        pass


@dataclass(slots=True)
class _Kept:
    """A state for `Server.replay` that keeps the frames."""

    state: State
    frames: list[Frame]

    @property
    def next_index(self) -> int:
        return self.state.next_index

    def apply(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.state.apply(frame)


class Started:
    """A directory opened as `mpy6a serve` opens it: log and checkpoint, replayed to the end. Close it."""

    def __init__(self, directory: Path, draw: Callable[[int], bytes] = os.urandom) -> None:
        """Raises what a start refuses with."""
        self.directory = str(directory)
        self.file = CheckpointFile.open(self.directory)
        self.frames: list[Frame] = []  # replayed
        try:
            header = self.file.header()
            self.log = SegmentLog.open(
                QuickFiles(), self.directory, PIPE, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX,
                durable_below=1 if header is None else header.next_index, draw=draw,
            )  # fmt: skip
        except BaseException:
            self.file.close()
            raise
        try:
            self.state = State(PIPE) if header is None else load_state(self.file, PIPE, self.log.uuid)
            self._replay()
        except BaseException:
            self.close()
            raise

    def _replay(self) -> None:
        """By the server's own method: it needs no more of a server than this."""
        pipe = SimpleNamespace(state=_Kept(self.state, self.frames))
        Server.replay(cast(Any, SimpleNamespace(pipe=pipe, _log=self.log, _segments=None)))

    def close(self) -> None:
        self.log.close()
        self.file.close()


class Life(World):
    """A pipe's life on a directory: everything of `World`, over segments and with checkpoints."""

    def __init__(
        self, directory: Path, draw: Callable[[int], bytes], policy: Policy, *, now_ms: int, wall_ms: int = WALL_MS
    ) -> None:
        self.started = Started(directory, draw)
        self.log = cast(MemoryLog, self.started.log)  # another Log
        self.now_ms = now_ms
        self.state = self.started.state
        self.pipe = Pipe(self.state, b"P" * 16)
        self.pusher = Pusher(self.pipe, self.log.read, {"users": "tcp://127.0.0.1:1"})
        self.pushed = []
        self.pipe.open(policy, self.now_ms, wall_ms)
        self._numbers = 0
        self.requests = 0
        self._unsettled: list[Checkpoints] = []
        self.work()

    def checkpoint(self, *, trim: bool = False, settled: bool = True) -> None:
        """Written as by the process that writes them; then what waits leaves memory. Not `settled`: a reader stands in
        the way, and it stays in SQLite's journal, until this life is closed."""
        checkpoints = Checkpoints(self.started.directory)
        if settled:
            checkpoints.go(self.state.next_index)
            checkpoints.close()
        else:
            self._unsettled.append(checkpoints)  # closing it would empty the journal
            with patch.object(CheckpointFile, "settle", lambda _: False):
                checkpoints.go(self.state.next_index)
        sessions, due = self.state.sessions, self.pipe.due
        sessions.source, sessions.filed_below = self.started.file, checkpoints.position
        self.started.file.header()  # there is one now
        due.settle_memory(self.state.next_index)
        while due.is_settling:
            due.settle_some(1_000)
        if trim:
            self.started.log.trim(self.state.next_index)
            self.started.log.wait_trimmed()

    def close(self) -> None:
        for checkpoints in self._unsettled:
            checkpoints.close()
        self.started.close()


def told(state: State, read: Read) -> dict[str, Any]:
    """All that a pipe knows, as JSON values: every session with its records, what requests came to, all the rest."""
    sessions: dict[str, Any] = {}
    for session in state.sessions.all():
        found = document(state, session, "directory", None)
        records = [base64.b64encode(record).decode() for record in state.sessions.records(session, read)]
        sessions[found["session"]["id"]] = found["session"] | {"positions": found["records"], "data": records}
    dump = state.dump()
    dump["keys"] = [[kind, key, index] for (kind, key), index in dump["keys"].items()]
    counts = {str(number): count for number, count in sorted(state.sessions.counts.items()) if count}
    whole = dump | {"log_ms": state.log_ms, "counts": counts, "sessions": sessions}
    found_again: dict[str, Any] = json.loads(json.dumps(whole))
    return found_again


def tell(directory: Path) -> dict[str, Any]:
    """What a start makes of the directory. Raises what it refuses with, or what reading meets."""
    with closing(Started(directory)) as started:
        return told(started.state, started.log.read)


def repair(directory: Path) -> tuple[int, dict[str, Any]]:
    """`mpy6a log repair --accept-loss`: its exit code and what it says."""
    done = CliRunner().invoke(repair_command(QuickFiles()), [str(directory), "--accept-loss", "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}
