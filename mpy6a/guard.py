"""The fence for your own database: refuses a predecessor's late write once its successor has looked.

A session has one writer at a time, but a writer that was fenced off may still have a request under way in
your service. `check` closes that gap: one table in *your* database, one call inside *your* transaction.

    connection.execute("BEGIN IMMEDIATE")
    try:
        guard.check(connection, headers=request.headers)     # raises Fenced: answer 409, do nothing
        ...                                                  # your reads and writes
    except BaseException:
        connection.rollback()
        raise
    connection.commit()

The rules that make it hold:
- The call and the work are in one transaction. A look-up on which a handler decides (is the user there?) is
  work: guard it, and commit it also when it found nothing. It is the commit that fences the predecessor off.
- Begin with `BEGIN IMMEDIATE`: then waiting for another writer happens there, before anything was read.
  `check` writes before it reads, so it holds the write lock in any case; in a transaction that began by
  reading it may raise SQLite's "database is locked", and then nothing was done.
- `check` never commits and never rolls back.

A fence is term << 32 | epoch with term < 2**31: it rises per session and fits SQLite's signed 64 bits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from mpy6a.errors import BadRequest, Fenced, Refused

__all__ = ["FENCE_HEADER", "SESSION_HEADER", "Fenced", "NotInTransaction", "check", "create", "forget"]

SESSION_HEADER: Final = "Mpy6a-Session"
FENCE_HEADER: Final = "Mpy6a-Fence"

FENCE_MAX: Final = (1 << 63) - 1  # SQLite's largest integer; the largest fence there is lies below it
SESSION_CHARACTERS_MAX: Final = 64  # "65535.2147483647.18446744073709551615" is 37

_CREATE: Final = """
CREATE TABLE IF NOT EXISTS mpy6a_fence (
    session TEXT PRIMARY KEY,
    fence INTEGER NOT NULL,
    checked_ms INTEGER NOT NULL
) WITHOUT ROWID
"""

# One statement that writes or does nothing: it takes the write lock before it compares.
_RAISE: Final = """
INSERT INTO mpy6a_fence (session, fence, checked_ms) VALUES (?, ?, ?)
ON CONFLICT (session) DO UPDATE SET fence = excluded.fence, checked_ms = excluded.checked_ms
WHERE excluded.fence >= mpy6a_fence.fence
"""


class NotInTransaction(Refused):
    """The guard must stand in the transaction of your work: execute "BEGIN IMMEDIATE" before the call."""


def create(connection: sqlite3.Connection) -> None:
    """Make the guard's table if it is not there. Does not commit: run it where you make your own tables."""
    connection.execute(_CREATE)


def check(
    connection: sqlite3.Connection,
    session: str | None = None,
    fence: int | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Let this writer of the session through, or raise `Fenced` if a newer one was here before.

    Give `session` and `fence` (`session.id` and its fence number), or the `headers` of a request that carries
    `Mpy6a-Session` and `Mpy6a-Fence` (any mapping; names in any case). The same fence passes as often as it
    comes. What it records is durable, and holds others off, when *your* transaction commits.

    Raises `Fenced`; `NotInTransaction`; `BadRequest` for missing or malformed values: a request without the
    headers is never waved through here, whether to do unguarded work is your decision before the call.
    """
    if headers is not None:
        if session is not None or fence is not None:
            raise BadRequest("guard.check takes session and fence, or headers=, not both")
        session, fence = _read(headers)
    session, fence = _valid(session, fence)
    if not connection.in_transaction:
        raise NotInTransaction('guard.check outside a transaction: execute "BEGIN IMMEDIATE" before it')
    if connection.execute(_RAISE, (session, fence, _now_ms())).rowcount == 1:
        return
    row = connection.execute("SELECT fence FROM mpy6a_fence WHERE session = ?", (session,)).fetchone()
    raise Fenced(f"session {session}: fence {fence} is older than {row[0]}, which was here before; roll back and stop")


def forget(connection: sqlite3.Connection, older_than: float | timedelta) -> int:
    """Drop fences not checked for `older_than` (seconds or a timedelta); returns how many. Does not commit.

    Choose longer than any request of yours can stay under way *and* longer than your sessions live: a
    forgotten session's predecessor is a stranger again and would pass. A day is a good choice.
    """
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    if seconds < 0:
        raise BadRequest(f"guard.forget: older_than is {seconds} s, allowed is 0 or more")
    deleted = connection.execute("DELETE FROM mpy6a_fence WHERE checked_ms < ?", (_now_ms() - int(seconds * 1000),))
    return deleted.rowcount


def _read(headers: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Session and fence out of headers; looked through because a plain dict heeds case."""
    session: str | None = None
    fence: int | None = None
    for name, value in headers.items():
        if name.lower() == "mpy6a-session":
            session = value.strip()
        elif name.lower() == "mpy6a-fence":
            digits = value.strip()
            if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
                raise BadRequest(f"{FENCE_HEADER} is {value[:40]!r}, allowed is a decimal number")
            fence = int(digits)
    return session, fence


def _valid(session: str | None, fence: int | None) -> tuple[str, int]:
    if not session or len(session) > SESSION_CHARACTERS_MAX:
        raise BadRequest(f"guard.check: the session is {session!r:.80}, allowed is an id such as 1.3.48213")
    if fence is None or isinstance(fence, bool) or not 0 < fence <= FENCE_MAX:
        raise BadRequest(f"guard.check: the fence is {fence!r:.40}, allowed is 1 to {FENCE_MAX}")
    return session, fence


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
