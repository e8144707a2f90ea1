"""The file of a checkpoint: what was put is read, all of a transaction or nothing, and by whom it may be read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from mpy6a import limits
from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.damage import DamagedRow
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.tables import PAGE_BYTES
from mpy6a.errors import DamagedLog, DiskFailed, DiskFull, FormatVersion
from mpy6a.filed import Filed
from mpy6a.model import Extra
from mpy6a.requests import Client, Outcome
from mpy6a.session import OPEN, PARKED, REPEATING, STORED, Delivery

from .samples import NEVER, READS, Memory, fill, header, slots, some_rows, stored


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A place in memory for one file."""
    with closing(Memory()) as found:
        yield found


@pytest.fixture
def file(memory: Memory) -> Iterator[CheckpointFile]:
    """An empty checkpoint in memory, for writing."""
    with closing(CheckpointFile.open("", write=True, connect=memory)) as found:
        yield found


def test_it_is_what_the_core_asks_for(file: CheckpointFile) -> None:
    """The reading side is the core's port."""
    port: Filed = file
    assert port.page(0, 10) == []


# ------------------------------------------------------------------ reading


def test_a_session_is_found_by_its_index(file: CheckpointFile) -> None:
    """One or several, big and small; a row that should be there and is not is damage."""
    rows = some_rows()
    fill(file, rows)
    for session, records in rows:
        assert slots(file.load(session.index)) == slots(session)
        assert list(file.records(session.index).values()) == records
    wanted = [session.index for session, _ in rows]
    assert sorted(session.index for session in file.load_many(wanted + wanted)) == sorted(wanted)
    assert file.load_many([]) == []
    with pytest.raises(DamagedLog, match="table sessions, row 21: the row is missing"):
        file.load(21)
    with pytest.raises(DamagedLog, match="row 21: the row is missing"):
        file.load_many([20, 21])
    with pytest.raises(DamagedLog, match="row 21: the row is missing"):
        file.records(21)


def test_many_more_than_one_statement_reads(file: CheckpointFile) -> None:
    """A list of any length is read in statements of a bounded one."""
    many = 2 * limits.LOAD_ROWS_MAX + 1
    fill(file, [(stored(index), [b"data"]) for index in range(1, many + 1)])
    assert len(file.load_many(range(1, many + 1))) == many


def test_the_sweep_goes_in_the_order_of_dispatch(file: CheckpointFile) -> None:
    """(due_ms, stored_index), from behind the last one on, a bounded number, one kind."""
    due = [(1_000, 30), (1_000, 10), (900, 50), (2_000, 20), (1_500, 40)]
    rows = [stored(index, due_ms) for due_ms, index in due]
    paused, parked, other, opened = stored(60, 10), stored(61, 10), stored(62, 10, kind=2), stored(63, 10)
    paused.delivery = Delivery()
    paused.delivery.paused = True
    parked.state, opened.state = PARKED, OPEN
    fill(file, [(session, [b"data"]) for session in (*rows, paused, parked, other, opened)])
    order = [(due_ms, index + 1) for due_ms, index in sorted(due)]
    for most in (1, 2, 5, 10):
        after, seen = NEVER, []
        while window := file.due(1, after, 10_000, most):
            assert len(window) <= most
            for session in window:
                after = (session.due_ms, session.stored_index)
                seen.append(after)
        assert seen == order
    assert [session.due_ms for session in file.due(1, NEVER, 1_000, 10)] == [900, 1_000, 1_000]
    assert file.due(1, NEVER, 899, 10) == []
    assert [file.next_due(1, after) for after in (NEVER, *order)] == [900, 1_000, 1_000, 1_500, 2_000, None]
    assert file.next_due(3, NEVER) is None


def test_a_key_is_found_in_its_kind(file: CheckpointFile) -> None:
    """The same key in another kind is another session; text is compared byte by byte."""
    rows = [stored(10, key="a"), stored(11, key="b"), stored(12, kind=2, key="a"), stored(13, key="a\0b"), stored(14)]
    fill(file, [(session, [b"data"]) for session in rows])
    assert [file.key(1, key) for key in ("a", "b", "a\0b", "A", "")] == [10, 11, 13, 0, 0]
    assert (file.key(2, "a"), file.key(2, "b")) == (12, 0)


