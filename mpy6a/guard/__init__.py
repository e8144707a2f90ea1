"""The fence for your own database: refuses a predecessor's late write once its successor has looked.

A session has one writer at a time, but a writer that was fenced off may still have a request under way in
your service. `check` closes that gap: one table in *your* database, one call inside *your* transaction.

    with connection.transaction():                           # psycopg; for sqlite3: execute "BEGIN IMMEDIATE"
        guard.check(connection, headers=request.headers)     # raises Fenced: answer 409, do nothing
        ...                                                  # your reads and writes

| connection | functions |
| --- | --- |
| `sqlite3.Connection`, `psycopg.Connection` | `create`, `check`, `forget` |
| `psycopg.AsyncConnection`, `aiosqlite.Connection` | `acreate`, `acheck`, `aforget`, to be awaited |

No driver is imported before you hand over a connection of its. docs/GUARD.md tells the story and the limits.

The rules that make it hold:
- The call and the work are in one transaction, and the call comes first. A look-up on which a handler decides
  (is the user there?) is work: guard it, and commit it also when it found nothing. It is the commit that
  fences the predecessor off.
- SQLite: begin with `BEGIN IMMEDIATE`: then waiting for another writer happens there, before anything was
  read. `check` writes before it reads, so it holds the write lock in any case; in a transaction that began by
  reading it may raise SQLite's "database is locked", and then nothing was done.
- PostgreSQL: `check` locks the session's row until your transaction ends; another writer of that session waits
  there. Above READ COMMITTED it may raise psycopg's `SerializationFailure`: roll back and begin anew.
- `check` never commits and never rolls back.

A fence is term << 32 | epoch with term < 2**31: it rises per session and fits a signed 64-bit column.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

from mpy6a.errors import Fenced
from mpy6a.guard import arguments
from mpy6a.guard.databases import Answer, Database, NotInTransaction, Steps, database_of

if TYPE_CHECKING:
    import sqlite3
    from typing import TypeAlias

    import aiosqlite
    import psycopg

    Connection: TypeAlias = sqlite3.Connection | psycopg.Connection[object]
    AsyncConnection: TypeAlias = psycopg.AsyncConnection[object] | aiosqlite.Connection

__all__ = [
    "FENCE_HEADER",
    "SESSION_HEADER",
    "TABLE",
    "Fenced",
    "NotInTransaction",
    "acheck",
    "acreate",
    "aforget",
    "check",
    "create",
    "forget",
]

SESSION_HEADER: Final = arguments.SESSION_HEADER
FENCE_HEADER: Final = arguments.FENCE_HEADER
TABLE: Final = "mpy6a_fence"


def create(connection: Connection, *, table: str = TABLE) -> None:
    """Make the guard's table if it is not there. Does not commit: run it where you make your own tables.

    `table` is a name or `schema.name` of ASCII letters, digits and _; the other functions then take it too. With
    PostgreSQL it may be called by many processes at once, and needs no right to create if the table is there.
    """
    database = database_of(connection, "create")
    _run(database, database.creating(arguments.table(table)))


async def acreate(connection: AsyncConnection, *, table: str = TABLE) -> None:
    """`create` for an async connection."""
    database = database_of(connection, "acreate", is_async=True)
    await _arun(database, database.creating(arguments.table(table)))


def check(
    connection: Connection,
    session: str | None = None,
    fence: int | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    table: str = TABLE,
) -> None:
    """Let this writer of the session through, or raise `Fenced` if a newer one was here before.

    Give `session` and `fence` (`session.id` and its fence number), or the `headers` of a request that carries
    `Mpy6a-Session` and `Mpy6a-Fence` (any mapping; names in any case; in a handler: `session.fence`). The same
    fence passes as often as it comes. What it records is durable, and holds others off, when *your*
    transaction commits.

    Raises `Fenced`: roll back and stop; `NotInTransaction`; `BadRequest` for missing or malformed values: a
    request without the headers is never waved through here, whether to do unguarded work is your decision
    before the call; and whatever your driver raises, for example when the table is not there.
    """
    who = arguments.writer(session, fence, headers)
    database = database_of(connection, "check")
    _run(database, database.checking(arguments.table(table), who, _now_ms()))


async def acheck(
    connection: AsyncConnection,
    session: str | None = None,
    fence: int | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    table: str = TABLE,
) -> None:
    """`check` for an async connection: `await` it inside your transaction, before your work."""
    who = arguments.writer(session, fence, headers)
    database = database_of(connection, "acheck", is_async=True)
    await _arun(database, database.checking(arguments.table(table), who, _now_ms()))


def forget(connection: Connection, older_than: float | timedelta, *, table: str = TABLE) -> int:
    """Drop fences not checked for `older_than` (seconds or a timedelta); returns how many. Does not commit.

    Choose longer than any request of yours can stay under way *and* longer than your sessions live: a
    forgotten session's predecessor is a stranger again and would pass. A day is a good choice.
    """
    database = database_of(connection, "forget")
    return _run(database, database.forgetting(arguments.table(table), arguments.age_ms(older_than), _now_ms()))


async def aforget(connection: AsyncConnection, older_than: float | timedelta, *, table: str = TABLE) -> int:
    """`forget` for an async connection."""
    database = database_of(connection, "aforget", is_async=True)
    steps = database.forgetting(arguments.table(table), arguments.age_ms(older_than), _now_ms())
    return await _arun(database, steps)


def _run(database: Database, steps: Steps) -> int:
    """Execute what the steps ask for, one statement after another; what they return."""
    cursor = database.cursor()
    try:
        ask = next(steps)
        while True:
            cursor.execute(ask.sql, ask.values)
            row = cursor.fetchone() if ask.rows else None
            ask = steps.send(Answer(cursor.rowcount, row))
    except StopIteration as done:
        return cast("int", done.value)
    finally:
        cursor.close()


async def _arun(database: Database, steps: Steps) -> int:
    """The same, awaited."""
    cursor = await database.acursor()
    try:
        ask = next(steps)
        while True:
            await cursor.execute(ask.sql, ask.values)
            row = await cursor.fetchone() if ask.rows else None
            ask = steps.send(Answer(cursor.rowcount, row))
    except StopIteration as done:
        return cast("int", done.value)
    finally:
        await cursor.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
