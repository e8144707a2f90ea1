"""How a thread waits for another thread's answer: one lock a thread, and a claim that decides who was first."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from mpy6a import errors
from mpy6a.errors import Mpy6aError

if TYPE_CHECKING:
    from mpy6a.client.writer import Writer


class _Locks(threading.local):
    """The calling thread's lock, held while nobody answered."""

    lock: threading.Lock | None = None


_locks: Final = _Locks()


class Waiter:
    """One operation's answer, awaited by the thread that made it and completed by the one that does the I/O.

    Measured (evidence.md): one lock a thread is half the cost of an Event or a
    concurrent Future each.
    """

    __slots__ = ("_claim", "_error", "_lock", "_told", "_value")

    def __init__(self) -> None:
        lock = _locks.lock
        if lock is None:
            lock = _locks.lock = threading.Lock()
            lock.acquire()
        self._lock = lock
        self._claim = [None]  # list.pop is atomic: whoever takes it, caller or completer, was first
        self._value: Writer[Waiter] | None = None
        self._error: Mpy6aError | None = None
        self._told = False

    def complete(self, value: Writer[Waiter] | Mpy6aError | None) -> bool:
        """Hands the answer over; False when the caller has left, or was answered before."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        if isinstance(value, Mpy6aError):
            self._error = value
        else:
            self._value = value
        self._lock.release()
        return True

    def saw(self, error: Mpy6aError) -> bool:
        """Whether the caller was told this error."""
        return self._told and self._error is error

    def wait(self, timeout_s: float | None = None) -> Writer[Waiter] | None:
        """The answer. Raises its error; OutcomeUnknown when none came in time (the operation keeps its place)."""
        done = False
        try:
            done = self._lock.acquire(timeout=-1 if timeout_s is None else timeout_s)
        finally:
            if not done:  # also by an exception out of the waiting, KeyboardInterrupt for one
                done = not self._leave()
        if not done:
            raise errors.OutcomeUnknown("no answer in time: the operation keeps its place and may be applied later")
        self._told = True
        if self._error is not None:
            raise self._error
        return self._value

    def _leave(self) -> bool:
        """The caller goes; False when the answer was quicker, and is here now."""
        try:
            self._claim.pop()
        except IndexError:
            self._lock.acquire()
            return False
        return True  # nobody will release the lock: the thread goes on using it
