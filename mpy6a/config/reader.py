"""The pipe's end of the process that reads its files (reading.py): starts it, hears it, ends it.

A thread waits for it, so that nobody else does: it computes nothing, and so takes nothing from the loop.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections import deque
from typing import Final

from mpy6a.config.reading import LENGTH
from mpy6a.readings import Bad, Known, Part

READ_BYTES: Final = 65_536  # what a pipe of the kernel holds


class _Reading:
    """One reading: its process, and what that has said and nobody has taken yet."""

    def __init__(self, known: Known) -> None:
        self.said: deque[bytes] = deque()
        self.status: int | None = None  # set behind the last of `said`
        self._known = known
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="mpy6a-reading", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._lock:
            if self._given_up:
                return
            argv = [sys.executable, "-m", "mpy6a.config.reading"]
            try:
                child = self._child = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
                )
            except OSError as problem:
                self.status = -(problem.errno or 1)
                return
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin, child.stdout:
            try:
                child.stdin.write(pickle.dumps(self._known))
                child.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already: its status tells
            while data := child.stdout.read(READ_BYTES):
                self.said.append(data)
        self.status = child.wait()

    def give_up(self) -> None:
        """End it. It is reaped by its thread."""
        with self._lock:
            self._given_up = True
            if self._child is not None:
                self._child.kill()

    def join(self) -> None:
        """Wait until nothing is left of it."""
        self._thread.join()


class ConfigReader:
    """One reading at a time of the pipe.yaml at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reading: _Reading | None = None
        self._said = bytearray()

    def ask(self, pipe: int, term: int, log_ms: int, hop: bytes) -> None:
        """Begin to read."""
        self.close()
        self._reading = _Reading(Known(self._path, pipe, term, log_ms, hop))

    def receive(self) -> Part | None:
        """The next part, if it is there. `Bad` or `Whole` is the last one."""
        reading = self._reading
        if reading is None:
            return None
        status = reading.status
        while not self._whole() and reading.said:
            self._said += reading.said.popleft()
        if self._whole():
            end = LENGTH.size + LENGTH.unpack_from(self._said)[0]
            part: Part = pickle.loads(memoryview(self._said)[LENGTH.size : end])  # of a process of our own
            del self._said[:end]
            return part
        if status is None:
            return None
        self.close()
        return Bad(({"text": f"the process that reads the files ended with status {status}: its output says why"},))

    def _whole(self) -> bool:
        said = self._said
        return len(said) >= LENGTH.size and len(said) >= LENGTH.size + int(LENGTH.unpack_from(said)[0])

    def close(self, *, wait: bool = False) -> None:
        """End the reading, whether it is done or not; `wait` until nothing is left of it."""
        reading, self._reading = self._reading, None
        self._said.clear()
        if reading is not None:
            reading.give_up()
            if wait:
                reading.join()
