"""The guard's statements for SQLite and PostgreSQL, and which of the two a connection is of.

What is asked is written once, as steps: a generator that yields statements, is sent what came of each, and
returns a number. The blocking and the async functions only execute them. Drivers are imported when a connection
of theirs came.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Generator
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol, TypeAlias, cast

from mpy6a.errors import BadRequest, Fenced, Refused
from mpy6a.guard.arguments import Writer

if TYPE_CHECKING:
    import sqlite3

    import aiosqlite
    import psycopg

Value: TypeAlias = str | int
Row: TypeAlias = tuple[object, ...]


class Ask(NamedTuple):
    """One statement to be executed."""

    sql: str
    values: tuple[Value, ...] = ()
    rows: bool = False  # it gives rows: the first is wanted


class Answer(NamedTuple):
    """What came of it."""

    written: int  # rows
    row: Row | None


Steps: TypeAlias = Generator[Ask, Answer, int]

CREATE_LOCK: Final = 0x6D70_7936_6100  # "mpy6a\0": the advisory lock under which the table is made


class NotInTransaction(Refused):
    """The guard must stand in the transaction of your work: begin one before the call; the message says how."""


class Cursor(Protocol):
    """What the guard needs of a blocking cursor."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, values: tuple[Value, ...], /) -> object: ...
    def fetchone(self) -> Row | None: ...
    def close(self) -> object: ...


class AsyncCursor(Protocol):
    """The same, awaited."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, values: tuple[Value, ...], /) -> Awaitable[object]: ...
    def fetchone(self) -> Awaitable[Row | None]: ...
    def close(self) -> Awaitable[object]: ...


class Database(ABC):
    """One connection of the user's. Cursors give plain tuples, whatever rows and cursors the user has chosen."""

    @abstractmethod
    def cursor(self) -> Cursor:
        """Of a blocking connection."""

    @abstractmethod
    async def acursor(self) -> AsyncCursor:
        """Of an async connection."""

    @abstractmethod
    def creating(self, table: str) -> Steps:
        """Make the table unless it is there."""

    @abstractmethod
    def checking(self, table: str, who: Writer, now_ms: int) -> Steps:
        """Raise the session's fence. Raises Fenced if it stands higher, NotInTransaction."""

    @abstractmethod
    def forgetting(self, table: str, age_ms: int, now_ms: int) -> Steps:
        """Drop what was not checked for so long; how many."""


class Sqlite(Database):
    """A `sqlite3.Connection` or `aiosqlite.Connection`."""

    def __init__(self, connection: sqlite3.Connection | aiosqlite.Connection) -> None:
        self._connection = connection

    def cursor(self) -> Cursor:
        cursor = cast("sqlite3.Connection", self._connection).cursor()
        cursor.row_factory = None
        return cursor

    async def acursor(self) -> AsyncCursor:
        cursor = await cast("aiosqlite.Connection", self._connection).cursor()
        cursor.row_factory = None
        return cast("AsyncCursor", cursor)

    def creating(self, table: str) -> Steps:
        yield Ask(
            f"CREATE TABLE IF NOT EXISTS {table} (\n"
            "    session TEXT PRIMARY KEY,\n    fence INTEGER NOT NULL,\n    checked_ms INTEGER NOT NULL\n"
            ") WITHOUT ROWID"
        )
        return 0

    def checking(self, table: str, who: Writer, now_ms: int) -> Steps:
        if not self._connection.in_transaction:
            raise NotInTransaction('guard.check outside a transaction: execute "BEGIN IMMEDIATE" before it')
        # One statement that writes or does nothing: it takes the write lock before it compares.
        done = yield Ask(
            f"INSERT INTO {table} AS kept (session, fence, checked_ms) VALUES (?, ?, ?) "
            "ON CONFLICT (session) DO UPDATE SET fence = excluded.fence, checked_ms = excluded.checked_ms "
            "WHERE excluded.fence >= kept.fence",
            (who.session, who.fence, now_ms),
        )
        if done.written != 1:
            found = yield Ask(f"SELECT fence FROM {table} WHERE session = ?", (who.session,), rows=True)
            _refuse(who, found.row)
        return 0

    def forgetting(self, table: str, age_ms: int, now_ms: int) -> Steps:
        done = yield Ask(f"DELETE FROM {table} WHERE checked_ms < ?", (now_ms - age_ms,))
        return done.written


