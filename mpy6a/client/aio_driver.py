"""Drives one client incarnation from an asyncio loop: whatever its line brings in, one flush a turn out.

Never zmq.asyncio (evidence.md: 37 us a message against 6). Batching needs no timer: the first operation of
a turn of the loop schedules one flush behind everything that is already ready to run, and so takes along
what all of it calls.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from mpy6a import errors, limits
from mpy6a.client.connection import Connection
from mpy6a.client.exchange import Completion
from mpy6a.client.line import Line, LoopLine, Timer
from mpy6a.client.notices import log_notice
from mpy6a.client.writer import Writer
from mpy6a.errors import Mpy6aError
from mpy6a.messages import Notice
from mpy6a.model import Extra, SessionId

Token = asyncio.Future[Any]  # Any: of a Writer for a New, of None for everything else


class AsyncDriver:
    """One incarnation in one loop, from the first operation until `close`. Made in the loop's thread.

    `ended`, once set, is raised by every further operation. `on_events` is called after sidecar messages or
    a new welcome came in (see `Connection.events`, `.welcomes`).
    """

    def __init__(
        self, address: str, *, name: str, token: bytes, timeout_ms: int | None, line: Line | None = None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.address = address
        self.ended: Mpy6aError | None = None
        self.on_events: Callable[[], None] | None = None
        self.connection: Connection[Token] = Connection(
            os.urandom(16), door=address, name=name, pid=os.getpid(), token=token, timeout_ms=timeout_ms
        )
        self._line: Line = LoopLine(address) if line is None else line
        self._kept_alive = False
        self._flush_scheduled = False
        self._now_ms = 0
        self._timer: Timer | None = None
        self._timer_ms = 0
        self._answered: asyncio.Event | None = None  # while closing
        self._welcomes_told = 0
        self._line.listen(self._readable, self._changed)

    def new(self, kind: str | int, record: bytes | None, extra: Extra | None) -> Token:
        """Calls a New; the future has the session's writer, made when the answer came: however late somebody asks."""
        if self.ended is not None:
            raise type(self.ended)(*self.ended.args)
        if not self._flush_scheduled:
            self._schedule()
        future: Token = self.loop.create_future()
        self.connection.new(kind, record, extra, future, self._now_ms)
        return future

    def submit(
        self, writer: Writer[Token], verb: int, record: bytes | None = None, argument: int = 0
    ) -> asyncio.Future[None]:
        """Calls an operation of `writer`: it has its place when this returns."""
        if self.ended is not None:
            raise type(self.ended)(*self.ended.args)
        if not self._flush_scheduled:
            self._schedule()
        future: asyncio.Future[None] = self.loop.create_future()
        self.connection.submit(writer, verb, future, self._now_ms, record, argument)
        return future

    def give_up(self, session: SessionId) -> None:
        """Stores a session that was made for a caller who has left."""
        if self.ended is None:
            if not self._flush_scheduled:
                self._schedule()
            self.connection.give_up(session, self.loop.create_future(), self._now_ms)

    def wake(self) -> None:
        """Sends what `connection.tell` queued at the end of this turn of the loop."""
        if not self._flush_scheduled and self.ended is None:
            self._schedule()

    async def close(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` for what is not answered, says goodbye, closes. What is left is not
        known."""
        if self.ended is not None:
            return
        self.ended = errors.SessionClosed("this pipe object was closed: open a new one")
        if self.connection.unanswered and timeout_s > 0:
            self._answered = asyncio.Event()
            try:
                await asyncio.wait_for(self._answered.wait(), timeout_s)
            except TimeoutError:
                pass  # what is left is told below
        self.finish()

    def abandon(self) -> None:
        """Closes at once, from outside the loop: its loop is gone, nobody can wait for anything any more."""
        self.ended = errors.SessionClosed("the event loop of this session has ended: open a new session")
        self._line.close(self.connection.goodbye())

    def finish(self) -> None:
        """Says goodbye and closes at once; set `ended` first. What is not answered is not known."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._line.closed:
            self._line.send(self.connection.outgoing(self._line.now_ms()))  # last outcomes, told in this turn
        self._line.close(self.connection.goodbye())
        gone = errors.OutcomeUnknown("the pipe object was closed before the answer: it may be applied later")
        self._complete(self.connection.fail_all(gone))

    # ------------------------------------------------------------------ turns of the loop

    def _schedule(self) -> None:
        self._flush_scheduled = True
        self._now_ms = self._line.now_ms()
        self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._line.closed:
            return
        self._now_ms = self._line.now_ms()
        messages = self.connection.outgoing(self._now_ms)
        if messages:
            self._line.send(messages)
            if self._line.pending():  # the send took the descriptor's edge
                self.loop.call_soon(self._readable)
        self._arm()

    def _arm(self) -> None:
        due = self.connection.deadline()
        if due is None or (self._timer is not None and self._timer_ms <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = due
        self._timer = self._line.call_at(due, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._complete(self.connection.expire(self._line.now_ms()))
        self._flush()

    def _readable(self) -> None:
        if self._line.closed:
            return
        payloads = self._line.receive()
        if not payloads:
            return
        connection = self.connection
        self._now_ms = self._line.now_ms()
        for payload in payloads:
            self._complete(connection.receive(payload, self._now_ms))
        if len(payloads) >= limits.DRAIN_MESSAGES_MAX:
            self.loop.call_soon(self._readable)  # the others' turn first
        if not self._kept_alive and connection.welcome is not None and self.ended is None:
            self._kept_alive = True
            self._line.keep_alive(connection.incarnation, connection.welcome.lease_ms)
        if connection.has_events or connection.welcomes != self._welcomes_told:
            self._welcomes_told = connection.welcomes
            self._tell_events()
        if self._answered is not None and not connection.unanswered:
            self._answered.set()
        if not self._flush_scheduled:
            self._schedule()  # behind the tasks that the completions woke

    def _changed(self) -> None:
        if self._line.closed:
            return
        for up in self._line.changes():
            if up:
                self.connection.link_up(self._line.now_ms())
            else:
                self.connection.link_down()
        self._flush()

    def _tell_events(self) -> None:
        if self.on_events is not None:
            self.on_events()
            return
        for pipe, message in self.connection.events():
            if isinstance(message, Notice):
                log_notice(pipe, message)

    def _complete(self, done: list[Completion[Token]]) -> None:
        for future, value in done:
            if value is None:
                if not future.done():
                    future.set_result(None)
            elif isinstance(value, SessionId):
                if future.done():
                    self.give_up(value)
                else:
                    future.set_result(self.connection.open(value))
            elif not future.done():
                future.set_exception(value)
                if isinstance(value, (errors.AfterRefusal, errors.OutcomeUnknown)):
                    # Not an error of its own: if nobody awaits it, asyncio need not complain.
                    future.exception()
