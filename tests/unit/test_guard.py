"""The guard keeps a fenced-off predecessor out of the user's own database."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from mpy6a import guard
from mpy6a.errors import BadRequest, Refused

SESSION = "1.3.48213"
FIRST = 3 << 32 | 1
SECOND = 3 << 32 | 2


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users.db"
    with closing(connect(path)) as connection, transaction(connection):
        guard.create(connection)
        connection.execute("CREATE TABLE user (nickname TEXT)")
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        yield connection


def create_user(connection: sqlite3.Connection, fence: int, nickname: str) -> None:
    """What a service does for one request: guard and work in one transaction."""
    with transaction(connection):
        guard.check(connection, SESSION, fence)
        connection.execute("INSERT INTO user VALUES (?)", (nickname,))


def users(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT nickname FROM user")]


def test_a_paused_predecessor_cannot_write_after_its_successor_looked(path: Path) -> None:
    """The zombie: epoch 1 hangs before its create, epoch 2 looks and finds nothing: the create is refused."""
    with closing(connect(path)) as zombie, closing(connect(path)) as successor:
        with transaction(successor):
            guard.check(successor, SESSION, SECOND)
            assert users(successor) == []
        with pytest.raises(guard.Fenced, match=rf"fence {FIRST} is older than {SECOND}"):
            create_user(zombie, FIRST, "late")
        assert users(successor) == []


def test_a_write_before_the_successor_looks_is_seen_by_it(path: Path) -> None:
    """Either the successor sees the predecessor's work or the predecessor is refused: never neither."""
    with closing(connect(path)) as predecessor, closing(connect(path)) as successor:
        create_user(predecessor, FIRST, "in time")
        with transaction(successor):
            guard.check(successor, SESSION, SECOND)
            assert users(successor) == ["in time"]


def test_the_same_fence_passes_again_and_other_sessions_do_not_matter(connection: sqlite3.Connection) -> None:
    """A writer may come as often as it likes; another session's newer fence is no matter of its."""
    for session, fence in ((SESSION, FIRST), (SESSION, FIRST), ("1.3.9", SECOND), (SESSION, FIRST)):
        with transaction(connection):
            guard.check(connection, session, fence)


def test_a_newer_term_wins_over_any_epoch_of_an_older_one(connection: sqlite3.Connection) -> None:
    """The largest fence there can be fits the column and is compared as a number."""
    largest = (2**31 - 1) << 32 | (2**32 - 1)
    with transaction(connection):
        guard.check(connection, SESSION, 1 << 32 | 0xFFFF_FFFF)
        guard.check(connection, SESSION, 2 << 32 | 1)
        guard.check(connection, SESSION, largest)
    with pytest.raises(guard.Fenced), transaction(connection):
        guard.check(connection, SESSION, largest - 1)


def test_a_fence_that_was_rolled_back_holds_nobody_off(connection: sqlite3.Connection) -> None:
    """The guard never commits: what the user's transaction gives up, it gives up."""
    connection.execute("BEGIN IMMEDIATE")
    guard.check(connection, SESSION, SECOND)
    assert connection.in_transaction
    connection.rollback()
    with transaction(connection):
        guard.check(connection, SESSION, FIRST)


def test_a_refusal_leaves_the_transaction_to_its_owner(connection: sqlite3.Connection) -> None:
    """Fenced neither rolls back nor commits: the user decides."""
    with transaction(connection):
        guard.check(connection, SESSION, SECOND)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(guard.Fenced):
        guard.check(connection, SESSION, FIRST)
    assert connection.in_transaction
    connection.rollback()


def test_outside_a_transaction_it_refuses_to_pretend(connection: sqlite3.Connection) -> None:
    """Without a transaction the check would protect nothing, so it says what to do."""
    with pytest.raises(guard.NotInTransaction, match="BEGIN IMMEDIATE"):
        guard.check(connection, SESSION, FIRST)
    assert connection.execute("SELECT count(*) FROM mpy6a_fence").fetchone() == (0,)