def test_a_page_is_in_the_order_of_indexes(file: CheckpointFile) -> None:
    """All rows once, a bounded number at a time."""
    rows = some_rows()
    fill(file, rows)
    after, seen = 0, []
    while page := file.page(after, 3):
        after = page[-1].index
        seen += [session.index for session in page]
    assert seen == [session.index for session, _ in rows]
    assert [session.state for session in file.held()] == [OPEN, REPEATING]


def test_the_smaller_tables_say_what_was_put(file: CheckpointFile) -> None:
    """Header, filter, counts, terms, pauses, clients by their last frame, traces."""
    rows = some_rows()
    fill(file, rows)
    assert file.header() == header()
    assert list(file.filter()) == [session.index for session, _ in rows]
    assert file.counts() == {1 << 3 | STORED: 8, 1 << 3 | OPEN: 1, 1 << 3 | REPEATING: 1, 1 << 3 | PARKED: 1, 18: 1}
    assert file.terms() == [(1, 1), (3, 10)]
    assert file.pauses() == {2: (0, "operator", "too loud")}
    assert [name[:1] for name, _ in file.clients()] == [b"\x01", b"\x02"]
    assert dict(file.clients())[b"\x02" * 16].outcomes == {5: Outcome(0, 17, 3), 8: Outcome(9, 18, 3, STORED)}
    assert (file.trace(3, 55), file.trace(3, 56), file.trace(2, 55)) == ((2, 4_500), (4, 4_600), None)
    assert list(file.traces()) == [(3, 55, 2, 4_500), (3, 56, 4, 4_600)]
    assert (header().position, file.count("terms")) == (1 << 32 | 9_000, 2)


def test_clients_of_one_moment_are_all_read(file: CheckpointFile) -> None:
    """Reading goes on behind the last one read, not behind its time."""
    clients = {number.to_bytes(16): Client() for number in range(200)}
    with file.transaction():
        file.put_clients(clients.items())
    assert [name for name, _ in file.clients()] == list(clients)


# ------------------------------------------------------------------ records read with their rows


def test_records_of_what_was_just_read_cost_no_second_query(file: CheckpointFile) -> None:
    """A push follows its sweep: the records came along, up to a bound; big ones are read when asked for."""
    fill(file, some_rows())
    statements: list[str] = []

    def trace(cursor: apsw.Cursor, sql: str, bindings: apsw.Bindings | None) -> bool:
        statements.append(sql)
        return True

    file.connection().set_exec_trace(trace)
    due = file.due(1, NEVER, 1 << 50, 100)
    assert len(statements) == 1
    for session in due:
        assert list(file.records(session.index).values()) == [b"data"]
    assert len(statements) == 1
    file.load(300_000)
    assert list(file.records(300_000).values()) == [bytes(9_000)]
    assert len(statements) == 3


