"""A handler that does nothing but finish its session, and notes when; what `mpy6a bench delivery` has delivered to.

`finish` is what a `python:` kind names. `python -m mpy6a.benchmark.nothing DOOR CONCURRENCY HANG KIND...` is a service
that serves the kinds itself; the handlers of the first HANG of them never return. Notes stay in memory while anything
runs, and are written when the process ends (`mpy6a.benchmark.notes`).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import mpy6a
from mpy6a.benchmark.checked import CheckedConnection
from mpy6a.benchmark.notes import NOTES, Notes
from mpy6a.client.aio_driver import Token

KIND: Final = "bench"  # that of mpy6a.benchmark.place, which a handler's process does not load


LEAVE_S: Final = 3.0  # the pipe is quicker to say that a session is gone than its ack is here
_notes: Final = Notes()
_running: Final[set[str]] = set()  # sessions whose Delete was called
_idle: Final = asyncio.Event()


@mpy6a.handler(KIND)
async def finish(repeat: mpy6a.RepeatData) -> None:
    """Deletes the session; done is when that is durable."""
    session = repeat.session
    handed_ns = time.monotonic_ns()
    name = session.id
    _running.add(name)
    try:
        await session.delete()
        _notes.runs.append((name, handed_ns, time.monotonic_ns()))
    finally:
        _running.discard(name)
        if not _running:
            _idle.set()


def for_kind(kind: str) -> Callable[[mpy6a.RepeatData], Awaitable[None]]:
    """`finish` for that kind."""
    if kind == KIND:
        return finish

    @mpy6a.handler(kind)
    async def finish_kind(repeat: mpy6a.RepeatData) -> None:
        await finish(repeat)

    return finish_kind


def hang(kind: str) -> Callable[[mpy6a.RepeatData], Awaitable[None]]:
    """A handler of that kind which never returns."""

    @mpy6a.handler(kind)
    async def hang_kind(repeat: mpy6a.RepeatData) -> None:
        await asyncio.Event().wait()

    return hang_kind


async def serve(door: str, concurrency: int, hanging: int, kinds: list[str], path: Path) -> None:
    """Serves the kinds until SIGTERM; then waits for acks that are on their way, and ends: who hangs is left."""
    async with mpy6a.AsyncPipe(door, name="bench handler") as pipe:
        connection: CheckedConnection[Token] = CheckedConnection(os.urandom(16), door=door, name="bench handler")
        pipe.driver().connection = connection  # before anything is said: every ack is asked whether it is durable

        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        handlers = [hang(kind) if place < hanging else for_kind(kind) for place, kind in enumerate(kinds)]
        serving = loop.create_task(pipe.serve(*handlers, concurrency=concurrency))
        ending = loop.create_task(ended.wait())
        await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()  # raises why it could not serve
        _idle.clear()
        if _running:
            try:
                await asyncio.wait_for(_idle.wait(), LEAVE_S)
            except TimeoutError:
                pass  # the figures tell: not everything was handed over
        _, _notes.acks_not_durable = connection.acks()
        _notes.write(path)
        os._exit(0)


def main() -> None:
    """The service; see the module."""
    door, concurrency, hanging, *kinds = sys.argv[1:]
    asyncio.run(serve(door, int(concurrency), int(hanging), kinds, Path(os.environ[NOTES])))


if __name__ == "__main__":
    main()
elif NOTES in os.environ:  # imported by the sidecar's process of python handlers
    atexit.register(_notes.write, Path(os.environ[NOTES]))
