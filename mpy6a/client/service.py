"""Runs handlers for a service that serves kinds itself: takes its sidecar's pushes, answers with outcomes.

Async handlers run as tasks of the loop, plain ones in threads. Source: schemas/PROTOCOL.md, "Attached services".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

from mpy6a import errors, limits
from mpy6a.client import handlers
from mpy6a.client.aio_driver import AsyncDriver
from mpy6a.client.handled import HandledAsyncSession, HandledSession, Wish
from mpy6a.client.handlers import AnyHandler, Handler, RepeatData
from mpy6a.client.notices import log_notice
from mpy6a.client.runs import Assembly, RunKey, Whole
from mpy6a.client.writer import Decision
from mpy6a.errors import Code
from mpy6a.messages import Ending, Error, Notice, Outcomes, Push, Role, Serve, Stop
from mpy6a.model import AttemptOutcome

_log: Final = logging.getLogger("mpy6a.client")

S = TypeVar("S")

_UNDECIDED: Final = "the handler returned without delete() or store()"
_ANSWER_CHECK_S: Final = 0.25  # how often a decision whose caller timed out is looked at again; rare


class Run:
    """One session at its handler."""

    __slots__ = ("handler", "session", "stopped", "task", "whole")

    def __init__(self, whole: Whole, handler: Handler, session: HandledAsyncSession) -> None:
        self.whole = whole
        self.handler = handler
        self.session = session
        self.stopped = False  # by the sidecar: the epoch is over, nobody waits for an outcome
        self.task: asyncio.Task[None] | None = None


class Service:
    """The handlers that one client serves. `serve` runs until it is cancelled or the sidecar refuses it."""

    def __init__(self, driver: AsyncDriver, functions: Sequence[AnyHandler], concurrency: int) -> None:
        if not functions:
            raise errors.BadRequest("serve() takes the functions that are marked with @mpy6a.handler(kind)")
        if not 1 <= concurrency <= limits.CONCURRENCY_MAX:
            raise errors.BadRequest(f"concurrency={concurrency}: from 1 to {limits.CONCURRENCY_MAX}")
        self._driver = driver
        self._loop = driver.loop
        self._connection = driver.connection
        self._marked = [handlers.read(function) for function in functions]
        self._concurrency = concurrency
        self._handlers: dict[int, Handler] = {}  # by the kind's number, once the kinds are known
        self._assembly = Assembly(concurrency)
        self._runs: dict[RunKey, Run] = {}
        self._queue: deque[Run] = deque()  # beyond the concurrency, while threads of stopped runs still work
        self._working = 0
        self._served_links = 0
        self._draining = False
        self._told = asyncio.Event()
        self._idle = asyncio.Event()
        self._refused: errors.Mpy6aError | None = None
        self._fresh: list[tuple[int, Ending]] = []
        self._kept: deque[tuple[int, Ending]] = deque(maxlen=limits.ENDINGS_KEPT)
        self._hop = b""
        self._threads: ThreadPoolExecutor | None = None

    async def serve(self) -> None:
        """Takes runs until cancelled; then lets the running ones finish for a while, and releases the rest."""
        if self._driver.on_events is not None:
            raise errors.BadRequest("this pipe object serves already: pass all handlers to one serve()")
        self._driver.on_events = self._on_events
        try:
            self._on_events()
            while self._refused is None:
                self._told.clear()
                await self._told.wait()
            raise self._refused
        finally:
            await self._drain()
            self._driver.on_events = None

    # ------------------------------------------------------------------ what the sidecar says

    def _on_events(self) -> None:
        welcome = self._connection.welcome
        if welcome is not None and self._connection.links != self._served_links:
            try:
                self._announce()
            except errors.Mpy6aError as error:
                self._refuse(error)
        for pipe, message in self._connection.events():
            match message:
                case Push():
                    for part in message.sessions:
                        whole = self._assembly.add(pipe, part)
                        if whole is not None:
                            self._take(whole)
                case Stop():
                    for one in message.sessions:
                        self._stop(RunKey.of(pipe, one.term, one.index, one.epoch), message.code)
                case Notice():
                    log_notice(pipe, message)
                case Error():
                    if message.code != Code.SHUTTING_DOWN:  # then it reconnects, and serves the next sidecar
                        self._refuse(errors.from_code(message.code, message.message))

    def _refuse(self, error: errors.Mpy6aError) -> None:
        self._refused = error
        self._told.set()

    def _announce(self) -> None:
        """Says what is served here: at first, and again on every new connection. Waits for kinds to be known."""
        welcome = self._connection.welcome
        assert welcome is not None
        if welcome.role != Role.SIDECAR:
            raise errors.BadRequest(
                f"{self._driver.address} is a pipe, and pipes push to sidecars only: serve through a sidecar"
            )
        if not self._connection.kinds and any(isinstance(each.kind, str) for each in self._marked):
            return
        self._handlers = {self._connection.kind_number(each.kind): each for each in self._marked}
        self._served_links = self._connection.links
        self._assembly.clear()
        if self._hop == welcome.hop:
            self._fresh[:0] = self._kept  # the same process: it may have missed the last ones
        self._kept.clear()
        self._hop = welcome.hop
        self._say_serve(self._concurrency if not self._draining else 0)
        self._say_outcomes()

    def _say_serve(self, concurrency: int) -> None:
        if self._served_links:
            self._connection.tell(Serve(tuple(sorted(self._handlers)), concurrency))
            self._driver.wake()

    def _take(self, whole: Whole) -> None:
        if whole.key in self._runs:
            return
        facts = whole.facts
        handler = self._handlers.get(facts.kind)
        if handler is None or self._draining or len(self._queue) >= self._concurrency:
            self._tell_outcome(whole.key, AttemptOutcome.RELEASE, 0, "")
            return
        writer = self._connection.open(whole.key.session, whole.key.epoch)
        kind = self._connection.kind_name(facts.kind)
        session = HandledAsyncSession(self._driver, writer, whole.key.session, kind, facts.fence)
        run = self._runs[whole.key] = Run(whole, handler, session)
        self._queue.append(run)
        self._start_queued()

    def _stop(self, key: RunKey, code: int) -> None:
        """The epoch is not this run's any more."""
        self._assembly.forget(key)
        run = self._runs.get(key)
        if run is None:
            return
        run.stopped = True
        run.session.stop(errors.from_code(code, f"session {key.session}: the sidecar stopped this run"))
        if run.task is None:
            self._queue.remove(run)
            del self._runs[key]
        elif run.handler.is_async:
            run.task.cancel()

    # ------------------------------------------------------------------ runs

    def _start_queued(self) -> None:
        while self._queue and self._working < self._concurrency:
            run = self._queue.popleft()
            self._working += 1
            run.task = self._loop.create_task(self._work(run), name=f"mpy6a-{run.whole.key.session}")

    async def _work(self, run: Run) -> None:
        wish: Wish | None = None
        try:
            wish = await self._outcome(run)
        finally:
            self._working -= 1
            self._runs.pop(run.whole.key, None)
            if not run.stopped:
                if wish is None:  # cancelled: this service is draining
                    wish = Wish(AttemptOutcome.RELEASE, 0, "the service is stopping")
                self._tell_outcome(run.whole.key, *wish)
            self._start_queued()
            if not self._working:
                self._idle.set()

    async def _outcome(self, run: Run) -> Wish:
        """Runs the handler and says how that ended."""
        failure = ""
        session = run.session
        try:
            await self._call(run)
        except Exception as error:  # noqa: BLE001 -- whatever a handler raises is its failure, told to the pipe
            # Fenced of its own session leaves that `final`; of another session, or of a guard, it is a failure.
            facts = {"session": session.id, "epoch": session.epoch, "kind": session.kind}
            _log.warning("handler failed", exc_info=error, extra=facts)
            failure = f"{type(error).__name__}: {error}"
        if not session.is_settled:
            await session.settled()
        # Its caller timed out; it is still resent, and will be answered. The exchange keeps no event for this rare
        # case.
        while session.decision is Decision.CALLED and not run.stopped:  # noqa: ASYNC110
            await asyncio.sleep(_ANSWER_CHECK_S)
        if session.decision is Decision.DONE or session.final:
            return Wish(AttemptOutcome.DECIDED)
        return session.wish or Wish(AttemptOutcome.FAIL, 0, failure or _UNDECIDED)

    async def _call(self, run: Run) -> None:
        if run.handler.is_async:
            function = cast("Callable[[object], Awaitable[object]]", run.handler.function)
            await function(self._repeat_data(run, run.session))
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="mpy6a-handler")
        blocking = HandledSession(run.session)
        await self._loop.run_in_executor(self._threads, run.handler.function, self._repeat_data(run, blocking))

    def _repeat_data(self, run: Run, session: S) -> RepeatData[S]:
        facts = run.whole.facts
        return RepeatData(
            records=run.whole.records,
            session=session,
            kind=run.session.kind,
            repeats=facts.repeats,
            attempts=facts.attempts,
            cancel=facts.cancel,
            key=facts.key,
            order_key=facts.order_key,
            schema=facts.schema,
            trace=facts.trace.decode(errors="replace"),
            created_ms=facts.created_ms,
        )

    # ------------------------------------------------------------------ outcomes

    def _tell_outcome(self, key: RunKey, outcome: int, retry_after_ms: int, message: str) -> None:
        cut = message.encode()[: limits.TEXT_BYTES_MAX].decode(errors="ignore")
        ending = Ending(key.session.term, key.session.index, key.epoch, outcome, retry_after_ms, cut)
        if not self._fresh:
            self._loop.call_soon(self._say_outcomes)  # all of one turn of the loop in one message
        self._fresh.append((key.session.pipe, ending))

    def _say_outcomes(self) -> None:
        by_pipe: dict[int, list[Ending]] = {}
        for pipe, ending in self._fresh:
            by_pipe.setdefault(pipe, []).append(ending)
        for pipe, endings in by_pipe.items():
            self._connection.tell(Outcomes(tuple(endings)), pipe)
        self._kept.extend(self._fresh)
        self._fresh.clear()
        self._driver.wake()

    async def _drain(self) -> None:
        """No more runs: what waits is released, what runs may finish for a while, then it is cancelled."""
        self._draining = True
        self._say_serve(0)
        while self._queue:
            run = self._queue.popleft()
            del self._runs[run.whole.key]
            self._tell_outcome(run.whole.key, AttemptOutcome.RELEASE, 0, "the service is stopping")
        try:
            await self._wait_idle(limits.DRAIN_GRACE_S)
        finally:
            for run in list(self._runs.values()):
                run.session.stop(errors.Fenced(f"{run.session!r}: the service is stopping, the session is released"))
                if run.task is not None:
                    run.task.cancel()  # of a plain handler only the waiting: a thread cannot be ended
            await self._wait_idle(limits.LEAVE_TIMEOUT_S)
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)
            self._say_outcomes()

    async def _wait_idle(self, timeout_s: float) -> None:
        if self._working:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except TimeoutError:
                return