def test_what_is_kept_of_rows_is_bounded(file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions without a record count as well."""
    monkeypatch.setattr(limits, "SWEEP_RECORDS_BYTES_MAX", 10_000)
    empty = [stored(index, record=b"") for index in range(1, 200)]
    fill(file, [(session, [b""]) for session in empty])
    for session in file.due(1, NEVER, 1 << 50, 1_000):
        file.load(session.index)
    assert 10 < len(file._recent) < 40
    for session in empty:
        assert list(file.records(session.index).values()) == [b""]
    assert (file._recent, file._recent_bytes) == ({}, 0)


def test_a_record_that_the_row_got_later_is_read_then(memory: Memory, file: CheckpointFile) -> None:
    """What was read before a checkpoint does not hide what the checkpoint added."""
    fill(file, some_rows())
    with closing(CheckpointFile.open("", connect=memory)) as reader:
        session = reader.load(20)
        old, new = session.records[0], session.records[0] + (1 << 70)
        session.records = [old, new]
        session.size *= 2
        with file.transaction():
            file.put_sessions([(session, [b"data", b"more"])])
        records = reader.records(20)
        assert (records[old], records[new]) == (b"data", b"more")
        with pytest.raises(KeyError):
            reader.records(20)[1]


# ------------------------------------------------------------------ writing


def test_a_transaction_that_fails_leaves_nothing(file: CheckpointFile) -> None:
    """Whatever the reason: the file says what it said."""
    fill(file, some_rows())
    before = {name: read(file) for name, read in READS.items()}

    def half() -> None:
        with file.transaction():
            file.delete_sessions([20])
            file.put_sessions([(stored(99), [b"data"])])
            file.put_header(header(200))
            raise RuntimeError("the caller gave up")

    with pytest.raises(RuntimeError):
        half()
    with pytest.raises(ValueError, match="other records"), file.transaction():
        file.put_sessions([(stored(99), [b"data"]), (stored(100), [])])
    assert {name: read(file) for name, read in READS.items()} == before
    assert file.verify() == []


def test_rows_are_replaced_and_go(file: CheckpointFile) -> None:
    """A session has one row, a table what it is told; what nobody needs to know is forgotten by its time."""
    fill(file, some_rows())
    with file.transaction():
        file.put_sessions([(stored(20, due_ms=77, key="new", record=b"other"), [b"other"])])
        file.delete_sessions([25, 26])
        file.put_filter([(0, b""), (4, b"\1" * 8192)])
        file.put_counts({1 << 3 | STORED: 0, 9: 5})
        file.put_pauses({})
        file.forget_clients(4_001)
        file.forget_traces(4_500)
    assert file.load(20).due_ms == 77
    assert list(file.records(20).values()) == [b"other"]
    assert (file.key(1, "new"), file.key(1, "a")) == (20, 0)
    assert file.filter().shards() == [4]
    assert (file.counts(), file.pauses()) == ({9: 5}, {})
    assert [name[:1] for name, _ in file.clients()] == [b"\2"]
    assert list(file.traces()) == [(3, 56, 4, 4_600)]


def test_verify_finds_tables_that_do_not_agree(file: CheckpointFile) -> None:
    """Rows without a bit, bits without a row, wrong sums: what a page that was never written leaves."""
    fill(file, some_rows())
    done: list[tuple[int, int]] = []
    assert file.verify(lambda rows, total: done.append((rows, total))) == []
    assert done[-1] == (12, 12)
    for sql, what in (
        ("DELETE FROM sessions WHERE idx = 25", "table sessions, row 25: the row is missing"),
        ("DELETE FROM sessions WHERE idx = 300000", "table sessions, row 300000: the row is missing"),
        ("DELETE FROM filter WHERE shard = 4", "it does not name row 300000"),
        ("DELETE FROM counts WHERE kind = 2", "table counts: they are not those of the rows"),
        ("DELETE FROM pauses", "table pauses: 0 rows, 1 were written"),
        ("UPDATE terms SET first_index = 11 WHERE term = 3", "table terms, row 3: its checksum is wrong"),
        ("UPDATE traces SET epoch = 3 WHERE idx = 55", "table traces, row 55: its checksum is wrong"),
        ("UPDATE sessions SET due_ms = 1 WHERE idx = 30", "table sessions, row 30: its checksum is wrong"),
        ("UPDATE sessions SET records = 'dat!' WHERE idx = 30", "row 30"),
        ("UPDATE sessions SET records = CAST('dat!' AS BLOB) WHERE idx = 30", "the checksum of its records is wrong"),
        ("UPDATE checkpoint SET log_ms = 1", "table checkpoint, row 1: its checksum is wrong"),
    ):
        connection = file.connection()
        connection.execute("BEGIN")
        try:
            connection.execute(sql)
        except apsw.ConstraintError:
            assert "'dat!'" in sql, "a column of a STRICT table takes no other type"
        else:
            assert any(what in str(found) for found in file.verify()), sql
        connection.execute("ROLLBACK")
    assert file.verify() == []


def test_verify_names_every_damaged_row(file: CheckpointFile) -> None:
    """Not only the first: an operator wants to know what is lost."""
    fill(file, some_rows())
    file.connection().execute("UPDATE sessions SET change = change + 1 WHERE idx IN (25, 300000)")
    assert [(found.table, found.index) for found in file.verify()] == [("sessions", 25), ("sessions", 300_000)]


# ------------------------------------------------------------------ on a disk


def test_nothing_to_read_yet(tmp_path: Path) -> None:
    """A pipe without a checkpoint has none to read, and makes no file; it sees the one that is made later."""
    with closing(CheckpointFile.open(str(tmp_path))) as reader:
        assert reader.header() is None
        assert reader.verify() == []
        assert os.listdir(tmp_path) == []
        with pytest.raises(DamagedLog, match="there is no such file"):
            reader.load(1)
        with closing(CheckpointFile.open(str(tmp_path), write=True)) as writer:
            assert writer.header() is None
            assert reader.header() is None
            fill(writer, some_rows())
        assert reader.header() == header()
        assert slots(reader.load(20)) == slots(stored(20, due_ms=1_006))


def test_a_file_that_is_there_is_whole(tmp_path: Path) -> None:
    """What a process left that was killed while it made one is removed."""
    for left in ("", "-journal", "-wal"):
        (tmp_path / f"{FILE_NAME}.new{left}").write_bytes(b"half of it")
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, some_rows())
        assert file.verify() == []
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_the_file_and_its_journal_are_their_owners(tmp_path: Path) -> None:
    """Records are nobody else's to read, as those in the log."""
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, some_rows())
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}
        assert modes == {FILE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600, f"{FILE_NAME}-shm": 0o600}


