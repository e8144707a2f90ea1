"""The pipe in a test's own process: the same core, without sockets, files or a clock that runs by itself.

    async with mpy6a.testing.pipe(finish_user_create) as pipe:
        with pytest.raises(ConnectionError):
            await create_user(pipe, user)       # your code, with its A down between two steps
        await pipe.advance(30)                  # seconds: the handler runs as often as it is due
        assert not pipe.sessions()

State machine, log format, wire, sidecar and client library are the real ones; only sockets, disk and clock are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mpy6a import limits
from mpy6a.testing.embedded import EmbeddedClient, EmbeddedPipe
from mpy6a.testing.kinds import Kind
from mpy6a.testing.world import LiveSession

__all__ = ["EmbeddedClient", "EmbeddedPipe", "Kind", "LiveSession", "pipe"]


def pipe(
    *handlers: Callable[..., object],
    kinds: Mapping[str, Kind] | None = None,
    default: Kind = Kind(),  # noqa: B008 -- a frozen value
    concurrency: int = 32,
    timeout: float | None = limits.TIMEOUT_S,
    patience: float = 5.0,
) -> EmbeddedPipe:
    """An embedded pipe that runs these handlers (marked with @mpy6a.handler); enter it with `async with`.

    The kinds are those of the handlers and of `kinds`, which also says what differs from `default` (delays, limits).
    A kind without a handler keeps its sessions: nobody is there for them. `timeout`: as of AsyncPipe, in the embedded
    pipe's seconds. `patience`: real seconds that `settle` and `advance` wait for a handler that waits for something
    outside the pipe (a socket, a thread, an event of the test); then it counts as hanging, and time goes on without it.
    """
    return EmbeddedPipe(
        handlers, kinds=kinds or {}, default=default, concurrency=concurrency, timeout=timeout, patience=patience
    )
