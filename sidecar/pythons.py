"""Keeps the process of the `python:` handlers running: started, started again when it dies, ended with the
sidecar.

The process (`python -m sidecar.child`) attaches over the sidecar's door as any service does. Its death shows
there: what it ran fails, and is repeated.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mpy6a import limits

logger = logging.getLogger(__name__)

SETTLED_S: Final = 30.0  # a process that lived this long starts again without a wait
CLOSE_S: Final = 2.0  # from the end of its stdin to SIGKILL; nothing runs any more then


class PythonHandlers:
    """One child process for all `python:` kinds of the sidecar. With `on_end` it is started once, and that is called
    with its status when it has ended by itself."""

    def __init__(
        self,
        door: str,
        targets: Sequence[str],
        path: Sequence[Path],
        concurrency: int,
        on_end: Callable[[int], None] | None = None,
        name: str = "python handlers",
    ) -> None:
        """`name`: what it calls itself at the door."""
        self.name = name
        self.first_end = asyncio.Event()  # its first process has ended
        self.status: int | None = None  # of the last process that has
        self._on_end = on_end
        self._told = json.dumps(
            {
                "door": door,
                "targets": sorted(set(targets)),
                "path": [str(directory) for directory in path],
                "concurrency": concurrency,
                "name": name,
            }
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Event | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._draining = False
        self.started = 0

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._keeper = loop.create_task(self._keep(loop))

    def drain(self) -> None:
        """From now on a process that ends is not started again."""
        self._draining = True

    async def close(self) -> None:
        """Ends the process and waits for it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        process, ended = self._process, self._ended
        if process is None or ended is None:
            return
        _close_stdin(process)  # the child's sign to leave
        try:
            await asyncio.wait_for(ended.wait(), CLOSE_S)
        except TimeoutError:
            process.kill()
            await ended.wait()
        self._process = None

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> None:
        wait_ms = limits.CHILD_RESTART_MS
        while True:
            began = loop.time()
            self._process = process = self._spawn()
            self._ended = ended = asyncio.Event()
            watch(loop, process, ended)
            await ended.wait()
            self._process, self.status = None, process.returncode
            self.first_end.set()
            if self._draining:
                return
            if self._on_end is not None:
                self._on_end(process.returncode)
                return
            if loop.time() - began > SETTLED_S:
                wait_ms = limits.CHILD_RESTART_MS
            logger.error(
                "the process of the python handlers ended; it starts again",
                extra={"facts": {"status": process.returncode, "after_ms": wait_ms}},
            )
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(2 * wait_ms, limits.CHILD_RESTART_MAX_MS)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.started += 1
        # stdin stays open as long as the sidecar lives: its end tells the child, whatever ended the sidecar.
        process = subprocess.Popen([sys.executable, "-m", "sidecar.child"], stdin=subprocess.PIPE)
        assert process.stdin is not None
        try:
            process.stdin.write(self._told.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already: its status tells
        return process


def watch(loop: asyncio.AbstractEventLoop, process: subprocess.Popen[bytes], ended: asyncio.Event) -> None:
    """Sets `ended` when the process has ended, and reaps it."""
    descriptor = os.pidfd_open(process.pid)

    def readable() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        process.wait()
        _close_stdin(process)
        ended.set()

    loop.add_reader(descriptor, readable)


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass  # nobody reads it any more