def test_a_commit_is_in_the_file_once_it_is_settled(tmp_path: Path) -> None:
    """And in SQLite's journal until then: a reader sees it at once in either place."""
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file, closing(
        CheckpointFile.open(str(tmp_path))
    ) as reader:
        fill(file, some_rows())
        size = (tmp_path / FILE_NAME).stat().st_size
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size == 0
        with file.transaction():
            file.put_sessions([(stored(index), [b"data"]) for index in range(1_000, 1_100)])
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size > 0
        assert len(reader.page(999, 200)) == 101
        assert file.settle()
        assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size == 0
        assert (tmp_path / FILE_NAME).stat().st_size > size
        assert len(reader.page(999, 200)) == 101


def test_a_reader_that_stands_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit holds; the journal is emptied when the reader has gone, which is waited for once and no more."""
    monkeypatch.setattr(limits, "CHECKPOINT_LOCK_MS", 20)
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, some_rows())
        # As the shell would: without the layer of page checksums. Not the sqlite3 module: a second SQLite in one
        # process does not see the locks of the first.
        with closing(apsw.Connection(str(tmp_path / FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)) as stranger:
            rows = stranger.execute("SELECT id, kind, state, due FROM live")
            assert next(rows) == ("7.3.20", "user-create", "STORED", "1970-01-01T00:00:01.006Z")
            with file.transaction():
                file.delete_sessions([20])
            waits: list[int] = []

            def trace(cursor: apsw.Cursor, sql: str, bindings: apsw.Bindings | None) -> bool:
                if "wal_checkpoint" in sql:
                    waits.append(int(cursor.connection.pragma("busy_timeout")))
                return True

            file.connection().set_exec_trace(trace)
            assert [file.settle() for _ in range(3)] == [False] * 3
            assert waits == [20, limits.CHECKPOINT_READER_MS, limits.CHECKPOINT_READER_MS]
            assert len(rows.fetchall()) == 11  # it reads on in what it began with
        assert file.settle()
        assert file.page(0, 1)[0].index == 25


def test_a_second_writer_is_told_that_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that the disk failed."""
    monkeypatch.setattr(limits, "CHECKPOINT_LOCK_MS", 10)
    with (
        closing(CheckpointFile.open(str(tmp_path), write=True)) as first,
        closing(CheckpointFile.open(str(tmp_path), write=True)) as second,
    ):

        def write() -> None:
            with second.transaction():
                second.delete_sessions([1])

        with first.transaction(), pytest.raises(DiskFailed, match="another process holds it"):
            write()
        write()


def test_the_loop_can_never_write(tmp_path: Path) -> None:
    """A file opened for reading takes nothing."""
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as writer:
        fill(writer, some_rows())
    with closing(CheckpointFile.open(str(tmp_path))) as reader:
        with pytest.raises(DiskFailed, match="readonly"), reader.transaction():
            reader.delete_sessions([20])
        assert reader.load(20).index == 20


