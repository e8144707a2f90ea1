"""One read-only statement over a checkpoint: bounded in time, rows and memory, and never in its writer's way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from mpy6a import limits
from mpy6a.checkpoint.asking import Answer, NoCheckpoint, StatementRefused, TooMuch, ask, tables
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.errors import DamagedLog
from tests.unit.checkpoint.samples import fill, header, some_rows, stored

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
ROW_BYTES = 4_096
ROWS = 200  # in one checkpoint: 0.8 MiB


def filled(directory: Path) -> Iterator[str]:
    file = CheckpointFile.open(str(directory), write=True)
    fill(file, some_rows())
    yield str(directory)
    file.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """For all who only ask."""
    yield from filled(tmp_path_factory.mktemp("asked"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[str]:
    """For who writes to it."""
    yield from filled(tmp_path)


def answer(directory: str, statement: str, rows: int = 1_000, timeout_ms: int = 5_000) -> Answer:
    return ask(directory, statement, rows, timeout_ms)


def refused(directory: str, statement: str) -> str:
    with pytest.raises(StatementRefused) as problem:
        answer(directory, statement)
    return str(problem.value)


def test_an_answer_tells_as_of_when(directory: str) -> None:
    """The header is of the same moment as the rows."""
    found = answer(directory, "SELECT id, kind, state FROM live WHERE idx IN (20, 300000) ORDER BY idx")
    assert found.columns == ["id", "kind", "state"]
    assert found.rows == [("7.3.20", "user-create", "STORED"), ("7.3.300000", "order", "STORED")]
    assert (found.header, found.more) == (header(), False)


def test_no_rows_have_columns_all_the_same(directory: str) -> None:
    """For the head of a table."""
    found = answer(directory, "SELECT id AS a, idx AS b FROM live WHERE 0")
    assert (found.columns, found.rows, found.more) == (["a", "b"], [], False)


def test_rows_are_bounded(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by their bytes: the rest is told, not read."""
    assert len(answer(directory, "SELECT * FROM live", rows=3).rows) == 3
    assert answer(directory, "SELECT * FROM live", rows=3).more
    assert not answer(directory, "SELECT idx FROM live", rows=12).more
    assert answer(directory, f"{ENDLESS} SELECT i FROM n", rows=5).rows == [(n,) for n in range(1, 6)]
    monkeypatch.setattr(limits, "SQL_BYTES_MAX", 10_000)
    found = answer(directory, "SELECT records FROM sessions WHERE idx = 300000 UNION ALL SELECT zeroblob(5000)")
    assert ([len(row[0]) for row in found.rows if isinstance(row[0], bytes)], found.more) == ([9_000], True)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO kinds VALUES (9, 'x')",
        "UPDATE sessions SET state = 4",
        "DELETE FROM sessions",
        "WITH a AS (SELECT 1) DELETE FROM sessions",
        "EXPLAIN DELETE FROM sessions",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "DROP TABLE sessions",
        "ALTER TABLE kinds ADD COLUMN x",
        "ATTACH '/tmp/mpy6a-of-a-test' AS x",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO '/tmp/mpy6a-of-a-test'",
        "REINDEX",
        "ANALYZE",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT x",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode",
        "PRAGMA wal_checkpoint",
        "PRAGMA query_only = 0",
        "PRAGMA user_version = 7",
        "PRAGMA incremental_vacuum(10)",
        "PRAGMA checksum_verification = 0",
        "PRAGMA mmap_size = 1000000000",
        "PRAGMA cache_size = 1000000000",
        "PRAGMA hard_heap_limit = 0",
        "SELECT load_extension('x')",
    ],
)
def test_what_would_change_anything_is_refused(directory: str, statement: str) -> None:
    """Not by its text: by what SQLite says that it would do. The file is as it was."""
    before = {name: Path(directory, name).read_bytes() for name in ("checkpoint.db", "checkpoint.db-wal")}
    said = refused(directory, statement)
    assert "reads, and nothing else" in said
    assert {name: Path(directory, name).read_bytes() for name in before} == before
    assert not os.path.exists("/tmp/mpy6a-of-a-test")


@pytest.mark.parametrize(
    "statement",
    ["PRAGMA table_info(live)", "PRAGMA index_list(sessions)", "PRAGMA user_version", "PRAGMA page_count",
     "EXPLAIN QUERY PLAN SELECT * FROM live", "SELECT name FROM pragma_table_info('live')", "VALUES (1)",
     "SELECT count(*) FROM sqlite_schema", "SELECT json_extract('[7]', '$[0]')", "SELECT sum(pgsize) FROM dbstat"],
)  # fmt: skip
def test_what_reads_is_answered(directory: str, statement: str) -> None:
    """What helps to look: the schema, plans, sizes."""
    assert answer(directory, statement).rows


def test_one_statement_at_a_time(directory: str) -> None:
    """Nothing of several runs; comments and semicolons are none."""
    assert refused(directory, "SELECT 1; SELECT 2") == "one statement at a time: 'SELECT 2' begins another one"
    assert "'nonsense'" in refused(directory, "SELECT 1; nonsense")
    assert "no statement" in refused(directory, "")
    assert "no statement" in refused(directory, "  -- nothing")
    for statement in ("SELECT 1;", "SELECT 1 -- one", "/* a */ SELECT 1;; -- b", "SELECT ';' IS NOT NULL"):
        assert answer(directory, statement).rows == [(1,)]


def test_what_is_not_understood_is_told_with_the_place(directory: str) -> None:
    """What SQLite says, and the text near it."""
    assert refused(directory, "SELECT * FORM live") == 'near "FORM": syntax error'
    assert refused(directory, "SELECT 'é', foo FROM live") == "no such column: foo, near 'foo FROM live'"
    assert refused(directory, "SELECT * FROM nowhere").startswith("no such table: nowhere")
    assert "unrecognized token" in refused(directory, "SELECT 'a")
    assert "place for a value" in refused(directory, "SELECT ?")
    assert "place for a value" in refused(directory, "SELECT :name")
    assert refused(directory, "SELECT json('{')") == "malformed JSON"


