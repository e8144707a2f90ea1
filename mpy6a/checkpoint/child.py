"""The process that writes checkpoints: it follows the log with a state of its own, and files what lives on.

Started by the pipe, told on its standard input up to which index the log is durable, answers on its standard output:

    -> "<index>\\n"                        write a checkpoint that holds everything below index
    <- "done <index> <position> <ms> <settled>\\n"   committed; a long way is gone in several steps, each told
    <- "full\\n"                           no room on the disk: the last checkpoint stands, ask again later

It ends when its input does, after CHECKPOINT_REST_MS without a question, or with one sentence on standard error when
the log or the file is damaged or the disk fails. Killing it loses nothing.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import time
from typing import Final

from mpy6a import collecting, heap, limits
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.checkpoint.writing import CheckpointWriter
from mpy6a.errors import DiskFull
from mpy6a.files import OsFiles
from mpy6a.log.following import LogFollower
from mpy6a.session import Session

NICE: Final = 5  # the pipe and its clients come first; a backlog makes clients wait in the end
_PR_SET_PDEATHSIG: Final = 1


class Checkpoints:
    """Follows one log and writes its checkpoints. One thread, one user."""

    def __init__(self, directory: str) -> None:
        """Raises CannotStart, DamagedLog, FormatVersion, DiskFailed."""
        self.settled = True  # the last one stands in the file, not in SQLite's journal only
        self._directory = directory
        self._file = CheckpointFile.open(directory, write=True)
        header = self._file.header()
        files = self._files = OsFiles()
        self._follower = LogFollower(files, directory, 1 if header is None else header.next_index)
        self.state = load_state(self._file, self._follower.pipe, self._follower.log)
        self._writer = CheckpointWriter(self._file, self.state, self._records, self._follower.log)

    def _records(self, session: Session) -> list[bytes]:
        return self.state.sessions.records(session, self._follower.read)

    def go(self, until: int) -> bool:
        """One step towards index `until`: at most CHECKPOINT_BYTES of log, fewer on a disk that is nearly full, so that
        each step gives back what the next one needs. Whether it is reached.

        Raises DiskFull (the last checkpoint stands; drop this and begin anew), DamagedLog, DiskFailed.
        """
        follower, apply, loaded = self._follower, self.state.apply, self.state.sessions.loaded
        moved = self.state.sessions.orders.moved
        free = self._files.space(self._directory).free
        most = min(limits.CHECKPOINT_BYTES, max(limits.CHECKPOINT_STEP_BYTES_MIN, free // limits.CHECKPOINT_STEP_SHARE))
        size = 0
        for frame in follower.frames(until):
            apply(frame)
            frame.decoded = None
            loaded.clear()
            moved.clear()
            size += len(frame.batch)
            if size >= most:
                break
        try:
            written = self._writer.write(follower.position, time.time_ns() // 1_000_000, free)
        except DiskFull:
            self._file.settle()  # SQLite's journal keeps the room of what was rolled back: others need it
            raise
        self.settled = written.settled
        follower.forget_below(follower.position)
        return follower.next_index >= until

    @property
    def position(self) -> int:
        """The log's position behind the last frame of the last checkpoint."""
        return self._follower.position

    def close(self) -> None:
        """Let go of the files."""
        self._follower.close()
        self._file.close()


def serve(directory: str) -> None:
    """Answer the pipe until it ends, or has asked nothing for a while."""
    die_with_parent()
    os.nice(NICE)
    collecting.leave_the_old()
    checkpoints: Checkpoints | None = None
    pending = b""
    try:
        while select.select([0], [], [], limits.CHECKPOINT_REST_MS / 1000)[0]:
            data = os.read(0, 4096)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            if not lines:
                continue
            try:
                if checkpoints is None:
                    checkpoints = Checkpoints(directory)
                _write(checkpoints, int(lines[-1]))
            except DiskFull:
                if checkpoints is not None:
                    checkpoints.close()  # its state is ahead of the file: the next step is to be a smaller one
                    checkpoints = None
                    gc.collect()  # it refers to itself, and all of it is old
                _say("full")
    finally:
        if checkpoints is not None:
            checkpoints.close()


def _write(checkpoints: Checkpoints, until: int) -> None:
    reached = False
    while not reached:
        started = time.perf_counter_ns()
        reached = checkpoints.go(until)
        took_ms = (time.perf_counter_ns() - started) // 1_000_000
        _say(f"done {checkpoints.state.next_index} {checkpoints.position} {took_ms} {checkpoints.settled:d}")
    heap.give_back()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends: two of them would only get in each other's way."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:
        sys.exit(0)
