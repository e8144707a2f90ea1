"""The blocking shape of the client: `Pipe`, usable from any number of threads, and the `Session` it opens."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Final, Protocol

from mpy6a import errors, limits
from mpy6a.client import door as doors
from mpy6a.client import forks, verdicts
from mpy6a.client.blocking_driver import BlockingDriver
from mpy6a.client.facts import Facts, UndecidedSession, undecided_text
from mpy6a.client.records import UNSET, delay_ms, encode, encode_given, extra_of
from mpy6a.client.waiters import Waiter
from mpy6a.client.writer import Decision, Writer
from mpy6a.model import BY_POLICY, SessionId, Verb

_APPEND: Final = int(Verb.APPEND)
_REPLACE: Final = int(Verb.REPLACE)
_TOUCH: Final = int(Verb.TOUCH)
_DELETE: Final = int(Verb.DELETE)
_STORE: Final = int(Verb.STORE)


class Calls(Protocol):
    """Who carries out one session's operations for a thread that waits for them."""

    def call(self, verb: int, record: bytes | None, argument: int = 0, timeout_s: float | None = None) -> None:
        """Returns once the operation is durable. `timeout_s`: less than the operation's own, for leaving a block."""
        ...

    def undecided(self) -> bool:
        """Whether the session is still this writer's to delete or store."""
        ...

    def unseen(self) -> errors.Mpy6aError | None:
        """A refusal whose caller had left before it came; told once."""
        ...


class WriterCalls:
    """A session's operations through the thread of its Pipe."""

    __slots__ = ("_driver", "_pipe", "_writer")

    def __init__(self, pipe: Pipe, driver: BlockingDriver, writer: Writer[Waiter]) -> None:
        self._pipe = pipe  # held: a pipe object that is dropped says goodbye
        self._driver = driver
        self._writer = writer

    def call(self, verb: int, record: bytes | None, argument: int = 0, timeout_s: float | None = None) -> None:
        unseen = self.unseen()
        if unseen is not None:
            raise verdicts.after_refusal(str(self._writer), unseen)
        self._driver.call(self._writer, verb, record, argument, timeout_s)

    def undecided(self) -> bool:
        writer = self._writer
        return writer.decision is Decision.NONE and writer.final is None and self._driver.ended is None

    def unseen(self) -> errors.Mpy6aError | None:
        refusal = self._writer.refusal
        if refusal is None:
            return None
        self._writer.refusal = None
        waiter, error = refusal
        return None if waiter.saw(error) else error


class Pipe:
    """Opens sessions from a program without an event loop. Constructing it does no I/O; thread-safe.

    Parameters as of AsyncPipe.
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
        self._timeout = timeout
        self._token = token
        self._lock = threading.Lock()
        self._driver: BlockingDriver | None = None
        self._finalizer: weakref.finalize[[float], Pipe] | None = None
        self._closed = False
        self._stops: list[Callable[[], object]] = []  # of `serve` calls that run
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
    ) -> Session:
        """Opens a session of `kind`; durable when it returns. Use it as is or in a `with` block. As AsyncPipe.new."""
        record, extra = encode(first, json), extra_of(key, order_key, schema, trace)
        driver = self._driver if self._driver is not None else self._start()
        writer = driver.new(kind, record, extra)
        name = kind if isinstance(kind, str) else driver.connection.kind_name(kind)
        return Session(WriterCalls(self, driver, writer), writer.session, name, writer.epoch)

    def serve(self, *handlers: Callable[..., object], concurrency: int = 32) -> None:
        """Serves the kinds of these handlers in the calling thread until `close` or KeyboardInterrupt; as
        AsyncPipe.serve. Plain handlers run in threads."""
        import asyncio  # not everybody serves, and asyncio is a large import

        from mpy6a.client.aio import AsyncPipe

        async def run() -> None:
            async with AsyncPipe(self._address, name=self._name, timeout=self._timeout, token=self._token) as pipe:
                task = asyncio.ensure_future(pipe.serve(*handlers, concurrency=concurrency))
                loop = asyncio.get_running_loop()
                forget = self._on_close(lambda: loop.call_soon_threadsafe(task.cancel))
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError:
                    task.cancel()
                    await asyncio.wait([task])
                    raise
                finally:
                    forget()
                if not task.cancelled():
                    task.result()

        asyncio.run(run())

    def close(self) -> None:
        """Waits a little for operations of other threads, tells the door goodbye (open sessions of this process are
        stored at once), and closes. A second call does nothing."""
        with self._lock:
            self._closed = True
            finalizer = self._finalizer
            stops = list(self._stops)
        for stop in stops:
            stop()
        if finalizer is not None:
            finalizer.detach()
        if self._driver is not None:
            timeout_s = limits.CLOSE_TIMEOUT_S
            self._driver.close(timeout_s if self._timeout is None else min(timeout_s, self._timeout))

    def __enter__(self) -> Pipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The door's address."""
        return self._address

    def _on_close(self, stop: Callable[[], object]) -> Callable[[], None]:
        """Has `stop` called by `close`, until what is returned is called."""
        with self._lock:
            if self._closed:
                raise errors.SessionClosed("this pipe object was closed: make a new one")
            self._stops.append(stop)

        def forget() -> None:
            with self._lock:
                self._stops.remove(stop)

        return forget

    def _start(self) -> BlockingDriver:
        with self._lock:
            if self._closed:
                raise errors.SessionClosed("this pipe object was closed: make a new one")
            if self._driver is None:
                timeout_ms = None if self._timeout is None else max(int(self._timeout * 1000), 1)
                driver = BlockingDriver(self._address, name=self._name, token=self._token, timeout_ms=timeout_ms)
                self._driver = driver
                # At the end of the process, or of this object: a goodbye, so that open sessions need not wait.
                self._finalizer = weakref.finalize(self, driver.close, 0.0)
            return self._driver

    def after_fork(self) -> None:
        """In a forked child: forgets the parent's sockets and incarnation; the next operation makes new ones."""
        self._lock = threading.Lock()  # the parent's may be held by a thread that is not here
        if self._driver is not None:
            self._driver.ended = errors.SessionClosed(
                "this session belongs to the process that opened it, not to its fork: open a new session here"
            )
            forks.inherited.append(self._driver)
            self._driver = None
        self._stops = []
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None


