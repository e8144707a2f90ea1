"""The session that a handler is given, async and blocking: as any other, and it may be given back or set aside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from mpy6a import errors
from mpy6a.client.aio import AsyncSession
from mpy6a.client.aio_driver import AsyncDriver, Token
from mpy6a.client.blocking import Session
from mpy6a.client.records import delay_ms
from mpy6a.client.waiters import Waiter
from mpy6a.client.writer import Decision, Writer
from mpy6a.errors import Mpy6aError
from mpy6a.model import AttemptOutcome, SessionId


class Wish(NamedTuple):
    """How a run shall end when its handler did not decide the session itself."""

    outcome: AttemptOutcome
    retry_after_ms: int = 0
    message: str = ""


class HandledAsyncSession(AsyncSession):
    """A pushed session. `release` and `park` take effect when the handler returns; nothing may follow them."""

    __slots__ = ("_last", "wish")

    def __init__(
        self,
        driver: AsyncDriver,
        writer: Writer[Token],
        session: SessionId,
        kind: str,
        fence_number: int | None = None,
    ) -> None:
        super().__init__(driver, writer, session, kind, fence_number)
        self.wish: Wish | None = None
        self._last: asyncio.Future[None] | None = None  # the last operation that was called

    def release(self, after: float | timedelta | None = None) -> asyncio.Future[None]:
        """Gives the session back uncharged, to be repeated after so many seconds (None: back-off; 0: now)."""
        return self._wish(Wish(AttemptOutcome.RELEASE, delay_ms(after), ""))

    def park(self, reason: str) -> asyncio.Future[None]:
        """Sets the session aside until an operator kicks it; `reason` (512 bytes of it) is what they read."""
        return self._wish(Wish(AttemptOutcome.PARK, 0, reason))

    def stop(self, error: Mpy6aError) -> None:
        """The sidecar, or the end of this service, takes the session away: every later operation raises `error`."""
        self._cancelled = True
        if self._writer.final is None:
            self._writer.final = error

    @property
    def is_settled(self) -> bool:
        """Whether everything that was called has an answer or has timed out."""
        last = self._last
        return last is None or last.done()

    async def settled(self) -> None:
        """Returns when everything that was called has an answer or has timed out."""
        last = self._last
        if last is not None and not last.done():
            await asyncio.wait([last])

    @property
    def decision(self) -> Decision:
        return self._writer.decision

    @property
    def final(self) -> bool:
        """A verdict came after which this run has nothing to say."""
        return self._writer.final is not None

    def _wish(self, wish: Wish) -> asyncio.Future[None]:
        if self._writer.refusal is not None:
            self._surface()
        self._check()
        if self._writer.decision is not Decision.NONE:
            raise errors.SessionClosed(f"{self!r}: already deleted or stored")
        self.wish = wish
        done: asyncio.Future[None] = self._driver.loop.create_future()
        done.set_result(None)
        return done

    def _check(self) -> None:
        if self.wish is not None:
            raise errors.SessionClosed(f"{self!r}: already released or parked by this handler")

    def _submit(self, verb: int, record: bytes | None = None, argument: int = 0) -> asyncio.Future[None]:
        self._check()
        self._last = last = super()._submit(verb, record, argument)
        return last


class LoopCalls:
    """The operations of a plain handler's session: called in its thread, carried out in the loop."""

    def __init__(self, session: HandledAsyncSession) -> None:
        self._session = session
        self._loop = session._driver.loop

    def call(self, verb: int, record: bytes | None, argument: int = 0, timeout_s: float | None = None) -> None:
        self.run(lambda: self._session._submit(verb, record, argument), timeout_s)

    def undecided(self) -> bool:
        return False  # a handler that leaves its session undecided has failed: its service says so

    def unseen(self) -> errors.Mpy6aError | None:
        return None  # the async session under it tells it

    def run(self, operation: Callable[[], asyncio.Future[None]], timeout_s: float | None = None) -> None:
        """Calls `operation` in the loop and waits for what it returns."""
        waiter = Waiter()

        def answered(future: asyncio.Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            waiter.complete(error if isinstance(error, Mpy6aError) else None)

        def start() -> None:
            try:
                operation().add_done_callback(answered)
            except Mpy6aError as error:
                waiter.complete(error)

        try:
            self._loop.call_soon_threadsafe(start)
        except RuntimeError as error:  # the loop is closed
            raise errors.SessionClosed(f"{self._session!r}: its service has ended; the session is released") from error
        waiter.wait(timeout_s)


class HandledSession(Session):
    """A pushed session for a plain handler, in its thread."""

    __slots__ = ("_async", "_loop_calls")

    def __init__(self, session: HandledAsyncSession) -> None:
        self._loop_calls = LoopCalls(session)
        super().__init__(self._loop_calls, session._id, session.kind, session.epoch, session.fence_number)
        self._async = session

    def release(self, after: float | timedelta | None = None) -> None:
        """Gives the session back uncharged, to be repeated after so many seconds (None: back-off; 0: now)."""
        self._loop_calls.run(lambda: self._async.release(after))

    def park(self, reason: str) -> None:
        """Sets the session aside until an operator kicks it; `reason` (512 bytes of it) is what they read."""
        self._loop_calls.run(lambda: self._async.park(reason))

    @property
    def cancelled(self) -> bool:
        """The sidecar stopped this run: the session is no longer this writer's. A long handler asks now and then."""
        return self._async.cancelled
