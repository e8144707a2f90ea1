"""Drives one client incarnation from a thread of its own, for callers in any number of threads.

Callers put their operations into a deque and write an eventfd only when the thread sleeps; whatever waits when it looks
is one batch.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

from mpy6a import errors, limits
from mpy6a.client.connection import Connection
from mpy6a.client.exchange import Completion
from mpy6a.client.heartbeat import Heartbeat
from mpy6a.client.link import Link
from mpy6a.client.notices import log_notice
from mpy6a.client.waiters import Waiter
from mpy6a.client.writer import Writer
from mpy6a.errors import Mpy6aError
from mpy6a.messages import Notice
from mpy6a.model import Extra, SessionId

_log: Final = logging.getLogger("mpy6a.client")

# What a caller waits beyond the operation's own timeout, which the thread keeps: a net under a thread that died.
_NET_S: Final = 5.0


class BlockingDriver:
    """One incarnation and its thread, from the first operation until `close`."""

    def __init__(self, address: str, *, name: str, token: bytes, timeout_ms: int | None) -> None:
        self.ended: Mpy6aError | None = None
        self.pid = os.getpid()
        self.connection: Connection[Waiter] = Connection(
            os.urandom(16), door=address, name=name, pid=self.pid, token=token, timeout_ms=timeout_ms
        )
        self.timeout_s = None if timeout_ms is None else timeout_ms / 1000 + _NET_S
        self._address = address
        self._requests: deque[Callable[[int], None]] = deque()
        self._sleeping = False
        self._stopped = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Not before the last caller is gone: the number of a closed descriptor soon is a stranger's.
        weakref.finalize(self, os.close, self._wake_fd)
        self._close_by_ms: int | None = None
        self._heartbeat: Heartbeat | None = None
        self._thread = threading.Thread(target=self._run, name="mpy6a-client", daemon=True)
        self._thread.start()

    def new(self, kind: str | int, record: bytes | None, extra: Extra | None) -> Writer[Waiter]:
        """Makes a session; its writer once it is durable."""
        waiter = Waiter()
        self._ask(lambda now_ms: self.connection.new(kind, record, extra, waiter, now_ms), waiter)
        writer = waiter.wait(self.timeout_s)
        assert writer is not None
        return writer

    def call(
        self,
        writer: Writer[Waiter],
        verb: int,
        record: bytes | None,
        argument: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        """Does an operation of `writer`; returns once it is durable."""
        waiter = Waiter()
        self._ask(lambda now_ms: self.connection.submit(writer, verb, waiter, now_ms, record, argument), waiter)
        waiter.wait(self.timeout_s if timeout_s is None else timeout_s)

    def close(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` for what is not answered, says goodbye, ends the thread."""
        if self.ended is None and os.getpid() == self.pid:
            self.ended = errors.SessionClosed("this pipe object was closed: open a new one")
            self._close_by_ms = _now_ms() + int(timeout_s * 1000)
            self._wake()
            if threading.current_thread() is not self._thread:  # which may be the one that collects garbage
                self._thread.join()

    # ------------------------------------------------------------------ callers' side

    def _ask(self, request: Callable[[int], None], waiter: Waiter) -> None:
        if self.ended is not None:
            raise type(self.ended)(*self.ended.args)

        def do(now_ms: int) -> None:
            try:
                request(now_ms)
            except Mpy6aError as error:
                waiter.complete(error)

        self._requests.append(do)
        if self._sleeping:
            self._wake()
        if self._stopped:
            self._fail_requests()

    def _wake(self) -> None:
        self._sleeping = False  # one write wakes for all
        os.eventfd_write(self._wake_fd, 1)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        link = Link(self._address)
        poller = select.poll()
        for fd in (self._wake_fd, link.fd, link.monitor_fd):
            poller.register(fd, select.POLLIN)
        try:
            self._changes(link)
            while not self._finished():
                self._turn(link)
                self._sleep(link, poller)
        finally:
            self._end(link)

    def _turn(self, link: Link) -> None:
        now_ms = _now_ms()
        for _ in range(len(self._requests)):
            self._requests.popleft()(now_ms)
        payloads = link.receive()
        for payload in payloads:
            self._complete(self.connection.receive(payload, now_ms), now_ms)
        if payloads:
            self._heard(link)
        self._complete(self.connection.expire(now_ms), now_ms)
        link.send(self.connection.outgoing(now_ms))

    def _sleep(self, link: Link, poller: select.poll) -> None:
        """Until something happened or is due; not at all when this turn heard the last answer that a close waits for.
        The flag before the look, so that no caller is missed."""
        self._sleeping = True
        if self._requests or link.pending() or self._finished():
            self._sleeping = False
            return
        due = self.connection.deadline()
        if self._close_by_ms is not None:
            due = self._close_by_ms if due is None else min(due, self._close_by_ms)
        ready = poller.poll(None if due is None else max(due - _now_ms(), 0))
        self._sleeping = False
        for fd, _ in ready:
            if fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
            elif fd == link.monitor_fd:
                self._changes(link)

    def _changes(self, link: Link) -> None:
        for up in link.changes():
            if up:
                self.connection.link_up(_now_ms())
            else:
                self.connection.link_down()

    def _heard(self, link: Link) -> None:
        welcome = self.connection.welcome
        if self._heartbeat is None and welcome is not None and self._close_by_ms is None:
            self._heartbeat = Heartbeat(self._address, self.connection.incarnation, welcome.lease_ms, link.context)
        for pipe, message in self.connection.events():
            if isinstance(message, Notice):
                log_notice(pipe, message)

    def _complete(self, done: list[Completion[Waiter]], now_ms: int) -> None:
        for waiter, value in done:
            if not isinstance(value, SessionId):
                waiter.complete(value)
            elif not waiter.complete(self.connection.open(value)):
                self.connection.give_up(value, Waiter(), now_ms)

    def _finished(self) -> bool:
        if self._close_by_ms is None:
            return False
        return not (self._requests or self.connection.unanswered) or _now_ms() >= self._close_by_ms

    def _end(self, link: Link) -> None:
        if self.ended is None:
            _log.error("the client's thread has ended by an error; its operations fail")
            self.ended = errors.OutcomeUnknown("the client's thread has ended by an error: make a new Pipe")
        if self._heartbeat is not None:
            self._heartbeat.stop()  # before the goodbye: a heartbeat behind it would revive this client
        link.send([self.connection.goodbye()])
        link.close(limits.GOODBYE_LINGER_MS)
        gone = errors.OutcomeUnknown("the pipe object was closed before the answer: it may be applied later")
        for waiter, _ in self.connection.fail_all(gone):
            waiter.complete(gone)
        self._stopped = True
        self._fail_requests()

    def _fail_requests(self) -> None:
        """What came too late fails with the connection's end; also called by callers, after the thread's."""
        while self._requests:
            try:
                request = self._requests.popleft()
            except IndexError:
                return  # another thread took it
            request(_now_ms())


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