@pytest.mark.parametrize("pages", [0, 3, 10, 30])
def test_a_full_disk_changes_nothing(tmp_path: Path, pages: int) -> None:
    """No room, wherever in the transaction: the file says what it said, and takes the same again with room."""
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, some_rows())
        before = {name: read(file) for name, read in READS.items()}
        more = [(stored(index, record=bytes(2_000)), [bytes(2_000)]) for index in range(1_000, 1_100)]
        used = file.connection().pragma("page_count")
        file.connection().pragma("max_page_count", used + pages)

        def put() -> None:
            with file.transaction():
                file.delete_sessions([20])
                file.put_sessions(more)

        with pytest.raises(DiskFull, match="make room"):
            put()
        assert {name: read(file) for name, read in READS.items()} == before
        file.connection().pragma("max_page_count", 1_000_000)
        put()
        assert len(file.page(999, 200)) == 101


def test_space_of_finished_sessions_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In slices, down to what the next checkpoints will need anyway."""
    monkeypatch.setattr(limits, "CHECKPOINT_SLACK_BYTES", 40 * PAGE_BYTES)
    monkeypatch.setattr(limits, "CHECKPOINT_SHRINK_BYTES", 100 * PAGE_BYTES)
    path = tmp_path / FILE_NAME
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, [(stored(index, record=bytes(3_000)), [bytes(3_000)]) for index in range(1, 501)])
        full = path.stat().st_size
        with file.transaction():
            file.delete_sessions(range(1, 480))
            file.shrink()
        assert file.settle()
        assert path.stat().st_size == full - 100 * PAGE_BYTES
        for _ in range(10):
            with file.transaction():
                file.shrink()
            assert file.settle()
        assert path.stat().st_size < full // 5
        assert len(file.page(0, 100)) == 21
        assert file.connection().pragma("integrity_check") == "ok"


# ------------------------------------------------------------------ other files


def test_a_newer_file_is_refused_by_its_number(tmp_path: Path) -> None:
    """Neither read nor written, and it says what to do."""
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        file.connection().execute("PRAGMA user_version = 2")
    for write in (False, True):
        with pytest.raises(FormatVersion, match="has format 2, this release reads format 1: use a release"):
            CheckpointFile.open(str(tmp_path), write=write)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """No database, a database of another program, one without page checksums: none is read, none is overwritten."""
    path = tmp_path / FILE_NAME
    path.write_bytes(b"no database at all" * 1_000)
    with pytest.raises(DamagedLog, match="not a database; run `mpy6a log verify`, then restore a backup"):
        CheckpointFile.open(str(tmp_path))
    path.unlink()
    with closing(sqlite3.connect(path)) as stranger:
        stranger.execute("CREATE TABLE t (a)")
        stranger.commit()
    for write in (False, True):
        with pytest.raises(DamagedLog, match="0 reserved bytes a page, 8 are right"):
            CheckpointFile.open(str(tmp_path), write=write)
    with pytest.raises(DiskFailed, match="the directory is not there"):
        CheckpointFile.open(str(tmp_path / "none"), write=True)


def test_what_is_wrong_names_file_table_and_row(tmp_path: Path) -> None:
    """So that an operator finds it."""
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, some_rows())
        file.connection().execute("UPDATE sessions SET epoch = 9 WHERE idx = 30")
        with pytest.raises(DamagedRow) as found:
            file.load(30)
        assert (found.value.path, found.value.table, found.value.index) == (
            str(tmp_path / FILE_NAME),
            "sessions",
            30,
        )
        assert str(found.value) == (
            f"{tmp_path / FILE_NAME}, table sessions, row 30: its checksum is wrong; run `mpy6a log verify`, then"
            " restore a backup or repair"
        )
        file.connection().execute("DROP TABLE pauses")
        with pytest.raises(DamagedRow, match="no such table: pauses"):
            file.pauses()


def test_an_order_key_is_indexed(file: CheckpointFile) -> None:
    """The head of an order key is found without a scan."""
    rows = [stored(10), stored(11)]
    for session in rows:
        session.extra = Extra(0, "", "lane")
    fill(file, [(session, [b"data"]) for session in rows])
    sql = "SELECT idx FROM sessions INDEXED BY sessions_order WHERE kind = 1 AND order_key = 'lane' ORDER BY idx"
    assert file.connection().execute(sql).fetchall() == [(10,), (11,)]
