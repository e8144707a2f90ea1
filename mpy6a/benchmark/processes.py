"""The processes under measurement: started, watched from outside, and ended by their own pid."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Final

from mpy6a.errors import CannotStart, Unavailable

END_S: Final = 5.0  # a pipe finishes and syncs what it took; one that needs longer hangs
_RESIDENT: Final = "VmRSS:"


class Child:
    """One process of the benchmark; its output goes to a file, so that nobody waits for a full pipe."""

    def __init__(self, name: str, command: list[str], output: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.started_ns = time.perf_counter_ns()
        self._output = output
        with output.open("wb") as out:
            # A session of its own: Ctrl-C in the terminal is for the benchmark, which then ends its children in order.
            self._process = subprocess.Popen(
                command, env=environment, cwd=output.parent, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises CannotStart if it has ended, with the last line that it wrote."""
        code = self._process.poll()
        if code is not None:
            lines = self._output.read_text(errors="replace").strip().splitlines()
            raise CannotStart(f"the {self.name} ended with code {code}: {lines[-1] if lines else 'it said nothing'}")

    def cpu_ns(self) -> int:
        """CPU time of all its threads so far. Raises as `check`, Unavailable where the system does not tell."""
        try:
            return cpu_ns(self.pid)
        except OSError as problem:
            self.check()
            raise Unavailable(f"the CPU time of the {self.name} cannot be read: {problem.strerror}") from None

    def rss_bytes(self) -> int:
        """Resident memory now, shared libraries included."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(_RESIDENT):
                return int(line.split()[1]) * 1024
        self.check()
        raise Unavailable(f"/proc tells no memory of the {self.name}")

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough; gone when it returns."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def children_of(pid: int) -> list[int]:
    """The processes that it has started and that are there."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_ns(pid: int) -> int:
    """CPU time of a process, exact to the ns, of the clock that clock_getcpuclockid(3) names.

    That is (~pid << 3) | CPUCLOCK_SCHED, frozen in Linux's ABI. /proc/PID/stat counts in ticks of 10 ms, and
    /proc/PID/schedstat one thread only.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)
