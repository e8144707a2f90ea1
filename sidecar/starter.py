"""The process that starts the programs of exec handlers, and ends them: all of a process group, whoever dies first.

Started by the sidecar as `python -m sidecar.starter FD`, told by one line of JSON on stdin which programs there are:
`{"stop_ms": 5000, "kinds": {"7": {"argv": [...], "cwd": "/etc/app"}}}`. FD is a SOCK_SEQPACKET socket; a message is
JSON:

    -> {"begin": 1, "kind": 7, "env": {...}}   with two descriptors, its stdin and stderr
    -> {"stop": 1}                             SIGTERM to its group, after stop_ms SIGKILL
    -> {"leave": true}                         stop all, end when nothing is left
    <- {"refused": 1, "why": "..."}            it could not be started
    <- {"ended": 1, "status": 0}               -n: by signal n

One thread, and nothing of mpy6a imported: a fork is cheap here, and code between fork and exec is safe. As subreaper it
inherits what programs leave behind, so a group's number stays its own until nothing of it is left. At the end of FD the
sidecar is dead: every group gets SIGKILL. If this process dies itself, the kernel ends the programs (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_MESSAGE_BYTES_MAX: Final = 65_536
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Group:
    """The process group of one program; its number is the program's pid. `ended`: the program itself is reaped."""

    __slots__ = ("ended", "kill_at_s", "number", "pid")

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        self.ended = False
        self.kill_at_s: float | None = None  # set: SIGTERM is sent


class Starter:
    """Carries out what the sidecar says until it has left, or is gone."""

    def __init__(self, door: socket.socket, told: dict[str, Any]) -> None:
        self._door = door
        self._kinds: dict[str, dict[str, Any]] = told["kinds"]
        self._stop_s = told["stop_ms"] / 1000
        self._groups: dict[int, Group] = {}  # by the sidecar's number
        self._leaving = False
        self._gone = False

    def run(self) -> None:
        """Returns when no group is left."""
        wake, wakened = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
        # Handlers that do nothing, where SIG_IGN would be inherited: a terminal's Ctrl-C and a supervisor's SIGTERM
        # reach the sidecar too, which says what is to be done.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _nothing)
        with selectors.DefaultSelector() as selector:
            selector.register(self._door, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while self._groups or not self._leaving:
                for key, _ in selector.select(self._wait_s()):
                    if key.fd == wake:
                        os.read(wake, 4096)
                    else:
                        self._read()
                if self._gone:
                    selector.unregister(self._door)
                    self._gone = False
                    self._leaving = True
                    self._kill(list(self._groups.values()))
                self._reap()
                self._look()

    def _wait_s(self) -> float | None:
        due = [group.kill_at_s for group in self._groups.values() if group.kill_at_s is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _read(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._door, _MESSAGE_BYTES_MAX, 2)
        except ConnectionError:
            message, descriptors = b"", []
        if not message:
            self._gone = True
            return
        told = json.loads(message)
        try:
            if "begin" in told:
                self._begin(told, descriptors)
            elif "stop" in told:
                if told["stop"] in self._groups:
                    self._stop(self._groups[told["stop"]])
            else:
                self._leaving = True
                for group in self._groups.values():
                    self._stop(group)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _begin(self, told: dict[str, Any], descriptors: list[int]) -> None:
        number, kind = told["begin"], self._kinds[str(told["kind"])]
        if len(descriptors) != 2:  # the kernel has dropped what this process has no room for
            self._say({"refused": number, "why": "too many open files"})
            return
        environment = {name: value for name, value in os.environ.items() if name != "TRACEPARENT"} | told["env"]
        try:
            process = subprocess.Popen(
                kind["argv"],
                stdin=descriptors[0],
                stdout=subprocess.DEVNULL,
                stderr=descriptors[1],
                cwd=kind["cwd"],
                env=environment,
                process_group=0,
                preexec_fn=_Last(os.getpid()),  # this process has one thread
            )
        except OSError as problem:
            self._say({"refused": number, "why": f"{problem.filename or kind['argv'][0]}: {problem.strerror}"})
            return
        except (subprocess.SubprocessError, ValueError) as problem:
            self._say({"refused": number, "why": str(problem)})
            return
        process.returncode = 0  # `_reap` waits for it, not Popen
        self._groups[number] = Group(number, process.pid)

    def _stop(self, group: Group) -> None:
        if group.kill_at_s is None:
            group.kill_at_s = time.monotonic() + self._stop_s
            _signal(group, signal.SIGTERM)

    def _kill(self, groups: list[Group]) -> None:
        for group in groups:
            group.kill_at_s = time.monotonic() + self._stop_s  # again, if one forks faster than it is killed
            _signal(group, signal.SIGKILL)

    def _reap(self) -> None:
        """Takes note of everything that has ended, also of what programs left behind."""
        pids = {group.pid: group for group in self._groups.values() if not group.ended}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in pids:
                group = pids.pop(pid)
                group.ended = True
                self._say({"ended": group.number, "status": os.waitstatus_to_exitcode(status)})

    def _look(self) -> None:
        """Forgets groups of which nothing is left; stops what a program has left behind; kills what is due."""
        now_s = time.monotonic()
        for group in list(self._groups.values()):
            if group.ended and _is_empty(group):
                del self._groups[group.number]
            elif group.kill_at_s is None:
                if group.ended:
                    self._stop(group)
            elif now_s >= group.kill_at_s:
                self._kill([group])

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._door.send(json.dumps(message).encode())
        except ConnectionError:
            pass  # the sidecar is gone: the next read says so


class _Last:
    """In the program, before exec: SIGKILL when the starter dies, also by SIGKILL itself."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != self._parent:
            os._exit(1)  # it died before we asked


def _signal(group: Group, number: int) -> None:
    """To all of the group. Its number is nobody else's: a child of ours that is not reaped has it."""
    try:
        os.killpg(group.pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        pass  # it runs as somebody else now (setuid): not ours to end


def _is_empty(group: Group) -> bool:
    """Of a program that has ended: is no child of ours in its group? (Its orphans are our children.)"""
    try:
        os.waitid(os.P_PGID, group.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _nothing(*_: object) -> None:
    """A signal's handler: the wakeup descriptor has told."""


def main() -> None:
    told = json.loads(sys.stdin.buffer.readline())
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with socket.socket(fileno=int(sys.argv[1])) as door:
        Starter(door, told).run()


if __name__ == "__main__":
    main()
