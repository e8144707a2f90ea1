"""Child processes of a test: whatever happens, each is ended by its own pid when the test is over."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final

END_TIMEOUT_S: Final = 5.0  # what all of them together get to leave by themselves after SIGTERM


class Processes:
    """Starts processes; leaving the block ends them, the last started first: SIGTERM, a deadline, SIGKILL."""

    def __init__(self, end_timeout_s: float = END_TIMEOUT_S) -> None:
        self._end_timeout_s = end_timeout_s
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Starts one; its pipes are bytes. `env` replaces the environment, None inherits it."""
        process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Ends what still runs, and closes the pipes of all."""
        try:
            for process in reversed(self._started):
                process.terminate()  # Popen knows what it has reaped: never a signal to somebody else's pid
            deadline_s = time.monotonic() + self._end_timeout_s
            for process in reversed(self._started):
                try:
                    process.wait(max(0.0, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
        finally:
            for process in self._started:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
            self._started.clear()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
