"""Keep a statement of somebody's within bounds: it only reads, ends in time, and takes a bounded amount of memory."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from mpy6a import limits

_READS: Final = frozenset((apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE))
# Those that tell about the schema and the file. All others, and most of these with a value, change something.
_PRAGMAS: Final = frozenset(
    (
        "application_id",
        "compile_options",
        "freelist_count",
        "index_info",
        "index_list",
        "index_xinfo",
        "page_count",
        "page_size",
        "table_info",
        "table_list",
        "table_xinfo",
        "user_version",
    )
)
_NAMING: Final = frozenset(("index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"))
_FUNCTIONS: Final = frozenset(("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"))
_STEPS: Final = 1_000  # of SQLite's machine between two looks at the clock: below 1 ms
_WATCH_S: Final = 0.05  # between two interrupts of what did not look at the clock
# What is denied by its name; the rest of what SQLite asks for is part of one of these.
_WORDS: Final = {
    apsw.SQLITE_ATTACH: "ATTACH",
    apsw.SQLITE_DETACH: "DETACH",
    apsw.SQLITE_PRAGMA: "PRAGMA",
    apsw.SQLITE_FUNCTION: "the function",
    apsw.SQLITE_TRANSACTION: "transaction:",
    apsw.SQLITE_SAVEPOINT: "savepoint:",
    apsw.SQLITE_INSERT: "writing to",
    apsw.SQLITE_UPDATE: "writing to",
    apsw.SQLITE_DELETE: "writing to",
}


class Guard:
    """Sees to it that a statement only reads, and ends in time."""

    def __init__(self, connection: apsw.Connection, timeout_ms: int, stuck: Callable[[], object]) -> None:
        self.timeout_ms = timeout_ms
        self.denied = ""
        self._connection = connection
        self._stuck = stuck
        self._end_s = time.monotonic() + timeout_ms / 1000
        self._done = threading.Event()

    def authorize(
        self, action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
    ) -> int:
        """SQLite asks for everything that a statement would do. What is not known to read only is denied."""
        if action in _READS:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_FUNCTION and (second or "").lower() not in _FUNCTIONS:
            return apsw.SQLITE_OK
        if action == apsw.SQLITE_PRAGMA:
            name = (first or "").lower()
            if name in _PRAGMAS and (second is None or name in _NAMING):
                return apsw.SQLITE_OK
        what = second if action == apsw.SQLITE_FUNCTION else first
        self.denied = self.denied or f"{_WORDS.get(action, 'making or changing')} {what or ''}".strip()
        return apsw.SQLITE_DENY

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end_s

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ends what runs too long: by SQLite's own looks at the clock, and from outside where it does not look."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        self._connection.set_progress_handler(lambda: self.is_over, _STEPS)
        watcher.start()
        try:
            yield
        finally:
            self._done.set()
            watcher.join()
            self._connection.set_progress_handler(None)

    def _watch(self) -> None:
        # Counting a big table, for one, is a single step of SQLite's machine; an interrupt it does notice.
        if self._done.wait(self.timeout_ms / 1000):
            return
        stuck_s = time.monotonic() + limits.SQL_STUCK_MS / 1000
        while not self._done.wait(_WATCH_S):
            self._connection.interrupt()
            if time.monotonic() > stuck_s:
                self._stuck()
                return


@contextmanager
def memory_bounded() -> Iterator[None]:
    """What SQLite takes to sort and join is bounded: a small machine has a pipe to run."""
    before = apsw.hard_heap_limit(limits.SQL_MEMORY_BYTES)
    try:
        yield
    finally:
        apsw.hard_heap_limit(before)


@contextmanager
def no_suspension() -> Iterator[None]:
    """Ctrl-Z waits until the transaction is over: a command that sleeps in it would stand in the writer's way."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
