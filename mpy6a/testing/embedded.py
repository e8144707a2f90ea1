"""What a test holds of an embedded pipe: an AsyncPipe whose door, clock and handlers are in the same process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Final

from mpy6a import errors, limits, wire
from mpy6a.client.aio import AsyncPipe
from mpy6a.client.aio_driver import AsyncDriver
from mpy6a.client.records import delay_ms
from mpy6a.messages import Heartbeat
from mpy6a.model import AdminVerb
from mpy6a.testing.kinds import Kind, policy_for
from mpy6a.testing.world import START_MS, Alarm, LiveSession, World

DOOR: Final = "the embedded pipe"
QUIET_TURNS: Final = 20  # turns of the loop without a message after which the code under test has nothing more to say


class _Line:
    """A driver's line into the world. What it sends is carried in the next turn of the loop, as by a socket."""

    def __init__(self, world: World, moved: asyncio.Event) -> None:
        self.closed = False
        self._world = world
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._identity = world.connect(self)
        self._payloads: deque[bytes] = deque()
        self._changes = [True]
        self._beat = b""
        self._beat_ms = 0

    def listen(self, readable: Callable[[], None], changed: Callable[[], None]) -> None:
        self._readable = readable
        self._loop.call_soon(changed)

    def now_ms(self) -> int:
        return self._world.now_ms

    def call_at(self, when_ms: int, call: Callable[[], None]) -> Alarm:
        return self._world.call_at(when_ms, call)

    def send(self, messages: list[bytes]) -> None:
        if not self._world.busy:
            self._loop.call_soon(self._world.pump)
        for message in messages:
            self._world.send(self._identity, message)
        self._moved.set()

    def deliver(self, payload: bytes) -> None:
        if not self._payloads:
            self._loop.call_soon(self._readable)
        self._payloads.append(payload)
        self._moved.set()

    def pending(self) -> bool:
        return False  # what comes is told by `deliver`

    def receive(self) -> list[bytes]:
        payloads = list(self._payloads)
        self._payloads.clear()
        return payloads

    def changes(self) -> list[bool]:
        changes, self._changes = self._changes, []
        return changes

    def keep_alive(self, incarnation: bytes, lease_ms: int) -> None:
        self._beat = wire.encode(Heartbeat(), incarnation=incarnation)
        self._beat_ms = lease_ms // 3
        self._beats()

    def _beats(self) -> None:
        if not self.closed:
            self._world.beat(self._identity, self._beat)
            self._world.call_at(self._world.now_ms + self._beat_ms, self._beats)

    def close(self, goodbye: bytes) -> None:
        if not self.closed:
            self._world.send(self._identity, goodbye)
            self._world.disconnect(self._identity, died=False)
            self.closed = True
            self._world.pump()

    def cut(self) -> None:
        """The process at this end is dead: no goodbye."""
        self.closed = True
        self._world.disconnect(self._identity, died=True)
        self._world.pump()


class EmbeddedClient(AsyncPipe):
    """A client process of an embedded pipe: everything of `mpy6a.AsyncPipe`, and it can die."""

    def __init__(self, *, name: str = "test", timeout: float | None = limits.TIMEOUT_S) -> None:
        super().__init__("ipc://embedded", name=name, timeout=timeout)
        self._address = DOOR
        self._world: World | None = None
        self._moved = asyncio.Event()
        self._line: _Line | None = None

    def kill(self) -> None:
        """This client dies at once, as by kill -9: no goodbye, its open sessions are stored by their kind's delay.

        Its sessions raise SessionClosed from now on; what was not answered, OutcomeUnknown. The next `new` is a new
        process's.
        """
        driver, self._driver = self._driver, None
        if driver is not None and self._line is not None:
            driver.ended = errors.SessionClosed("this client was killed by the test: open a new session")
            self._line.cut()
            driver.finish()

    def _open(self) -> AsyncDriver:
        if self._world is None:
            raise errors.BadRequest("enter the embedded pipe first: async with mpy6a.testing.pipe(...) as pipe")
        self._line = _Line(self._world, self._moved)
        return AsyncDriver(
            self._address, name=self._name, token=self._token, timeout_ms=self._timeout_ms, line=self._line
        )

    def _join(self, world: World, moved: asyncio.Event) -> None:
        self._world, self._moved = world, moved