def test_of_two_connections_at_once_the_second_waits_and_is_judged_by_the_first(path: Path) -> None:
    """The check holds the write lock until the commit: two writers cannot both be the newest."""
    checked, go_on = threading.Event(), threading.Event()
    refused: list[Refused] = []

    def successor() -> None:
        with closing(connect(path)) as mine, transaction(mine):
            guard.check(mine, SESSION, SECOND)
            checked.set()
            assert go_on.wait(5)

    def predecessor() -> None:
        assert checked.wait(5)
        with closing(connect(path)) as mine:
            mine.execute("PRAGMA busy_timeout = 0")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                mine.execute("BEGIN IMMEDIATE")
            mine.execute("PRAGMA busy_timeout = 5000")
            go_on.set()
            try:
                with transaction(mine):
                    guard.check(mine, SESSION, FIRST)
            except guard.Fenced as fenced:
                refused.append(fenced)

    threads = [threading.Thread(target=successor), threading.Thread(target=predecessor)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert len(refused) == 1


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_many_writers_at_once_never_let_an_older_one_in_after_a_newer(path: Path, journal_mode: str) -> None:
    """Under contention the fences let through, in commit order, never go down."""
    with closing(connect(path)) as setup:
        setup.execute(f"PRAGMA journal_mode = {journal_mode}")

    def writer(fences: range) -> None:
        with closing(connect(path)) as mine:
            mine.execute("PRAGMA synchronous = OFF")
            for fence in fences:
                with suppress(guard.Fenced):
                    create_user(mine, fence, str(fence))

    with ThreadPoolExecutor(3) as threads:
        for ended in [threads.submit(writer, range(1 + n, 120, 3)) for n in range(3)]:
            ended.result(20)
    with closing(connect(path)) as reader:
        order = [int(name) for name in users(reader)]
    assert order == sorted(order)
    assert order[-1] == 119


def test_a_transaction_that_began_by_reading_is_safe_too(path: Path) -> None:
    """With a deferred BEGIN and a stale snapshot SQLite refuses the guard's write: nothing slips through."""
    with closing(connect(path)) as setup:
        setup.execute("PRAGMA journal_mode = wal")
    with closing(connect(path)) as stale, closing(connect(path)) as successor:
        stale.execute("BEGIN")
        assert users(stale) == []
        with transaction(successor):
            guard.check(successor, SESSION, SECOND)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            guard.check(stale, SESSION, FIRST)
        stale.rollback()


def test_headers_in_any_case_stand_for_session_and_fence(connection: sqlite3.Connection) -> None:
    """A request's headers can be handed over as they came."""
    with transaction(connection):
        guard.check(connection, headers={"mpy6a-session": SESSION, "MPY6A-FENCE": f" {SECOND} ", "X": "y"})
    with pytest.raises(guard.Fenced), transaction(connection):
        guard.check(connection, headers={"Mpy6a-Session": SESSION, "Mpy6a-Fence": str(FIRST)})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Mpy6a-Session": SESSION},
        {"Mpy6a-Fence": "7"},
        {"Mpy6a-Session": "", "Mpy6a-Fence": "7"},
        {"Mpy6a-Session": SESSION, "Mpy6a-Fence": "-7"},
        {"Mpy6a-Session": SESSION, "Mpy6a-Fence": "7.0"},
        {"Mpy6a-Session": SESSION, "Mpy6a-Fence": "٧"},
        {"Mpy6a-Session": SESSION, "Mpy6a-Fence": "0"},
        {"Mpy6a-Session": SESSION, "Mpy6a-Fence": str(2**63)},
        {"Mpy6a-Session": SESSION, "Mpy6a-Fence": "9" * 5000},
        {"Mpy6a-Session": "x" * 65, "Mpy6a-Fence": "7"},
    ],
)
def test_missing_or_malformed_headers_are_never_waved_through(
    connection: sqlite3.Connection, headers: dict[str, str]
) -> None:
    """A fence that cannot be read is refused, not ignored."""
    with pytest.raises(BadRequest), transaction(connection):
        guard.check(connection, headers=headers)


def test_session_and_headers_together_are_refused(connection: sqlite3.Connection) -> None:
    """Two statements of one thing are one too many."""
    with pytest.raises(BadRequest, match="not both"):
        guard.check(connection, SESSION, FIRST, headers={})


def test_forget_drops_what_was_not_checked_for_a_while(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaning up takes old fences only, and leaves the commit to the user."""
    clock = [1_000_000]
    monkeypatch.setattr(guard, "_now_ms", lambda: clock[0])
    with transaction(connection):
        guard.check(connection, "1.3.1", FIRST)
        guard.check(connection, "1.3.2", FIRST)
        clock[0] += 60_000
        guard.check(connection, "1.3.2", FIRST)
    clock[0] += 30_000
    connection.execute("BEGIN IMMEDIATE")
    assert guard.forget(connection, timedelta(minutes=1)) == 1
    connection.rollback()
    with transaction(connection):
        assert guard.forget(connection, 60.0) == 1
    assert connection.execute("SELECT session FROM mpy6a_fence").fetchall() == [("1.3.2",)]
    with pytest.raises(BadRequest):
        guard.forget(connection, -1)


def test_create_is_harmless_when_the_table_is_there(connection: sqlite3.Connection) -> None:
    """A service may call it at every start."""
    with transaction(connection):
        guard.check(connection, SESSION, SECOND)
        guard.create(connection)
    assert connection.execute("SELECT count(*) FROM mpy6a_fence").fetchone() == (1,)
