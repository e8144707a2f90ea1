"""The async driver's line to its door: messages, time and the lease. A port, and what stands behind it by default.

`mpy6a.testing` has another one: a pipe in the same process, and a clock that the test moves.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Protocol

from mpy6a import limits
from mpy6a.client.heartbeat import Heartbeat
from mpy6a.client.link import Link


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None: ...


class Line(Protocol):
    """One driver's own; used in its loop. No call waits. `closed`: nothing goes or comes any more."""

    @property
    def closed(self) -> bool: ...

    def listen(self, readable: Callable[[], None], changed: Callable[[], None]) -> None:
        """Calls `readable` when `receive`, and `changed` when `changes`, may have something; soon for the first time.
        Look again with `pending` after every send."""
        ...

    def now_ms(self) -> int:
        """Monotonic, of whatever origin."""
        ...

    def call_at(self, when_ms: int, call: Callable[[], None]) -> Timer:
        """Calls `call` in the loop once `now_ms` has reached `when_ms`."""
        ...

    def send(self, messages: list[bytes]) -> None:
        """Sends packed messages, or drops what finds no room: the exchange sends again."""
        ...

    def pending(self) -> bool:
        """Whether `receive` would find something."""
        ...

    def receive(self) -> list[bytes]:
        """What has arrived, at most DRAIN_MESSAGES_MAX envelopes."""
        ...

    def changes(self) -> list[bool]:
        """Since the last call, in order: True for a door reached, False for one lost."""
        ...

    def keep_alive(self, incarnation: bytes, lease_ms: int) -> None:
        """From now until `close` the door hears that the incarnation lives, whatever the loop does."""
        ...

    def close(self, goodbye: bytes) -> None:
        """Ends the heartbeats (one behind the goodbye would revive the client), says goodbye, closes. Also for a loop
        that is closed already."""
        ...


class LoopLine:
    """A `Link` watched by the running loop, the loop's clock, and a `Heartbeat` thread."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._link = Link(address)
        self._heartbeat: Heartbeat | None = None
        self.send = self._link.send  # bound once: they are on the way of every operation
        self.pending = self._link.pending
        self.receive = self._link.receive
        self.changes = self._link.changes

    @property
    def closed(self) -> bool:
        return self._link.socket.closed

    def listen(self, readable: Callable[[], None], changed: Callable[[], None]) -> None:
        self._loop.add_reader(self._link.fd, readable)
        self._loop.add_reader(self._link.monitor_fd, changed)
        # A descriptor signals only what comes after somebody has looked and found nothing.
        self._loop.call_soon(changed)
        self._loop.call_soon(readable)

    def now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def call_at(self, when_ms: int, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_at(when_ms / 1000, call)

    def keep_alive(self, incarnation: bytes, lease_ms: int) -> None:
        self._heartbeat = Heartbeat(self._address, incarnation, lease_ms, self._link.context)
        # Its thread holds no line: with a pipe object that is forgotten the lease ends too.
        weakref.finalize(self, self._heartbeat.forget).atexit = False

    def close(self, goodbye: bytes) -> None:
        if self.closed:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._link.fd)
            self._loop.remove_reader(self._link.monitor_fd)
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        self._link.send([goodbye])
        self._link.close(limits.GOODBYE_LINGER_MS)