def test_time_is_bounded(directory: str) -> None:
    """Of one long step, and of many rows."""
    with pytest.raises(TooMuch, match=r"stopped after 0.05 s: ask for less"):
        answer(directory, f"{ENDLESS} SELECT count(*) FROM n", timeout_ms=50)
    with pytest.raises(TooMuch, match="stopped"):
        answer(directory, f"{ENDLESS} SELECT i FROM n", rows=10_000_000, timeout_ms=50)


def test_time_is_bounded_where_sqlite_looks_at_no_clock(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting a table is one step of its machine: then an interrupt from outside ends it."""
    monkeypatch.setattr("mpy6a.checkpoint.guarding.Guard.is_over", property(lambda guard: False))
    with pytest.raises(TooMuch, match="stopped"):
        answer(directory, f"{ENDLESS} SELECT count(*) FROM n", timeout_ms=50)


def test_memory_is_bounded(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one value, and of what is sorted; and it is given back."""
    with pytest.raises(TooMuch, match="value of more than 33 MiB"):
        answer(directory, "SELECT zeroblob(100000000)")
    monkeypatch.setattr(limits, "SQL_MEMORY_BYTES", 8 * limits.MIB)
    before = apsw.hard_heap_limit(-1)
    with pytest.raises(TooMuch, match="8 MiB of memory"):
        answer(directory, f"{ENDLESS} SELECT i, hex(randomblob(200)) FROM n WHERE i < 100000 ORDER BY 2")
    assert apsw.hard_heap_limit(-1) == before


def test_who_does_not_notice_that_time_is_over_is_told_of(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller then ends its process: that ends the transaction."""
    monkeypatch.setattr(limits, "SQL_STUCK_MS", 20)
    told = threading.Event()
    inside = threading.Event()

    class Deaf(apsw.Connection):
        def interrupt(self) -> None:
            inside.set()

    monkeypatch.setattr("mpy6a.checkpoint.guarding.Guard.is_over", property(lambda guard: told.is_set()))
    monkeypatch.setattr("mpy6a.checkpoint.connecting.apsw.Connection", Deaf)
    with pytest.raises(TooMuch):
        ask(directory, f"{ENDLESS} SELECT count(*) FROM n", 1, 20, told.set)
    assert inside.is_set()


def test_nothing_is_filed_yet(tmp_path: Path) -> None:
    """It is said, and nothing is made."""
    with pytest.raises(NoCheckpoint, match="sessions list"):
        answer(str(tmp_path), "SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_damage_is_no_answer(own: str) -> None:
    """A page with a flipped bit ends the statement."""
    path = Path(own, "checkpoint.db")
    data = bytearray(path.read_bytes())
    for at in range(4 * 4_096, len(data), 4_096):
        data[at + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedLog, match="checksum of a page"):
        answer(own, "SELECT * FROM sessions")


def test_ctrl_z_waits_for_the_end_of_the_statement(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that sleeps in a transaction would keep the journal from being emptied for as long."""
    seen: list[bool] = []
    begin = CheckpointFile.header

    def looked(file: CheckpointFile) -> object:
        seen.append(signal.SIGTSTP in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return begin(file)

    monkeypatch.setattr(CheckpointFile, "header", looked)
    answer(directory, "SELECT 1")
    assert seen[-1]
    assert signal.SIGTSTP not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_tables_need_no_file() -> None:
    """The two for people first."""
    found = tables()
    assert list(found)[:2] == ["live", "sessions"]
    assert found["kinds"] == ["id", "name"]
    assert "due" in found["live"]


# ---------------------------------------------------------------------- beside a writer


def checkpoint(file: CheckpointFile, number: int) -> int:
    """One more checkpoint; size of the journal when it is over."""
    with file.transaction():
        file.put_sessions(
            (stored(1_000 * number + n, record=bytes(ROW_BYTES)), [bytes(ROW_BYTES)]) for n in range(ROWS)
        )
    file.settle()
    return os.path.getsize(f"{file.path}-wal")


def test_readers_do_not_make_the_journal_grow(own: str) -> None:
    """While statements that take all their time follow each other, each checkpoint finds its journal empty again."""
    writer = CheckpointFile.open(own, write=True)
    stop, asked = threading.Event(), threading.Semaphore(0)

    def read() -> None:
        while not stop.is_set():
            with pytest.raises(TooMuch):
                answer(own, f"{ENDLESS} SELECT count(*) FROM n, sessions", timeout_ms=60)
            asked.release()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        sizes = []
        for number in range(1, 9):
            assert asked.acquire(timeout=10)
            sizes.append(checkpoint(writer, number))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
        writer.close()
    assert sizes == [0] * 8


def test_a_reader_that_stands_does(own: str) -> None:
    """What the test above measures, where it goes wrong: a transaction that stays open."""
    writer = CheckpointFile.open(own, write=True)
    writer.connection().set_busy_timeout(1)
    standing = apsw.Connection(f"{own}/checkpoint.db", vfs="cksmvfs", flags=apsw.SQLITE_OPEN_READONLY)
    standing.execute("BEGIN")
    standing.execute("SELECT count(*) FROM sessions").fetchall()
    sizes = [checkpoint(writer, number) for number in range(1, 4)]
    standing.close()
    assert sizes[2] >= 3 * ROWS * ROW_BYTES
    assert sizes[0] < sizes[1] < sizes[2]
    assert checkpoint(writer, 4) == 0
    writer.close()
