"""Answer one read-only SQL statement from a checkpoint's file: within a time, and without holding up whoever writes it.

A reader that stands in a transaction makes SQLite's journal grow with every checkpoint. So a statement gets a time, an
amount of memory and a number of rows, and the transaction is over before anything of the answer is shown. For
`mpy6a sql`; the tables are those of FORMAT.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import apsw

from mpy6a import limits
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.guarding import Guard, memory_bounded, no_suspension
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.tables import TABLES
from mpy6a.errors import Refused

Cell = int | float | str | bytes | None

_LIMITS: Final = (
    (apsw.SQLITE_LIMIT_LENGTH, limits.SQL_VALUE_BYTES_MAX),
    (apsw.SQLITE_LIMIT_SQL_LENGTH, limits.SQL_STATEMENT_BYTES_MAX),
    (apsw.SQLITE_LIMIT_ATTACHED, 0),
)
_NEAR_CHARACTERS: Final = 24
_FIRST: Final = f"{limits.CHECKPOINT_IDLE_BYTES >> 20} MiB and {limits.CHECKPOINT_MS // 1000} s have passed"


class StatementRefused(Refused):
    """It is no single statement that reads, or SQLite does not understand it: the message says where."""


class NoCheckpoint(Refused):
    """Nothing was filed yet: ask the running pipe."""


class TooMuch(Refused):
    """The statement took more time or memory than it was given: the message says how to ask for less."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave, and as of when."""

    header: CheckpointHeader
    columns: list[str]
    rows: list[tuple[Cell, ...]]
    more: bool  # there are more rows than were asked for, or they are too long
    took_ms: int


def ask(
    directory: str,
    statement: str,
    rows_max: int,
    timeout_ms: int,
    stuck: Callable[[], object] = lambda: None,
) -> Answer:
    """The rows of one statement over the checkpoint of a data directory, whether a pipe runs there or not.

    `stuck` is called, from another thread, if SQLite does not even notice that its time is over. Raises
    StatementRefused, TooMuch, NoCheckpoint, DamagedLog, FormatVersion, DiskFailed.
    """
    file = CheckpointFile.open(directory)
    try:
        if file.header() is None:
            raise NoCheckpoint(
                f"there is no checkpoint in {directory} yet: a pipe writes one when its log has grown by {_FIRST};"
                " `mpy6a sessions list` asks the pipe itself"
            )
        connection = file.connection()
        connection.set_busy_timeout(timeout_ms)
        connection.execute("PRAGMA temp_store = MEMORY")
        for number, most in _LIMITS:
            connection.limit(number, most)
        guard = Guard(connection, timeout_ms, stuck)
        with no_suspension(), memory_bounded(), guard.watching():
            return _answer(file, connection, statement, rows_max, guard)
    finally:
        file.close()


def tables() -> dict[str, list[str]]:
    """The tables and views, by name, with their columns. Needs no file."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(TABLES)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")]
        return {
            name: [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
            for name in sorted(names, key=lambda name: (name != "live", name != "sessions"))
        }
    finally:
        connection.close()


def _answer(
    file: CheckpointFile, connection: apsw.Connection, statement: str, rows_max: int, guard: Guard
) -> Answer:
    began_s = time.monotonic()
    try:
        connection.execute("BEGIN")
        header = file.header()
        assert header is not None, "what was filed stays"
        connection.set_authorizer(guard.authorize)
        _check(connection, statement)
        cursor = connection.cursor()
        columns: list[str] = []

        def begun(cursor: apsw.Cursor, _sql: str, _bindings: Any) -> bool:
            columns[:] = columns or [str(column[0]) for column in cursor.get_description()]
            return bool(cursor.is_readonly)

        cursor.exec_trace = begun
        rows: list[tuple[Cell, ...]] = []
        more, size = False, 0
        for row in cursor.execute(statement):
            size += sum(len(cell) for cell in row if isinstance(cell, (str, bytes)))
            if len(rows) == rows_max or size > limits.SQL_BYTES_MAX:
                more = True
                break
            if guard.is_over:
                raise apsw.InterruptError
            rows.append(row)
        cursor.close()
    except apsw.Error as error:
        raise _meaning(file, statement, guard, error) from error
    finally:
        connection.set_authorizer(None)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return Answer(header, columns, rows, more, int((time.monotonic() - began_s) * 1000))


def _check(connection: apsw.Connection, statement: str) -> None:
    """Refuse what is not exactly one statement, before any of it runs."""
    first = _first(connection, statement)
    if first is None:
        raise StatementRefused("there is no statement: `mpy6a sql` alone lists the tables and some examples")
    rest = statement[len(first) :]
    try:
        more = _first(connection, rest) is not None
    except apsw.Error:
        more = True
    if more:
        raise StatementRefused(f"one statement at a time: {_near(rest)!r} begins another one")


def _first(connection: apsw.Connection, statement: str) -> str | None:
    """The text of the first statement, which is understood and not run; None where there are only comments."""
    found: list[str] = []

    def begun(cursor: apsw.Cursor, sql: str, _bindings: Any) -> bool:
        if cursor.has_vdbe:
            found.append(sql)
        return not cursor.has_vdbe

    cursor = connection.cursor()
    cursor.exec_trace = begun
    try:
        cursor.execute(statement)
    except apsw.ExecTraceAbort:
        pass
    return found[0] if found else None


def _meaning(file: CheckpointFile, statement: str, guard: Guard, error: apsw.Error) -> Exception:
    """What an operator is told. What is not about the statement is about the file."""
    match error:
        case _ if guard.denied:
            return StatementRefused(f"{guard.denied} is refused: `mpy6a sql` reads, and nothing else")
        case apsw.InterruptError():
            return TooMuch(
                f"stopped after {guard.timeout_ms / 1000:g} s: ask for less (`idx`, `kind` with `key` go by an index),"
                " or give it longer: --timeout"
            )
        case apsw.NoMemError() | apsw.TooBigError():
            return TooMuch(
                f"it takes more than {limits.SQL_MEMORY_BYTES >> 20} MiB of memory, or a value of more than "
                f"{limits.SQL_VALUE_BYTES_MAX >> 20} MiB: ask for less"
            )
        case apsw.ReadOnlyError() | apsw.ExecTraceAbort():
            return StatementRefused("it would write: `mpy6a sql` reads, and nothing else")
        case apsw.BindingsError():
            return StatementRefused("it has a place for a value (? or :name): write the value there")
        case apsw.SQLError() | apsw.MismatchError() | apsw.RangeError():
            offset = getattr(error, "error_offset", -1)
            where = f", near {_near(statement.encode()[offset:].decode(errors='replace'))!r}" if offset >= 0 else ""
            return StatementRefused(f"{error}{'' if 'near ' in str(error) else where}")
    return file._meaning(error, "", None)


def _near(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _NEAR_CHARACTERS else text[:_NEAR_CHARACTERS] + "…"
