"""The guard's async form over aiosqlite, and which connections each function takes."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import aiosqlite
import pytest

from mpy6a import guard
from mpy6a.errors import BadRequest

SESSION = "1.3.48213"
FIRST = 3 << 32 | 1
SECOND = 3 << 32 | 2


def awaited(path: Path, *stories: Callable[[aiosqlite.Connection], Awaitable[None]]) -> None:
    """Each story with a connection of its own, one after another."""

    async def whole() -> None:
        for story in stories:
            async with aiosqlite.connect(path / "users.db", isolation_level=None) as connection:
                await asyncio.wait_for(story(connection), 10)

    asyncio.run(whole())


async def work(connection: aiosqlite.Connection, fence: int) -> None:
    """What a service does for one request; the wrong way round, so that there is something to roll back."""
    await connection.execute("BEGIN IMMEDIATE")
    try:
        await connection.execute("INSERT INTO effect VALUES (?)", (fence,))
        await guard.acheck(connection, headers={"Mpy6a-Session": SESSION, "Mpy6a-Fence": str(fence)})
    except BaseException:
        await connection.rollback()
        raise
    await connection.commit()


async def create(connection: aiosqlite.Connection) -> None:
    await guard.acreate(connection)
    await guard.acreate(connection)
    await connection.execute("CREATE TABLE effect (fence INTEGER)")


def test_an_older_fence_is_refused_and_its_transaction_rolled_back(tmp_path: Path) -> None:
    """The zombie's effect is gone; rows as the user has chosen them do not matter."""

    async def zombie(connection: aiosqlite.Connection) -> None:
        connection.row_factory = sqlite3.Row
        await work(connection, SECOND)
        with pytest.raises(guard.Fenced, match=rf"fence {FIRST} is older than {SECOND}"):
            await work(connection, FIRST)
        found = await connection.execute_fetchall("SELECT fence FROM effect")
        assert [tuple(row) for row in found] == [(SECOND,)]

    awaited(tmp_path, create, zombie)


def test_outside_a_transaction_it_refuses_to_pretend(tmp_path: Path) -> None:
    async def story(connection: aiosqlite.Connection) -> None:
        with pytest.raises(guard.NotInTransaction, match="BEGIN IMMEDIATE"):
            await guard.acheck(connection, SESSION, FIRST)

    awaited(tmp_path, create, story)


def test_aforget_drops_old_fences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000_000]
    monkeypatch.setattr(guard, "_now_ms", lambda: clock[0])

    async def story(connection: aiosqlite.Connection) -> None:
        await work(connection, FIRST)
        assert await guard.aforget(connection, timedelta(minutes=1)) == 0
        clock[0] += 60_001
        assert await guard.aforget(connection, timedelta(minutes=1)) == 1

    awaited(tmp_path, create, story)


def test_dict_rows_of_a_blocking_connection_do_not_matter() -> None:
    """The guard reads with a cursor of its own."""

    def as_dict(cursor: sqlite3.Cursor, row: tuple[object, ...]) -> dict[str, object]:
        return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.row_factory = as_dict
        guard.create(connection)
        connection.execute("BEGIN IMMEDIATE")
        guard.check(connection, SESSION, SECOND)
        with pytest.raises(guard.Fenced, match=rf"older than {SECOND}"):
            guard.check(connection, SESSION, FIRST)
        connection.rollback()


def test_the_table_may_have_another_name_and_schema() -> None:
    """SQLite's schemas are attached databases; each table is a guard of its own."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("ATTACH ':memory:' AS orders")
        for table in ("orders.select", "Other"):
            guard.create(connection, table=table)
            connection.execute("BEGIN IMMEDIATE")
            guard.check(connection, SESSION, SECOND, table=table)
            with pytest.raises(guard.Fenced):
                guard.check(connection, SESSION, FIRST, table=table)
            connection.execute("COMMIT")
            assert guard.forget(connection, 60, table=table) == 0
        assert connection.execute('SELECT fence FROM orders."select"').fetchall() == [(SECOND,)]


@pytest.mark.parametrize("table", ["", "a.b.c", '"', 'f"; DROP TABLE user; --', "1a", "a b", "é", "x" * 64, "a.", None])
def test_no_other_text_is_a_tables_name(table: str) -> None:
    """What stands in a statement is checked first: nothing is escaped, nothing cut off."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with pytest.raises(BadRequest, match="allowed is NAME"):
            guard.create(connection, table=table)
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


@pytest.mark.parametrize(
    ("session", "fence"),
    [("1.3.5\0", 7), ("1.3.5\n", 7), ("é", 7), (5, 7), (None, 7), ("1.3.5", "7"), ("1.3.5", 7.0), ("1.3.5", True)],
)
def test_what_no_session_or_fence_is_is_refused(session: str, fence: int) -> None:
    """Before the database sees it, so that both refuse alike."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        guard.create(connection)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(BadRequest, match="allowed is"):
            guard.check(connection, session, fence)


@pytest.mark.parametrize("age", [-1, float("nan"), float("inf"), 1e30, "1", True])
def test_an_age_is_bounded(age: float) -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(BadRequest, match="older_than"):
        guard.forget(connection, age)


def test_connections_go_to_the_functions_of_their_kind(tmp_path: Path) -> None:
    """A wrong one is told which function is right, or what is allowed."""

    async def story(mine: aiosqlite.Connection) -> None:
        with pytest.raises(BadRequest, match=r"aiosqlite\.core\.Connection: call `await guard\.acheck` with it"):
            guard.check(mine, SESSION, FIRST)  # type: ignore[arg-type]  # the mistake
        with closing(sqlite3.connect(":memory:")) as blocking:
            with pytest.raises(BadRequest, match=r"sqlite3\.Connection: call guard\.check with it"):
                await guard.acheck(blocking, SESSION, FIRST)  # type: ignore[arg-type]  # the mistake
            with pytest.raises(BadRequest, match=r"sqlite3\.Cursor; allowed is a sqlite3\.Connection or psycopg"):
                guard.check(blocking.cursor(), SESSION, FIRST)  # type: ignore[arg-type]  # the mistake

    awaited(tmp_path, story)


def test_a_connection_of_the_users_own_class_is_taken() -> None:
    class Mine(sqlite3.Connection):
        """With an audit log, say."""

    with closing(sqlite3.connect(":memory:", factory=Mine)) as connection:
        guard.create(connection)


def test_no_driver_is_loaded_before_its_connection_comes() -> None:
    """The base install has neither psycopg nor aiosqlite; sqlite3 is loaded by who connects with it."""
    program = (
        "import sys, mpy6a.guard; print(*sorted({'psycopg', 'aiosqlite', 'sqlite3', 'asyncio'} & set(sys.modules)));"
        "sys.modules.update(psycopg=None, aiosqlite=None); import sqlite3; c = sqlite3.connect(':memory:');"
        "mpy6a.guard.create(c); c.execute('BEGIN'); mpy6a.guard.check(c, '1.3.5', 7); print('checked')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "\nchecked\n"
