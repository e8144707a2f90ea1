"""The demo's processes: started, killed and started again, each ended by its own pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpy6a.demo.place import RUN_VARIABLE

TAIL_LINES: Final = 12  # of a process's output, told when it ends by itself


class Child:
    """One process of the run, over all its lives; output of every life goes to one file."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        log: Path,
        is_up: Callable[[], bool],
    ) -> None:
        self.name = name
        self.kills = 0
        self.command, self.is_up = command, is_up
        self._environment, self._log = environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a new life. Its own session: a Ctrl-C in the terminal is for the orchestrator only."""
        assert self._process is None, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self._environment,
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and gone when it returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after the grace; gone when it returns."""
        self.ask_to_stop()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def running(self) -> bool:
        """Whether it was started and neither killed nor stopped; it may have ended by itself all the same."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """How it ended by itself; None while it runs, and while it is down by our hand."""
        return None if self._process is None else self._process.poll()

    @property
    def up(self) -> bool:
        """Whether it runs and does its work."""
        return self._process is not None and self._process.poll() is None and self.is_up()

    @property
    def tail(self) -> str:
        """The last lines of its output."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {self.name}| {line}" for line in lines[-TAIL_LINES:])


def answers_tcp(port: int) -> bool:
    """Whether anybody listens on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_unix(path: Path) -> bool:
    """Whether anybody listens on the socket file; the file alone says nothing after a SIGKILL."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(str(path)) == 0


def end_leftovers(token: str) -> int:
    """SIGKILL, each by its pid, processes marked with this run's token that outlived their parents.

    A killed sidecar's handler process is such a one. The pidfd makes sure that the process signalled is the
    one whose environment was read. Returns how many there were.
    """
    marked = f"{RUN_VARIABLE}={token}".encode()
    ended = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            held = os.pidfd_open(int(entry.name))
        except OSError:
            continue
        try:
            if marked in (entry / "environ").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(held, signal.SIGKILL)
                ended += 1
        except OSError:
            continue
        finally:
            os.close(held)
    return ended
