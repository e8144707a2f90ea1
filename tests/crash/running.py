"""A writer's process as a crash test holds it: started, waited for, stopped in peace or killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Final

from tests.crash.place import START_TIMEOUT_S, WRITER, Place, environment

LOOK_S: Final = 0.5  # between two looks whether the pipe still lives, while no writer says anything


class Running:
    """A writer's process, and how much it has said to be answered."""

    def __init__(self, place: Place, address: str, number: int, seed: int) -> None:
        self.path = place.path / f"history-{number}.jsonl"
        argv = [sys.executable, str(WRITER), address, str(self.path), str(seed + number)]
        self.process = place.processes.start(
            argv, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
        )
        self.acked = 0
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.acked = int(line.split()[1])
                self._changed.notify_all()
        with self._changed:
            self.acked = -1
            self._changed.notify_all()

    def wait(self, acked: int, pipe: subprocess.Popen[bytes]) -> None:
        """Until so many of its operations were answered by a pipe that lives."""
        until_s = time.monotonic() + START_TIMEOUT_S
        with self._changed:
            while self.acked < acked:
                assert self.acked >= 0, "the writer ended: see its message above"
                assert pipe.poll() is None, "the pipe ended"
                assert time.monotonic() < until_s, f"no progress beyond {self.acked} operations"
                self._changed.wait(LOOK_S)

    def kill(self) -> None:
        """End it for good in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def stop(self, timeout_s: float) -> None:
        """Let it have an answer to all that it sent, and end."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        self.process.stdin.flush()
        assert self.process.wait(timeout_s) == 0
        self._reader.join()
