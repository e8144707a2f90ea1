"""The guard with psycopg, on a PostgreSQL server of the test's own: who is let in, who waits, who is refused."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.rows import dict_row

from mpy6a import guard
from mpy6a.errors import BadRequest
from tests.e2e import postgres
from tests.unit.test_guard_docs import SNIPPETS, TEXT

pytestmark = pytest.mark.e2e

SESSION: Final = "1.3.48213"
FIRST: Final = 3 << 32 | 1
SECOND: Final = 3 << 32 | 2
THIRD: Final = 3 << 32 | 3
DEADLINE_S: Final = 20.0

Connection = psycopg.Connection[tuple[object, ...]]
SNAPSHOTS: Final = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    with postgres.running() as made:
        yield made


@pytest.fixture
def empty(server: postgres.Postgres) -> Iterator[str]:
    """The conninfo of a database with nothing in it."""
    with server.database() as conninfo:
        yield conninfo


@pytest.fixture
def database(empty: str) -> str:
    """With the guard's table, and one for the work."""
    with psycopg.connect(empty) as connection:
        guard.create(connection)
        connection.execute("CREATE TABLE effect (id serial, fence bigint NOT NULL)")
    return empty


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with psycopg.connect(database) as connection:
        yield connection


def work(connection: Connection, fence: int, session: str = SESSION) -> None:
    """What a service does for one request."""
    with connection.transaction():
        guard.check(connection, session, fence)
        connection.execute("INSERT INTO effect (fence) VALUES (%s)", (fence,))


def work_first(connection: Connection, fence: int) -> None:
    """The wrong way round, so that there is something to roll back."""
    with connection.transaction():
        connection.execute("INSERT INTO effect (fence) VALUES (%s)", (fence,))
        guard.check(connection, SESSION, fence)


def effects(connection: Connection) -> list[object]:
    return [row[0] for row in connection.execute("SELECT fence FROM effect ORDER BY id")]


