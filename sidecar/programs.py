"""The programs of exec handlers as the sidecar sees them: begun by the starter, fed, listened to, ended.

The starter (`sidecar.starter`) is a process of its own, parent of all programs; it is started with the sidecar, and
again when it has died. Nothing here waits: stdin is written as the program reads it, of stderr the end is kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mpy6a import limits
from sidecar.outcomes import Outcome, exec_exit, exec_failure
from sidecar.pythons import watch

logger = logging.getLogger(__name__)

READ_BYTES: Final = 65_536  # what a pipe holds: one read or write a turn of the loop
MESSAGES_MAX: Final = 64  # of the starter's, in one turn
LEAVE_S: Final = 2.0  # the starter's own end, behind that of the programs


class Program:
    """One program. `ended` is what its end says, whatever it was: it never raises and is never cancelled."""

    def __init__(self, number: int, document: bytes, stdin: int, stderr: int, programs: Programs) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Outcome] = self._loop.create_future()
        self._number = number
        self._unwritten = memoryview(document)
        self._stdin = stdin
        self._stderr = stderr
        self._tail = b""
        self._programs = programs
        self._loop.add_writer(stdin, self._write)
        self._loop.add_reader(stderr, self._read)

    def stop(self) -> None:
        """SIGTERM to its process group, after EXEC_STOP_MS SIGKILL; nothing if it has ended."""
        if not self.ended.done():
            self._programs.stop(self._number)

    def over(self, outcome: Outcome) -> None:
        """It was not started, or nobody knows what became of it."""
        self._close_stdin()
        self._close_stderr()
        if not self.ended.done():
            self.ended.set_result(outcome)

    def exited(self, status: int) -> None:
        """It has ended, -n by signal n; what it wrote before counts."""
        for _ in range(limits.STDERR_READ_BYTES_MAX // READ_BYTES):
            if self._stderr < 0 or not self._read():
                break
        self.over(exec_exit(status, self._tail))

    def _write(self) -> None:
        try:
            written = os.write(self._stdin, self._unwritten[:READ_BYTES])
        except BlockingIOError:
            return
        except OSError:  # EPIPE: it does not want to read it (all); its exit status tells
            self._close_stdin()
            return
        self._unwritten = self._unwritten[written:]
        if not self._unwritten:
            self._close_stdin()

    def _read(self) -> bool:
        """Was there something to read?"""
        try:
            data = os.read(self._stderr, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._close_stderr()
            return False
        self._tail = (self._tail + data)[-limits.TEXT_BYTES_MAX :]
        return True

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def _close_stderr(self) -> None:
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = -1


class Programs:
    """The programs of one sidecar. `kinds`: argv and directory, by the kind's id."""

    def __init__(self, kinds: Mapping[int, tuple[tuple[str, ...], Path]]) -> None:
        told = {str(kind): {"argv": argv, "cwd": str(directory)} for kind, (argv, directory) in kinds.items()}
        self._told = json.dumps({"stop_ms": limits.EXEC_STOP_MS, "kinds": told})
        self._door: socket.socket | None = None
        self._starter: subprocess.Popen[bytes] | None = None
        self._left = asyncio.Event()  # the present starter has ended
        self._running: dict[int, Program] = {}
        self._unsent: deque[tuple[int, bytes, tuple[int, ...]]] = deque()  # of which program, what, with what
        self._number = 0
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Of the starter, while there is one."""
        return None if self._starter is None else self._starter.pid

    def open(self) -> None:
        """Starts the starter, if there is none. Raises OSError."""
        if self._door is not None:
            return
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                argv = [sys.executable, "-m", "sidecar.starter", str(theirs.fileno())]
                process = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(theirs.fileno(),))
            except OSError:
                ours.close()
                raise
        assert process.stdin is not None
        try:
            process.stdin.write(self._told.encode() + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already: the end of the door tells
        ours.setblocking(False)
        self._door, self._starter, self._left = ours, process, asyncio.Event()
        watch(loop, process, self._left)
        loop.add_reader(ours, self._receive)

    def begin(self, kind: int, environment: Mapping[str, str], document: bytes) -> Program:
        """Asks for one. `document` is its stdin, `environment` is added to the sidecar's. Raises OSError where this
        process has no room for it (EMFILE); whether it could be started is part of its end."""
        self.open()
        self._number += 1
        reads, stdin = os.pipe()
        try:
            stderr, writes = os.pipe()
        except OSError:
            os.close(reads)
            os.close(stdin)
            raise
        os.set_blocking(stdin, False)
        os.set_blocking(stderr, False)
        program = self._running[self._number] = Program(self._number, document, stdin, stderr, self)
        message = {"begin": self._number, "kind": kind, "env": dict(environment)}
        self._say(self._number, message, reads, writes)
        return program

    def stop(self, number: int) -> None:
        """Has the starter end this program and all of its group."""
        if number in self._running:
            self._say(number, {"stop": number})

    async def close(self) -> None:
        """Ends all programs, and waits until nothing of them is left."""
        self._closing = True
        if self._door is None or self._starter is None:
            return
        process, left = self._starter, self._left
        self._say(0, {"leave": True})
        try:
            await asyncio.wait_for(left.wait(), limits.EXEC_STOP_MS / 1000 + LEAVE_S)
        except TimeoutError:
            logger.error("programs could not be ended", extra={"facts": {"running": len(self._running)}})
            process.kill()  # the kernel ends what it can
            await left.wait()
        self._lose()

    # ---- the starter

    def _say(self, number: int, message: dict[str, Any], *descriptors: int) -> None:
        self._unsent.append((number, json.dumps(message).encode(), descriptors))
        self._send()

    def _send(self) -> None:
        if self._door is None:
            return
        loop = asyncio.get_running_loop()
        while self._unsent:
            number, message, descriptors = self._unsent[0]
            try:
                if descriptors:
                    socket.send_fds(self._door, [message], descriptors)
                else:
                    self._door.send(message)
            except BlockingIOError:
                loop.add_writer(self._door, self._send)
                return
            except ConnectionError:
                break  # it is gone: what is read next says so, and takes what is left
            except OSError as problem:  # ETOOMANYREFS: more descriptors on the way than a user may have
                if number in self._running:
                    self._running.pop(number).over(exec_failure("not_started", problem.strerror or str(problem)))
            self._unsent.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        loop.remove_writer(self._door)

    def _receive(self) -> None:
        for _ in range(MESSAGES_MAX):
            assert self._door is not None
            try:
                message = self._door.recv(READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                message = b""
            if not message:
                if not self._closing:
                    facts = {"running": len(self._running)}
                    logger.error("the process that starts programs ended; it starts again", extra={"facts": facts})
                self._lose()
                return
            told = json.loads(message)
            if "ended" in told:
                self._running.pop(told["ended"]).exited(told["status"])
            else:
                self._running.pop(told["refused"]).over(exec_failure("not_started", told["why"]))

    def _lose(self) -> None:
        """The starter is gone, and with it all programs."""
        if self._door is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._door)
        loop.remove_writer(self._door)
        self._door.close()
        self._door = self._starter = None
        for _, _, descriptors in self._unsent:
            for descriptor in descriptors:
                os.close(descriptor)
        self._unsent.clear()
        for program in self._running.values():
            program.over(exec_failure("lost"))
        self._running.clear()
