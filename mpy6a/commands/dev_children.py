"""The processes of `mpy6a dev`: their lives, their output line by line, and their end by their own pids."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

LINE_BYTES_MAX: Final = 64 * 1024  # a longer line without an end is told in pieces
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)  # before any fork: the child only calls into it

Say = Callable[[str, str], None]  # (who, line)


@dataclass(slots=True)
class _Output:
    """What is left of a line of one life of a child; a life's output may outlive it, in a child of its own."""

    name: str
    descriptor: int
    rest: bytes = b""


@dataclass(slots=True)
class Child:
    """One process over all its lives."""

    name: str
    command: Sequence[str]
    replaced: bool = False  # it ends because we want a new one: no word about it
    lives: int = 0
    quick_ends: int = 0  # lives in a row that ended as soon as they had begun
    started_s: float = 0.0
    start_at_s: float | None = None  # when it is to be started again
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        """Of the life that runs now."""
        return self.process.pid if self.process is not None else None

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        """SIGKILL, without waiting."""
        if self.process is not None:
            self.process.kill()


class Children:
    """Watches children and relays their output; `turn` waits for something to happen."""

    def __init__(self, environment: Mapping[str, str], say: Say) -> None:
        self._environment = environment
        self._say = say
        self._selector = selectors.DefaultSelector()

    def watch(self, descriptor: int) -> None:
        """`turn` also returns when there is something to read here; it is read and thrown away."""
        os.set_blocking(descriptor, False)
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def start(self, child: Child, now_s: float) -> None:
        """Begins a new life. In a session of its own: a Ctrl-C in the terminal is for `mpy6a dev` alone."""
        child.process = process = subprocess.Popen(
            child.command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # this process has one thread
        )
        child.lives += 1
        child.started_s, child.start_at_s, child.replaced = now_s, None, False
        assert process.stdout is not None
        descriptor = os.dup(process.stdout.fileno())
        process.stdout.close()
        os.set_blocking(descriptor, False)
        self._selector.register(descriptor, selectors.EVENT_READ, _Output(child.name, descriptor))
        self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, child)

    def turn(self, timeout_s: float) -> list[tuple[Child, int]]:
        """Relays output until something has happened or the time is over; who ended, and with what code."""
        ended: list[tuple[Child, int]] = []
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, _Output):
                self._relay(key.data)
            elif isinstance(key.data, Child):
                self._selector.unregister(key.fd)
                os.close(key.fd)
                process, key.data.process = key.data.process, None
                assert process is not None
                ended.append((key.data, process.wait()))
            else:
                os.read(key.fd, 4096)
        return ended

    def close(self) -> None:
        """Relays what is left, and lets go of everything."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Output):
                self._relay(key.data)
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fd)
            if key.data is not None:
                os.close(key.fd)
        self._selector.close()

    def _relay(self, output: _Output) -> None:
        while True:
            try:
                data = os.read(output.descriptor, LINE_BYTES_MAX)
            except BlockingIOError:
                return
            *lines, output.rest = (output.rest + data).split(b"\n")
            if output.rest and (not data or len(output.rest) > LINE_BYTES_MAX):
                lines.append(output.rest)
                output.rest = b""
            for line in lines:
                self._say(output.name, line.decode(errors="replace").rstrip("\r"))
            if not data:
                self._selector.unregister(output.descriptor)
                os.close(output.descriptor)
                return


def _end_with_parent() -> None:
    """In the child: SIGTERM when `mpy6a dev` dies, also by SIGKILL."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def told(code: int) -> str:
    """How a process ended, for people."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