class Postgres(Database):
    """A `psycopg.Connection` or `psycopg.AsyncConnection`. Times are the database's: its clients have many clocks."""

    _NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

    def __init__(self, connection: psycopg.Connection[object] | psycopg.AsyncConnection[object]) -> None:
        self._connection = connection

    # Not connection.cursor(): the user's cursor_factory may take other placeholders, or have cursors on the server.
    def cursor(self) -> Cursor:
        from psycopg import Cursor as PsycopgCursor
        from psycopg.rows import tuple_row

        connection = cast("psycopg.Connection[object]", self._connection)
        return cast("Cursor", PsycopgCursor(connection, row_factory=tuple_row))

    async def acursor(self) -> AsyncCursor:
        from psycopg import AsyncCursor as PsycopgCursor
        from psycopg.rows import tuple_row

        connection = cast("psycopg.AsyncConnection[object]", self._connection)
        return cast("AsyncCursor", PsycopgCursor(connection, row_factory=tuple_row))

    def creating(self, table: str) -> Steps:
        # Asked first, because CREATE ... IF NOT EXISTS wants the right to create even where it does nothing.
        found = yield Ask("SELECT to_regclass(%s) IS NOT NULL", (table,), rows=True)
        if found.row == (True,):
            return 0
        # Of two that make it at once one would fail, in spite of IF NOT EXISTS: they take turns. One string of two
        # statements is one transaction also where each statement commits. COLLATE "C": an id is bytes, and its index
        # outlives an upgrade of the system's collations.
        yield Ask(
            f"SELECT pg_advisory_xact_lock({CREATE_LOCK});\n"
            f"CREATE TABLE IF NOT EXISTS {table} (\n"
            '    session text COLLATE "C" PRIMARY KEY,\n    fence bigint NOT NULL,\n    checked_ms bigint NOT NULL\n'
            ")"
        )
        return 0

    def checking(self, table: str, who: Writer, now_ms: int) -> Steps:
        from psycopg.pq import TransactionStatus

        connection = self._connection
        if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
            _refuse_autocommit()
        # One statement: it locks the session's row until the transaction ends, also where it refuses. It gives a row
        # where it lets through; asking for that is also what makes a pipeline wait for it.
        done = yield Ask(
            f"INSERT INTO {table} AS kept (session, fence, checked_ms) VALUES (%s, %s, {self._NOW_MS}) "
            "ON CONFLICT (session) DO UPDATE SET fence = excluded.fence, checked_ms = excluded.checked_ms "
            "WHERE excluded.fence >= kept.fence RETURNING fence",
            (who.session, who.fence),
            rows=True,
        )
        if connection.info.transaction_status != TransactionStatus.INTRANS:
            _refuse_autocommit()  # a pipeline on an autocommit connection: known only now
        if done.row is None:
            found = yield Ask(f"SELECT fence FROM {table} WHERE session = %s", (who.session,), rows=True)
            _refuse(who, found.row)
        return 0

    def forgetting(self, table: str, age_ms: int, now_ms: int) -> Steps:
        old = f"DELETE FROM {table} WHERE checked_ms < {self._NOW_MS} - %s RETURNING session"
        done = yield Ask(f"WITH forgotten AS ({old}) SELECT count(*) FROM forgotten", (age_ms,), rows=True)
        assert done.row is not None
        return cast("int", done.row[0])


# By module and name, not by `isinstance`: that would import every driver.
_BLOCKING: Final = {("sqlite3", "Connection"): Sqlite, ("psycopg", "Connection"): Postgres}
_ASYNC: Final = {("psycopg", "AsyncConnection"): Postgres, ("aiosqlite", "Connection"): Sqlite}


def database_of(connection: object, function: str, *, is_async: bool = False) -> Database:
    """The database that a connection is of, for the public function of this name. Raises BadRequest."""
    takes, others = (_ASYNC, _BLOCKING) if is_async else (_BLOCKING, _ASYNC)
    classes = [(each.__module__.partition(".")[0], each.__name__) for each in type(connection).__mro__]
    for each in classes:
        if each in takes:
            if takes[each] is Sqlite:
                return Sqlite(cast("sqlite3.Connection", connection))
            return Postgres(cast("psycopg.Connection[object]", connection))
    hint = ""
    if any(each in others for each in classes):
        hint = f": call guard.{function[1:]} with it" if is_async else f": call `await guard.a{function}` with it"
    allowed = " or ".join(f"{module}.{name}" for module, name in takes)
    got = f"{type(connection).__module__}.{type(connection).__qualname__}"
    raise BadRequest(f"guard.{function} got a {got}{hint}; allowed is a {allowed}")


def _refuse(who: Writer, row: Row | None) -> NoReturn:
    newer = "one" if row is None else row[0]
    raise Fenced(
        f"session {who.session}: fence {who.fence} is older than {newer}, which was here before; roll back and stop"
    )


def _refuse_autocommit() -> NoReturn:
    raise NotInTransaction(
        "guard.check outside a transaction: the connection commits each statement by itself; "
        "call it inside `with connection.transaction():`"
    )
