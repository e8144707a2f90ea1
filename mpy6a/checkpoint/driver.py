"""The pipe's end of the process that writes checkpoints: starts it, asks it, hears what it did. Never waits.

A child that was killed is started again by the next question; one that ended with an error of its own has found damage
or a failing disk, and the pipe must not go on as if its log could be bounded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from mpy6a.errors import DiskFailed
from mpy6a.heap import with_own_heap


@dataclass(frozen=True, slots=True)
class Done:
    """A checkpoint is committed: everything below `index`, whose frames end at log `position`, is in the file."""

    index: int
    position: int
    took_ms: int
    settled: bool = True  # in the file itself; else a reader or a full disk keeps it in SQLite's journal for now


class Checkpointer:
    """Asks for one checkpoint at a time."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._child: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._wanted = 0  # index asked for and not reached; 0: nothing
        self.starts = 0
        self.full = False  # the last one found no room on the disk

    @property
    def busy(self) -> bool:
        """A checkpoint is being written."""
        return self._wanted > 0

    def fileno(self) -> int | None:
        """What becomes readable when the child says something or ends; None without a child."""
        child = self._child
        return child.stdout.fileno() if child is not None and child.stdout is not None else None

    def ask(self, index: int) -> None:
        """Have a checkpoint written that holds everything below `index`, which is durable and a frame's end."""
        self._wanted = index
        self.full = False
        if self._child is None:
            self._start()
        self._tell(index)

    def _start(self) -> None:
        self.starts += 1
        self._pending = b""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "mpy6a.checkpoint", self._directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            close_fds=True,
            env=with_own_heap(),
        )
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)

    def _tell(self, index: int) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(f"{index}\n".encode())
        except BrokenPipeError:
            pass  # it has just ended: `receive` hears of it and starts another

    def receive(self) -> list[Done]:
        """What the child has said since the last call. Raises DiskFailed when it gave up for good."""
        child = self._child
        if child is None:
            return []
        assert child.stdout is not None
        try:
            data = os.read(child.stdout.fileno(), 65_536)
        except BlockingIOError:
            return []
        if not data:
            self._ended(child)
            return []
        *lines, self._pending = (self._pending + data).split(b"\n")
        done: list[Done] = []
        for line in lines:
            word, *numbers = line.split()
            if word == b"full":
                self._wanted, self.full = 0, True
                continue
            index, position, took_ms, settled = map(int, numbers)
            done.append(Done(index, position, took_ms, bool(settled)))
            if index >= self._wanted:
                self._wanted = 0
        return done

    def _ended(self, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self._let_go(child)
        if code > 0:
            raise DiskFailed(
                f"the checkpoint of {self._directory} cannot be written (its sentence is above): run "
                "`mpy6a log verify`, check the disk, then start the pipe again"
            )
        if self._wanted:  # it rested, or somebody killed it: the file stands where its last commit left it
            self._start()
            self._tell(self._wanted)

    def _let_go(self, child: subprocess.Popen[bytes]) -> None:
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
        self._child = None

    def close(self) -> None:
        """End the child. What it was writing is left out whole."""
        child = self._child
        if child is not None:
            child.kill()
            child.wait()
            self._let_go(child)
