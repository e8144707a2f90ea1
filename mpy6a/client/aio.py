"""The async shape of the client: `AsyncPipe`, and the `AsyncSession` it opens."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from types import TracebackType
from typing import Any, Final

from mpy6a import errors, limits
from mpy6a.client import door as doors
from mpy6a.client import forks, verdicts
from mpy6a.client.aio_driver import AsyncDriver, Token
from mpy6a.client.facts import Facts, UndecidedSession, undecided_text
from mpy6a.client.records import UNSET, delay_ms, encode, encode_given, extra_of
from mpy6a.client.writer import Decision, Writer
from mpy6a.model import BY_POLICY, SessionId, Verb

_APPEND: Final = int(Verb.APPEND)
_REPLACE: Final = int(Verb.REPLACE)
_TOUCH: Final = int(Verb.TOUCH)
_DELETE: Final = int(Verb.DELETE)
_STORE: Final = int(Verb.STORE)


class AsyncPipe:
    """Opens sessions from an asyncio program. Constructing it does no I/O; it connects with the first
    operation.

    `door`: address or path of the sidecar (or of a pipe); see `mpy6a.client.door`. `name`: told to operators.
    `timeout`: seconds an operation waits for its answer before OutcomeUnknown; None: for ever. `token`: for
    the user's own authoriser. Used from one event loop at a time.
    """

    def __init__(
        self,
        door: str | None = None,
        *,
        name: str = "",
        timeout: float | None = limits.TIMEOUT_S,
        token: bytes = b"",
    ) -> None:
        self._address = doors.find(door)
        self._name = name
        self._timeout_ms = None if timeout is None else max(int(timeout * 1000), 1)
        self._token = token
        self._driver: AsyncDriver | None = None
        self._closed = False
        forks.watch(self)

    def new(
        self,
        kind: str | int,
        first: bytes | None = None,
        *,
        json: object = UNSET,
        key: str | None = None,
        order_key: str | None = None,
        schema: str | None = None,
        trace: str | bytes | None = None,
    ) -> NewSession:
        """Opens a session of `kind` (a name of the routes, or its number): await it, or enter it with
        `async with`.

        The first record (bytes, or `json=`) rides in the same durable entry. `key`: at most one live
        session of the kind has it (else KeyLive). `order_key`: sessions of one kind and order key repeat
        one at a time. `schema`: a tag that the handler's `accepts:` is compared with. `trace`: a W3C
        traceparent. The New has its place when this returns. Raises UnknownKind, TooLarge, KeyLive, Busy,
        NoPipe, OutcomeUnknown, ...
        """
        extra = extra_of(key, order_key, schema, trace)
        driver = self.driver()
        return NewSession(driver, driver.new(kind, encode(first, json), extra), kind)

    async def serve(self, *handlers: Callable[..., object], concurrency: int = 32) -> None:
        """Serves the kinds of these handlers (marked with @mpy6a.handler) through the sidecar, until cancelled.

        At most `concurrency` run at a time, async ones in this loop, plain ones in threads. A handler that deletes or
        stores its session has decided; one that raises or returns without has failed, and the session repeats.
        On cancellation running handlers get ten seconds; the rest is given back. Raises BadRequest where the door is
        no sidecar, UnknownKind when the routes do not let this sidecar's services serve a kind.
        """
        from mpy6a.client.service import Service  # not everybody serves

        await Service(self.driver(), handlers, concurrency).serve()

    async def aclose(self) -> None:
        """Waits a little for operations that are not answered, tells the door goodbye (open sessions of
        this process are stored at once), and closes. A second call does nothing."""
        self._closed = True
        driver = self._driver
        if driver is not None:
            timeout_s = limits.CLOSE_TIMEOUT_S
            await driver.close(timeout_s if self._timeout_ms is None else min(timeout_s, self._timeout_ms / 1000))

    async def __aenter__(self) -> AsyncPipe:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def address(self) -> str:
        """The door's address."""
        return self._address

    def driver(self) -> AsyncDriver:
        """The I/O of this incarnation, made in the running loop when it is first needed."""
        if self._closed:
            raise errors.SessionClosed("this pipe object was closed: make a new one")
        driver = self._driver
        if driver is not None:
            if driver.loop is asyncio.get_running_loop():
                return driver
            if not driver.loop.is_closed():
                raise errors.BadRequest(
                    "this pipe object is used by another event loop; make one for each, or use mpy6a.Pipe"
                )
            driver.abandon()
        self._driver = self._open()
        return self._driver

    def _open(self) -> AsyncDriver:
        """A new incarnation in the running loop. `mpy6a.testing` overrides it."""
        return AsyncDriver(self._address, name=self._name, token=self._token, timeout_ms=self._timeout_ms)

    def after_fork(self) -> None:
        """In a forked child: forgets the parent's sockets and incarnation; the next operation makes new
        ones."""
        if self._driver is not None:
            self._driver.ended = errors.SessionClosed(
                "this session belongs to the process that opened it, not to its fork: open a new session here"
            )
            forks.inherited.append(self._driver)
            self._driver = None


