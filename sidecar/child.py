"""The process of the `python:` handlers: imports them and serves them over the sidecar's door.

Started by the sidecar as `python -m sidecar.child`, told what to do by one line of JSON on stdin. It ends
when the sidecar does: by SIGTERM, by the end of stdin, and by the kernel if the sidecar was killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from io import RawIOBase
from typing import Any, Final

import mpy6a
from mpy6a import journal
from mpy6a.errors import Mpy6aError

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serves until stdin ends. Exit 2: a handler cannot be found; 3: the sidecar does not let it serve."""
    journal.start(os.environ.get("MPY6A_LOG_FORMAT", "text"), os.environ.get("MPY6A_LOG_LEVEL", "info"))
    die_with_parent()
    # A terminal's Ctrl-C and a supervisor's SIGTERM reach the sidecar too: it drains, and ends this process
    # after.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stdin = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115  # open as long as this process
    told = json.loads(stdin.readline())
    sys.path[:0] = told["path"]
    try:
        handlers = [find(target) for target in told["targets"]]
    except (ImportError, AttributeError, ValueError) as error:
        logger.exception("a handler cannot be found: check `handler: {python: MODULE:FUNCTION}` of the routes")
        raise SystemExit(2) from error
    try:
        asyncio.run(serve(told["door"], handlers, told["concurrency"], stdin, told["name"]))
    except Mpy6aError as error:
        logger.error("cannot serve", extra={"facts": {"why": str(error)}})
        raise SystemExit(3) from error


def find(target: str) -> Callable[..., object]:
    """The function that `module:function` names. Raises ImportError, AttributeError."""
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{target} is no function")
    function: Callable[..., object] = found
    return function


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its sidecar dies, also by SIGKILL."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)  # it died before we asked


async def serve(
    door: str, handlers: list[Callable[..., object]], concurrency: int, stdin: RawIOBase, name: str
) -> None:
    """Serves the handlers over the door until the end of stdin."""
    loop = asyncio.get_running_loop()
    async with mpy6a.AsyncPipe(door, name=name) as pipe:
        serving = loop.create_task(pipe.serve(*handlers, concurrency=concurrency))
        loop.add_reader(stdin, _read, loop, stdin, serving)
        try:
            await serving
        except asyncio.CancelledError:
            logger.debug("stopping")


def _read(loop: asyncio.AbstractEventLoop, stdin: RawIOBase, serving: asyncio.Task[None]) -> None:
    """Nothing more is said on stdin: readable means its end, and that the sidecar is gone."""
    if not stdin.read(4096):
        loop.remove_reader(stdin)
        serving.cancel()


if __name__ == "__main__":
    main()