def kept(connection: Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT session, fence FROM mpy6a_fence ORDER BY session").fetchall()


def waits(watch: Connection, pid: int) -> bool:
    """Does the backend with this pid wait for a lock?"""
    asked = watch.execute("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", (pid,))
    return asked.fetchone() == (True,)


def wait_until_it_waits(database: str, pid: int) -> None:
    end_s = time.monotonic() + DEADLINE_S
    with psycopg.connect(database, autocommit=True) as watch:
        while not waits(watch, pid):
            assert time.monotonic() < end_s, "it never waited"
            time.sleep(0.005)


# ---- one after another


def test_an_older_fence_is_refused_and_its_transaction_rolled_back(connection: Connection) -> None:
    """The effect stands once: the zombie's is gone with its transaction."""
    work(connection, SECOND)
    with pytest.raises(guard.Fenced, match=rf"fence {FIRST} is older than {SECOND}"):
        work_first(connection, FIRST)
    assert effects(connection) == [SECOND]
    assert kept(connection) == [(SESSION, SECOND)]


def test_the_same_fence_passes_again_and_other_sessions_do_not_matter(connection: Connection) -> None:
    for session, fence in ((SESSION, FIRST), (SESSION, FIRST), ("1.3.9", SECOND), (SESSION, FIRST)):
        work(connection, fence, session)
    assert effects(connection) == [FIRST, FIRST, SECOND, FIRST]


def test_the_largest_fence_fits(connection: Connection) -> None:
    """Term 2**31 - 1 and the last epoch; compared as numbers."""
    largest = (2**31 - 1) << 32 | (2**32 - 1)
    work(connection, largest)
    with pytest.raises(guard.Fenced):
        work(connection, largest - 1)
    assert kept(connection) == [(SESSION, largest)]


def test_a_refusal_leaves_the_transaction_to_its_owner(connection: Connection) -> None:
    """Fenced neither rolls back nor commits."""
    work(connection, SECOND)
    connection.commit()
    connection.execute("INSERT INTO effect (fence) VALUES (0)")
    with pytest.raises(guard.Fenced):
        guard.check(connection, SESSION, FIRST)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert effects(connection) == [SECOND, 0]
    connection.rollback()
    assert effects(connection) == [SECOND]


def test_a_fence_that_was_rolled_back_holds_nobody_off(connection: Connection) -> None:
    guard.check(connection, SESSION, SECOND)
    connection.rollback()
    work(connection, FIRST)
    assert effects(connection) == [FIRST]


# ---- the transaction that it stands in


def test_where_each_statement_commits_it_refuses_to_pretend(database: str) -> None:
    """An autocommit connection has no transaction that the effect is in; the message says what to do."""
    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(guard.NotInTransaction, match=r"with connection\.transaction\(\):"):
            guard.check(connection, SESSION, FIRST)
        assert kept(connection) == []
        with connection.pipeline():
            connection.execute("SELECT 1")
            with pytest.raises(guard.NotInTransaction):
                guard.check(connection, SESSION, FIRST)


def test_an_autocommit_connection_inside_a_transaction_is_fine(database: str) -> None:
    """With psycopg's block, by hand, and in a pipeline."""
    with psycopg.connect(database, autocommit=True) as connection:
        work(connection, FIRST)
        connection.execute("BEGIN")
        guard.check(connection, SESSION, FIRST)
        connection.execute("COMMIT")
        with connection.pipeline():
            work(connection, SECOND)
            with pytest.raises(guard.Fenced):
                work(connection, FIRST)
        assert effects(connection) == [FIRST, SECOND]


def test_in_a_failed_transaction_the_drivers_error_says_so(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM no_such_table")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        guard.check(connection, SESSION, FIRST)


@pytest.mark.parametrize("cursors", [psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor])
def test_the_users_rows_and_cursors_do_not_matter(database: str, cursors: type[psycopg.Cursor[object]]) -> None:
    """Rows as dicts, other placeholders: the guard has a cursor of its own."""
    with psycopg.connect(database, row_factory=dict_row, cursor_factory=cursors) as connection:
        guard.create(connection)
        with connection.transaction():
            guard.check(connection, SESSION, SECOND)
        with pytest.raises(guard.Fenced, match=rf"older than {SECOND}"), connection.transaction():
            guard.check(connection, SESSION, FIRST)
        assert guard.forget(connection, 60) == 0


# ---- two at once


def at_once(database: str, first: Callable[[Connection], None], fence: int, isolation: IsolationLevel) -> list[object]:
    """The transaction of `first` has checked SECOND and works; another one checks `fence` and waits for it, and is then
    judged. What that one read after its check; raises what it raised."""
    with psycopg.connect(database) as one, psycopg.connect(database) as two, ThreadPoolExecutor(1) as thread:
        two.isolation_level = isolation
        with suppress(ZeroDivisionError), one.transaction():
            guard.check(one, SESSION, SECOND)
            one.execute("INSERT INTO effect (fence) VALUES (%s)", (SECOND,))

            def other() -> list[object]:
                with two.transaction():
                    guard.check(two, SESSION, fence)
                    return effects(two)

            pid = two.info.backend_pid
            judged = thread.submit(other)
            wait_until_it_waits(database, pid)
            first(one)
        return judged.result(DEADLINE_S)


def commits(_: Connection) -> None:
    pass


def gives_up(_: Connection) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_of_two_at_once_the_older_waits_and_is_refused(database: str, *, known: bool) -> None:
    """Whether the session was here before or not: the row is locked until the transaction ends."""
    if known:
        with psycopg.connect(database) as connection:
            guard.check(connection, SESSION, FIRST)
    with pytest.raises(guard.Fenced):
        at_once(database, commits, FIRST, IsolationLevel.READ_COMMITTED)


def test_of_two_at_once_the_newer_waits_and_sees_what_the_older_did(database: str) -> None:
    """Either the successor sees the predecessor's work or the predecessor is refused: never neither."""
    assert at_once(database, commits, THIRD, IsolationLevel.READ_COMMITTED) == [SECOND]


@pytest.mark.parametrize("isolation", list(IsolationLevel))
def test_if_the_first_gives_up_the_other_is_judged_without_it(database: str, isolation: IsolationLevel) -> None:
    assert at_once(database, gives_up, FIRST, isolation) == []


@pytest.mark.parametrize("isolation", SNAPSHOTS)
@pytest.mark.parametrize("fence", [FIRST, THIRD])
def test_above_read_committed_the_other_has_to_begin_anew(
    database: str, isolation: IsolationLevel, fence: int
) -> None:
    """PostgreSQL's serialization failure, as for any two that write one row; nothing was done. Then it is judged."""
    with pytest.raises(psycopg.errors.SerializationFailure):
        at_once(database, commits, fence, isolation)
    with psycopg.connect(database) as again:
        again.isolation_level = isolation
        if fence == FIRST:
            with pytest.raises(guard.Fenced):
                work(again, fence)
        else:
            work(again, fence)
        assert effects(again) == [SECOND] if fence == FIRST else [SECOND, THIRD]


@pytest.mark.parametrize("isolation", SNAPSHOTS)
def test_a_snapshot_from_before_the_successor_lets_nothing_slip_through(
    database: str, isolation: IsolationLevel
) -> None:
    """A transaction that read first sees an old world; its guard still meets the new one."""
    with psycopg.connect(database) as stale, psycopg.connect(database) as successor:
        stale.isolation_level = isolation
        assert effects(stale) == []
        work(successor, SECOND)
        successor.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            guard.check(stale, SESSION, FIRST)
        stale.rollback()
        with pytest.raises(guard.Fenced):
            guard.check(stale, SESSION, FIRST)


@pytest.mark.parametrize("isolation", list(IsolationLevel))
def test_many_writers_at_once_never_let_an_older_one_in_after_a_newer(
    database: str, isolation: IsolationLevel
) -> None:
    """Under contention the fences let through never go down."""

    def writer(fences: range) -> None:
        with psycopg.connect(database, autocommit=True) as mine:
            mine.isolation_level = isolation
            for fence in fences:
                with suppress(guard.Fenced):
                    while True:
                        with suppress(psycopg.errors.SerializationFailure):
                            work(mine, fence)
                            break

    with ThreadPoolExecutor(3) as threads:
        for ended in [threads.submit(writer, range(1 + n, 120, 3)) for n in range(3)]:
            ended.result(DEADLINE_S)
    with psycopg.connect(database) as reader:
        order = [int(str(fence)) for fence in effects(reader)]
    assert order == sorted(order)
    assert order[-1] == 119


# ---- the table


def test_many_may_make_the_table_at_once(empty: str) -> None:
    """Services that start together: PostgreSQL's own IF NOT EXISTS fails for all but one of them."""

    def make(autocommit: bool) -> None:
        with psycopg.connect(empty, autocommit=autocommit) as mine:
            guard.create(mine)

    with ThreadPoolExecutor(8) as threads:
        for ended in [threads.submit(make, number % 2 == 0) for number in range(16)]:
            ended.result(DEADLINE_S)


def test_a_role_without_the_right_to_create_may_call_create_where_the_table_is(database: str) -> None:
    """And needs SELECT, INSERT, UPDATE on it, DELETE for `forget`: nothing else."""
    with psycopg.connect(database) as connection:
        connection.execute("CREATE ROLE service")
        try:
            connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON mpy6a_fence TO service")
            connection.execute("SET ROLE service")
            guard.create(connection)
            guard.check(connection, SESSION, FIRST)
            assert guard.forget(connection, 0) <= 1
        finally:
            connection.rollback()


def test_the_table_may_have_another_name_and_schema(connection: Connection) -> None:
    """Quoted, so that a reserved word and capitals are names as others; each table is a guard of its own."""
    connection.execute('CREATE SCHEMA "Orders"')
    for table in ("Orders.user", "select"):
        guard.create(connection, table=table)
        guard.create(connection, table=table)
        guard.check(connection, SESSION, SECOND, table=table)
        with pytest.raises(guard.Fenced):
            guard.check(connection, SESSION, FIRST, table=table)
    guard.check(connection, SESSION, FIRST)
    assert connection.execute('SELECT fence FROM "Orders"."user"').fetchall() == [(SECOND,)]


def age(connection: Connection, session: str, by_ms: int) -> None:
    connection.execute("UPDATE mpy6a_fence SET checked_ms = checked_ms - %s WHERE session = %s", (by_ms, session))


def test_forget_drops_what_was_not_checked_for_a_while(connection: Connection) -> None:
    """By the database's clock; the commit is the user's."""
    guard.check(connection, "1.3.1", FIRST)
    guard.check(connection, "1.3.2", FIRST)
    age(connection, "1.3.1", 90_000)
    age(connection, "1.3.2", 90_000)
    guard.check(connection, "1.3.2", FIRST)  # the same fence again: it is in use
    connection.commit()
    assert guard.forget(connection, 60) == 1
    connection.rollback()
    assert guard.forget(connection, 60) == 1
    assert guard.forget(connection, 60) == 0
    assert kept(connection) == [("1.3.2", FIRST)]


def test_forget_spares_what_is_checked_meanwhile(database: str) -> None:
    """It waits for the transaction that holds the row, and then sees that the fence is in use."""
    with psycopg.connect(database) as user, psycopg.connect(database) as pruner, ThreadPoolExecutor(1) as thread:
        guard.check(user, SESSION, FIRST)
        age(user, SESSION, 90_000)
        user.commit()
        with user.transaction():
            guard.check(user, SESSION, SECOND)
            forgotten = thread.submit(guard.forget, pruner, 60)
            wait_until_it_waits(database, pruner.info.backend_pid)
        assert forgotten.result(DEADLINE_S) == 0
        assert kept(user) == [(SESSION, SECOND)]


# ---- async


def awaited(database: str, story: Callable[[psycopg.AsyncConnection], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await asyncio.wait_for(story(connection), DEADLINE_S)

    asyncio.run(whole())


def test_async_refuses_as_the_blocking_one_does(database: str) -> None:
    """Table, transaction, fence and cleaning, over an AsyncConnection whose rows are dicts."""

    async def work_first(connection: psycopg.AsyncConnection) -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO effect (fence) VALUES (0)")
            await guard.acheck(connection, SESSION, FIRST)

    async def story(connection: psycopg.AsyncConnection) -> None:
        await guard.acreate(connection)
        await connection.commit()
        connection.row_factory = dict_row  # type: ignore[assignment]  # as a user who connects with it
        async with connection.transaction():
            await guard.acheck(connection, headers={"mpy6a-session": SESSION, "mpy6a-fence": str(SECOND)})
        with pytest.raises(guard.Fenced, match=rf"older than {SECOND}"):
            await work_first(connection)
        await connection.set_autocommit(True)
        with pytest.raises(guard.NotInTransaction, match="transaction"):
            await guard.acheck(connection, SESSION, THIRD)
        assert await guard.aforget(connection, 60) == 0
        assert await guard.aforget(connection, 0) <= 1

    awaited(database, story)
    with psycopg.connect(database) as reader:
        assert effects(reader) == []


def test_a_run_that_is_cancelled_while_it_waits_has_done_nothing(database: str) -> None:
    """As a fenced handler's task is: its transaction is rolled back, and nobody is held off by it."""

    async def story(connection: psycopg.AsyncConnection) -> None:
        async def handler() -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO effect (fence) VALUES (0)")
                await guard.acheck(connection, SESSION, THIRD)

        with psycopg.connect(database) as successor:
            guard.check(successor, SESSION, SECOND)
            task = asyncio.create_task(handler())
            await asyncio.to_thread(wait_until_it_waits, database, connection.info.backend_pid)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    awaited(database, story)
    with psycopg.connect(database) as reader:
        assert effects(reader) == []
        assert kept(reader) == [(SESSION, SECOND)]


def test_connections_go_to_the_functions_of_their_kind(connection: Connection, database: str) -> None:
    """An async connection is never half checked by a blocking call, nor the other way round."""

    async def story(mine: psycopg.AsyncConnection) -> None:
        with pytest.raises(BadRequest, match=r"await guard\.acheck"):
            guard.check(mine, SESSION, FIRST)  # type: ignore[arg-type]  # the mistake
        with pytest.raises(BadRequest, match=r"call guard\.forget with it"):
            await guard.aforget(connection, 0)  # type: ignore[arg-type]  # the mistake

    awaited(database, story)


# ---- docs/GUARD.md

OLD: Final = {"Mpy6a-Session": SESSION, "Mpy6a-Fence": str(FIRST)}
NEW: Final = {"Mpy6a-Session": SESSION, "Mpy6a-Fence": str(SECOND)}


@pytest.fixture
def told(empty: str) -> Iterator[tuple[dict[str, Any], Connection]]:
    """The names of docs/GUARD.md, and a connection to a database that was made as it says."""
    names: dict[str, Any] = {"guard": guard, "timedelta": timedelta}
    for text in SNIPPETS:
        exec(compile(text, "docs/GUARD.md", "exec"), names)
    [migration] = re.findall(r"^```sql\n(.*?)\n```$", TEXT, re.DOTALL | re.MULTILINE)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(migration.encode())
        connection.execute("CREATE TABLE payment (amount int)")
        yield names, connection


def test_the_lines_for_psycopg(told: tuple[dict[str, Any], Connection]) -> None:
    names, connection = told
    names["pay_postgres"](connection, NEW, 100)
    with pytest.raises(guard.Fenced):
        names["pay_postgres"](connection, OLD, 100)
    assert connection.execute("SELECT amount FROM payment").fetchall() == [(100,)]
    assert names["clean"](connection) == 0


def test_the_lines_for_async_psycopg(told: tuple[dict[str, Any], Connection], empty: str) -> None:
    names, connection = told

    async def story(mine: psycopg.AsyncConnection) -> None:
        await names["pay_async"](mine, NEW, 100)
        with pytest.raises(guard.Fenced):
            await names["pay_async"](mine, OLD, 100)

    awaited(empty, story)
    assert connection.execute("SELECT amount FROM payment").fetchall() == [(100,)]