class AsyncSession(Facts):
    """A session in one epoch. Operations take their place when called; awaiting one waits until it is
    durable.

    After `delete` or `store` it is no longer this writer's. Refused operations raise Refused; operations
    that were called behind one fail with AfterRefusal.
    """

    __slots__ = ("_decided", "_driver", "_writer")

    def __init__(
        self,
        driver: AsyncDriver,
        writer: Writer[Token],
        session: SessionId,
        kind: str,
        fence_number: int | None = None,
    ) -> None:
        super().__init__(session, kind, writer.epoch, fence_number)
        self._driver = driver
        self._writer = writer
        self._decided: asyncio.Future[None] | None = None  # the last Delete or Store that was called

    def append(self, data: bytes | None = None, *, json: object = UNSET) -> asyncio.Future[None]:
        """Adds a record, given as bytes or as `json=`."""
        return self._submit(_APPEND, data if type(data) is bytes and json is UNSET else encode_given(data, json))

    def replace(self, data: bytes | None = None, *, json: object = UNSET) -> asyncio.Future[None]:
        """Clears the records and puts this one in, at once."""
        return self._submit(_REPLACE, encode_given(data, json))

    def touch(self) -> asyncio.Future[None]:
        """Restarts the clock of the idle or silence limit, and nothing else."""
        return self._submit(_TOUCH)

    def delete(self) -> asyncio.Future[None]:
        """Deletes the session: it is finished."""
        self._decided = decided = self._submit(_DELETE)
        return decided

    def store(self, after: float | timedelta | None = None) -> asyncio.Future[None]:
        """Closes the session for writing; its handler runs after so many seconds (None: the kind's
        `delay`)."""
        self._decided = decided = self._submit(_STORE, None, delay_ms(after))
        return decided

    def release(self, after: float | timedelta | None = None) -> Awaitable[None]:
        """In a handler: gives the session back uncharged, to be repeated after so many seconds (None:
        back-off)."""
        raise errors.BadRequest(f"{self!r}: release() is for handlers; here use store(after=...)")

    def park(self, reason: str) -> Awaitable[None]:
        """In a handler: sets the session aside for an operator."""
        raise errors.BadRequest(f"{self!r}: park() is for handlers; an operator uses `mpy6a sessions park`")

    def _submit(self, verb: int, record: bytes | None = None, argument: int = 0) -> asyncio.Future[None]:
        if self._writer.refusal is not None:
            self._surface()
        return self._driver.submit(self._writer, verb, record, argument)

    def _surface(self) -> None:
        """Raises AfterRefusal for an earlier refusal that nobody has seen."""
        unseen = self._unseen()
        if unseen is not None:
            raise verdicts.after_refusal(str(self._writer), unseen)

    def _unseen(self) -> errors.Mpy6aError | None:
        """The last refusal, if nobody awaited its operation; asked once."""
        refusal = self._writer.refusal
        if refusal is None:
            return None
        self._writer.refusal = None
        future, error = refusal
        if not future.done() or future.cancelled():
            return error
        # Asyncio's own record of "somebody has seen it" has no public reader; `exception()` then sets it.
        unseen = getattr(future, "_log_traceback", False)
        return error if future.exception() is not error or unseen else None


class NewSession:
    """A New that was called: awaitable once for its AsyncSession, or a context manager around it.

    Leaving the block without `delete()` or `store()` stores the session by its kind's delay, uncharged.
    """

    def __init__(self, driver: AsyncDriver, future: Token, kind: str | int) -> None:
        self._driver = driver
        self._future = future
        self._kind = kind
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        try:
            writer: Writer[Token] = yield from self._future.__await__()
        except asyncio.CancelledError:
            future = self._future
            if future.done() and not future.cancelled() and future.exception() is None and not self._session:
                self._driver.give_up(future.result().session)  # answered in the same turn as the cancellation
            raise
        if self._session is None:
            connection = self._driver.connection
            kind = self._kind if isinstance(self._kind, str) else connection.kind_name(self._kind)
            self._session = AsyncSession(self._driver, writer, writer.session, kind)
        return self._session

    async def __aenter__(self) -> AsyncSession:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session = self._session
        assert session is not None
        if error is not None:
            await leave_by_error(session)
            return
        last = session._decided
        if last is None and (last := leave(session)) is not None and session._writer.refusal is None:
            warnings.warn(
                undecided_text(session.kind),  # without the id: Python warns once for each place and text
                UndecidedSession,
                stacklevel=2,
            )
        pending = last if last is not None and not last.done() else None
        if pending is not None:
            await asyncio.wait([pending])  # it has its own timeout
        again = leave(session)  # a decision that was refused, or stood behind a refusal, decided nothing
        if again is not None:
            await again
        unseen = session._unseen()
        if unseen is not None:
            raise unseen
        if pending is not None:
            pending.result()


def leave(session: AsyncSession) -> asyncio.Future[None] | None:
    """Stores a session that is still this writer's to decide; the Store, if one was needed."""
    writer = session._writer
    if writer.decision is not Decision.NONE or writer.final is not None or session._driver.ended is not None:
        return None
    return session._driver.submit(writer, _STORE, None, BY_POLICY)


async def leave_by_error(session: AsyncSession) -> None:
    """Stores the session if it is undecided, waits at most a second for that, and raises nothing of its
    own."""
    try:
        last = leave(session) or session._decided
    except errors.Mpy6aError:
        return  # the error that is on its way says more
    if last is not None and not last.done():
        await asyncio.wait([last], timeout=limits.LEAVE_TIMEOUT_S)
    if last is not None and last.done() and not last.cancelled():
        last.exception()  # seen: nobody else will look
        try:
            leave(session)  # again, if an operation before it was refused
        except errors.Mpy6aError:
            return
    session._unseen()
