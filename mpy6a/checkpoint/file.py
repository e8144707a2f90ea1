"""The file of a checkpoint: what `CheckpointReads` reads of it, and writing it, one transaction a checkpoint.

One connection, one thread. Many may read at a time, in any process; one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Self

import apsw

from mpy6a import limits
from mpy6a.checkpoint.connecting import FILE_NAME, Connect, check, connect_file, create, is_empty, prepare
from mpy6a.checkpoint.damage import NO_ROOM, DamagedRow, errno_of, meaning
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.images import COLUMNS, Value, crc_of, row_of
from mpy6a.checkpoint.reading import OUTCOME, CheckpointReads
from mpy6a.checkpoint.tables import PAGE_BYTES
from mpy6a.checkpoint.verifying import verify
from mpy6a.errors import DiskFailed, DiskFull
from mpy6a.requests import Client
from mpy6a.session import Session

_PUT_SESSION: Final = f"INSERT OR REPLACE INTO sessions VALUES ({', '.join('?' * len(COLUMNS))})"


class CheckpointFile(CheckpointReads):
    """A checkpoint's file. Reading raises DamagedLog, FormatVersion; writing also DiskFull, DiskFailed."""

    def __init__(self, path: str, connection: apsw.Connection | None, connect: Connect = connect_file) -> None:
        super().__init__(path, connection)
        self._connect = connect
        self._reader_stands = False

    @classmethod
    def open(cls, directory: str, write: bool = False, connect: Connect = connect_file) -> Self:
        """The checkpoint of a data directory. To write one it is made; to read where there is none is no error.

        Raises FormatVersion for a newer file, DamagedLog for one that is none, DiskFull, DiskFailed.
        """
        file = cls(os.path.join(directory, FILE_NAME), None, connect)
        file._open(write)
        return file

    def _open(self, write: bool) -> None:
        """Connect; leave it at no connection where there is nothing to read."""
        connection: apsw.Connection | None = None
        try:
            connection = self._connect(self.path, write)
            connection.set_busy_timeout(limits.CHECKPOINT_LOCK_MS)
            empty = is_empty(connection)
            if empty and write:
                create(connection)
            if write or not empty:
                check(connection, self.path)  # before anything is changed: it may be a stranger's file
                prepare(connection, write)
                self._connection, connection = connection, None
        except FileNotFoundError:
            if write:
                raise DiskFailed(f"{self.path}: the directory is not there") from None
        except apsw.Error as error:
            raise meaning(self.path, "", None, error, errno_of(connection)) from error
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFull(f"{self.path}: no room for a checkpoint: make room, it is written by itself") from error
            raise DiskFailed(f"{self.path}: {error.strerror}: make it readable and writable for this user") from error
        finally:
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def header(self) -> CheckpointHeader | None:
        """What the file stands for; None if there is no checkpoint yet. Looks again for a file that was not there."""
        if self._connection is None:
            self._open(False)
        return super().header()

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[DamagedRow]:
        """Check every page and row, and that the tables agree; what is wrong. `progress`: rows done, in all."""
        return [] if self._connection is None else verify(self, progress)

    # ------------------------------------------------------------------ writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is put within becomes durable at its end, or (at any exception) nothing. Not to be nested."""
        connection = self.connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back(connection)
            if isinstance(error, apsw.Error):
                raise self._meaning(error, "", None) from error
            raise

    def settle(self) -> bool:
        """Move what was committed out of SQLite's journal into the file, and sync it.

        False: a reader or a full disk stands in the way; it stays in the journal, as durable, until the next time.
        A reader is waited for, for as long as `mpy6a sql` may take, but one that outstays this only once.
        """
        connection = self.connection()
        try:
            if self._reader_stands:
                connection.set_busy_timeout(limits.CHECKPOINT_READER_MS)
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        except apsw.BusyError:
            busy = 1
        except apsw.Error as error:
            failed = self._meaning(error, "", None)
            if isinstance(failed, DiskFull):
                return False
            raise failed from error
        finally:
            if self._reader_stands:
                connection.set_busy_timeout(limits.CHECKPOINT_LOCK_MS)
        self._reader_stands = bool(busy)
        return not busy

    def shrink(self, room_bytes: int = 1 << 62) -> None:
        """Within a transaction: give a slice of the space of finished sessions back, if much of it is free. The less
        `room_bytes` the disk has, the less is much; moving pages takes some of it too."""
        connection = self.connection()
        free, pages = int(connection.pragma("freelist_count")), int(connection.pragma("page_count"))
        room = room_bytes // limits.CHECKPOINT_STEP_SHARE // PAGE_BYTES
        slack = min(max(limits.CHECKPOINT_SLACK_BYTES // PAGE_BYTES, pages // 4), room)
        most = min(free - slack, limits.CHECKPOINT_SHRINK_BYTES // PAGE_BYTES, room)
        if most > 0:
            connection.execute(f"PRAGMA incremental_vacuum({most})").fetchall()

    def put_sessions(self, sessions: Iterable[tuple[Session, list[bytes]]]) -> None:
        """Each becomes what its row says; `records` are the bytes behind its references, in order."""
        self._many(_PUT_SESSION, (row_of(session, records) for session, records in sessions), "sessions")

    def delete_sessions(self, indexes: Iterable[int]) -> None:
        """These have no row any more."""
        self._many("DELETE FROM sessions WHERE idx = ?", ((index,) for index in indexes), "sessions")

    def put_clients(self, clients: Iterable[tuple[bytes, Client]]) -> None:
        """What was kept of each client becomes this."""
        rows = ((origin, client.mark, client.last_ms, _outcomes(client)) for origin, client in clients)
        self._put("INSERT OR REPLACE INTO clients VALUES (?, ?, ?, ?, ?)", rows, "clients")

    def forget_clients(self, until_ms: int) -> None:
        """Those whose last frame has this log time or an earlier one."""
        self._many("DELETE FROM clients WHERE last_ms <= ?", [(until_ms,)], "clients")

    def put_traces(self, traces: Iterable[tuple[int, int, int, int]]) -> None:
        """(term, index, epoch, log_ms) of sessions that finished."""
        rows = ((index, term, epoch, log_ms) for term, index, epoch, log_ms in traces)
        self._put("INSERT OR REPLACE INTO traces VALUES (?, ?, ?, ?, ?)", rows, "traces")

    def forget_traces(self, until_ms: int) -> None:
        """Those of this log time or an earlier one."""
        self._many("DELETE FROM traces WHERE log_ms <= ?", [(until_ms,)], "traces")

    def put_filter(self, shards: Iterable[tuple[int, bytes]]) -> None:
        """(number, bitmap) of shards of the filter that changed; an empty bitmap for one that is empty now."""
        for number, bits in shards:
            if bits:
                self._put("INSERT OR REPLACE INTO filter VALUES (?, ?, ?)", [(number, bits)], "filter")
            else:
                self._many("DELETE FROM filter WHERE shard = ?", [(number,)], "filter")

    def put_counts(self, counts: Mapping[int, int]) -> None:
        """All counts, by kind << 3 | state."""
        self._many("DELETE FROM counts", [()], "counts")
        rows = ((number >> 3, number & 7, sessions) for number, sessions in counts.items() if sessions)
        self._put("INSERT INTO counts VALUES (?, ?, ?, ?)", rows, "counts")

    def put_terms(self, terms: Iterable[tuple[int, int]]) -> None:
        """(term, first index); those that are there stay."""
        self._put("INSERT OR REPLACE INTO terms VALUES (?, ?, ?)", terms, "terms")

    def put_pauses(self, pauses: Mapping[int, tuple[int, str, str]]) -> None:
        """All kinds that are paused."""
        self._many("DELETE FROM pauses", [()], "pauses")
        rows = ((kind, *pause) for kind, pause in pauses.items())
        self._put("INSERT INTO pauses VALUES (?, ?, ?, ?, ?)", rows, "pauses")

    def put_kinds(self, names: Mapping[int, str]) -> None:
        """Names for joins; those that are there and not named stay."""
        self._many("INSERT OR REPLACE INTO kinds VALUES (?, ?)", names.items(), "kinds")

    def put_header(self, header: CheckpointHeader) -> None:
        """What the file stands for from this transaction on."""
        row = header.row()
        self._many(f"INSERT OR REPLACE INTO checkpoint VALUES ({', '.join('?' * len(row))})", [row], "checkpoint")

    def count(self, table: str) -> int:
        """How many rows a smaller table has."""
        return int(self._rows(f"SELECT count(*) FROM {table}", (), table)[0][0])

    # ------------------------------------------------------------------ one statement

    def connection(self) -> apsw.Connection:
        """SQLite's own, for `mpy6a sql` and for tests."""
        if self._connection is None:
            raise DamagedRow(self.path, "", None, "there is no such file")
        return self._connection

    def _put(self, sql: str, rows: Iterable[tuple[Value, ...]], table: str) -> None:
        """Rows of a smaller table, each with its checksum behind it."""
        self._many(sql, ((*row, crc_of(*row)) for row in rows), table)

    def _many(self, sql: str, rows: Iterable[tuple[Value, ...]], table: str) -> None:
        try:
            self.connection().executemany(sql, rows)
        except apsw.Error as error:
            raise self._meaning(error, table, None) from error

    def _roll_back(self, connection: apsw.Connection) -> None:
        """SQLite has done it by itself after some errors."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error as error:
            raise self._meaning(error, "", None) from error


def _outcomes(client: Client) -> bytes:
    return b"".join(
        [OUTCOME.pack(request, one.index, one.term, one.code, one.state) for request, one in client.outcomes.items()]
    )