class EmbeddedPipe(EmbeddedClient):
    """An AsyncPipe to a pipe of its own, and the hands of the test on that pipe's time and deaths.

    Made by `mpy6a.testing.pipe`. Time moves by `advance` only; it begins at a fixed day, and ids and back-offs are
    the same in every run. Handlers run in the test's event loop, plain (not async) ones in threads.
    """

    def __init__(
        self,
        handlers: Sequence[Callable[..., object]],
        *,
        kinds: Mapping[str, Kind],
        default: Kind,
        concurrency: int,
        timeout: float | None,
        patience: float,
    ) -> None:
        super().__init__(timeout=timeout)
        self._policy = policy_for(handlers, kinds, default)
        self._handlers = handlers
        self._concurrency = concurrency
        self._patience_s = patience
        self._since: dict[object, float] = {}  # run -> when `settle` first waited for it
        self._clients: list[EmbeddedClient] = []
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EmbeddedPipe:
        if self._world is not None:
            raise errors.BadRequest("an embedded pipe is entered once: make another one")
        self._join(World(self._policy), self._moved)
        if self._handlers:
            serving = self.client("handlers").serve(*self._handlers, concurrency=self._concurrency)
            self._serving = asyncio.create_task(serving, name="mpy6a-testing-handlers")
        await self.settle()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Handlers that still run are cancelled, clients are closed. Nothing is left of the pipe."""
        if self._world is None or self._closed:
            return
        self._world.agent.drain(self._world.now_ms)
        self._world.agent.release_rest(self._world.now_ms)
        self._world.pump()
        self._patience_s = 0
        await self._quiet()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        for client in (self, *self._clients):
            await AsyncPipe.aclose(client)

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> float:
        """Seconds since the pipe was entered."""
        return (self._there.now_ms - START_MS) / 1000

    async def advance(self, time: float | timedelta) -> None:
        """Let so many seconds go by, and everything that becomes due in them happen, in its order: see `settle`."""
        world = self._there
        end_ms = world.now_ms + delay_ms(time)
        await self.settle()
        while (next_ms := world.next_ms()) <= end_ms:
            moves = world.moves
            world.move_to(next_ms)
            if world.moves != moves:
                await self.settle()
        world.move_to(end_ms)
        await self.settle()

    async def settle(self) -> None:
        """Without time going by, let everything happen that can: operations that were called are answered, handlers
        of what is due run to their end. A handler that hangs is waited for once, for `patience` real seconds."""
        if self._serving is not None and self._serving.done():
            await self._serving  # its error: a kind or handler that cannot be served
        await self._quiet()

    async def _quiet(self) -> None:
        world, quiet = self._there, 0
        while True:
            moves = world.moves
            await asyncio.sleep(0)
            quiet = 0 if world.busy or world.moves != moves else quiet + 1
            if quiet < QUIET_TURNS:
                continue
            wait_s = self._patience_left()
            if wait_s <= 0:
                return
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), wait_s)
            except TimeoutError:
                pass  # it hangs; so be it
            quiet = 0

    def _patience_left(self) -> float:
        """Real seconds for which some running handler may still be waited for."""
        now_s = asyncio.get_running_loop().time()
        self._since = {run: self._since.get(run, now_s) for run in self._there.runs}
        return max((since + self._patience_s - now_s for since in self._since.values()), default=0.0)

    # ------------------------------------------------------------------ sight

    def sessions(self) -> list[LiveSession]:
        """Every session that is not finished, in the order in which they were made."""
        return self._there.sessions()

    def describe(self) -> str:
        """The live sessions as text, a line each, for a person."""
        lines = [f"{len(self.sessions())} live sessions at {self.now:g} s"]
        for one in self.sessions():
            records = ", ".join(repr(record[:60])[1:] for record in one.records) or "no records"
            state = f"{one.id} {one.kind} {one.state} epoch {one.epoch} repeats {one.repeats}"
            lines.append(f"  {state}: {one.why}; {records}")
        return "\n".join(lines)

    # ------------------------------------------------------------------ who else there is, and deaths

    def client(self, name: str = "another client") -> EmbeddedClient:
        """One more client process of the same pipe; it is closed with the pipe."""
        client = EmbeddedClient(name=name)
        client._join(self._there, self._moved)
        self._clients.append(client)
        return client

    def kill_client(self) -> None:
        """The test's own client dies at once, as by kill -9: see `EmbeddedClient.kill`. Handlers are in another."""
        self.kill()

    def restart(self) -> None:
        """The pipe's process dies at once, as by kill -9, and starts again from its log, in a new term.

        What clients had sent is in the log, and its answers are lost: the library sends it again and gets the original
        verdict. Handlers run on, and what they do counts.
        """
        self._there.restart()

    def kick(self, session: str, reason: str = "") -> None:
        """As `mpy6a sessions kick`: a stored or parked session (`session.id`) is due now, its charges forgotten."""
        self._there.say(AdminVerb.KICK, session, reason)

    def cancel(self, session: str, reason: str = "") -> None:
        """As `mpy6a sessions cancel`: its writer is fenced, and its handler runs with `repeat.cancel` set."""
        self._there.say(AdminVerb.CANCEL, session, reason)

    @property
    def _there(self) -> World:
        if self._world is None:
            raise errors.BadRequest("enter the embedded pipe first: async with mpy6a.testing.pipe(...) as pipe")
        return self._world