class Session(Facts):
    """A session in one epoch; each operation is durable when it returns. Used by one thread at a time.

    As a context manager: leaving the block without `delete()` or `store()` stores it by its kind's delay, uncharged.
    """

    __slots__ = ("_calls",)

    def __init__(
        self, calls: Calls, session: SessionId, kind: str, epoch: int, fence_number: int | None = None
    ) -> None:
        super().__init__(session, kind, epoch, fence_number)
        self._calls = calls

    def append(self, data: bytes | None = None, *, json: object = UNSET) -> None:
        """Adds a record, given as bytes or as `json=`."""
        self._calls.call(_APPEND, encode_given(data, json))

    def replace(self, data: bytes | None = None, *, json: object = UNSET) -> None:
        """Clears the records and puts this one in, at once."""
        self._calls.call(_REPLACE, encode_given(data, json))

    def touch(self) -> None:
        """Restarts the clock of the idle or silence limit, and nothing else."""
        self._calls.call(_TOUCH, None)

    def delete(self) -> None:
        """Deletes the session: it is finished."""
        self._calls.call(_DELETE, None)

    def store(self, after: float | timedelta | None = None) -> None:
        """Closes the session for writing; its handler runs after so many seconds (None: the kind's `delay`)."""
        self._calls.call(_STORE, None, delay_ms(after))

    def release(self, after: float | timedelta | None = None) -> None:
        """In a handler: gives the session back uncharged, to be repeated after so many seconds (None: back-off)."""
        raise errors.BadRequest(f"{self!r}: release() is for handlers; here use store(after=...)")

    def park(self, reason: str) -> None:
        """In a handler: sets the session aside for an operator."""
        raise errors.BadRequest(f"{self!r}: park() is for handlers; an operator uses `mpy6a sessions park`")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        undecided = self._calls.undecided()
        if error is not None:
            if undecided:
                self._store_quietly()
            return
        unseen = self._calls.unseen()
        if undecided:
            self._calls.call(_STORE, None, BY_POLICY)
        if undecided and unseen is None:
            warnings.warn(
                undecided_text(self.kind),  # without the id: Python warns once for each place and text
                UndecidedSession,
                stacklevel=2,
            )
        if unseen is not None:
            raise unseen

    def _store_quietly(self) -> None:
        """Stores the session, waits at most a second for that, and raises nothing of its own."""
        try:
            self._calls.call(_STORE, None, BY_POLICY, timeout_s=limits.LEAVE_TIMEOUT_S)
        except errors.Mpy6aError:
            return  # the error that is on its way says more
