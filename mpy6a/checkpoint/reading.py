"""Read a checkpoint: sessions by id, by key and in the order of dispatch, and the smaller tables.

Every method is one short statement run to its end: a reader that stands makes SQLite's journal grow. Everything read
is checked against its row's checksum; what is wrong raises DamagedLog, with file, table and row.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from struct import Struct
from typing import Final

import apsw

from mpy6a import limits
from mpy6a.checkpoint.damage import DamagedRow, errno_of, meaning
from mpy6a.checkpoint.header import HEADER_COLUMNS, CheckpointHeader
from mpy6a.checkpoint.images import COLUMNS, BadRow, Row, Value, crc_of, put_records, session_of
from mpy6a.errors import Mpy6aError
from mpy6a.liveset import BITMAP_BYTES, LiveSet
from mpy6a.requests import Client, Outcome
from mpy6a.session import Session

_RECORDS_AT: Final = len(COLUMNS) - 1
_POSITIONS_AT: Final = COLUMNS.index("positions")
_RECORDS_CRC_AT: Final = COLUMNS.index("records_crc")
_ROW: Final = (
    f"SELECT {', '.join(COLUMNS[:-1])},"
    f" CASE WHEN length(records) <= {limits.SWEEP_RECORD_BYTES} THEN records END"
)
_BY_INDEX: Final = f"{_ROW} FROM sessions WHERE idx = ?"
_BY_INDEXES: Final = f"{_ROW} FROM sessions WHERE idx IN (SELECT value FROM json_each(?))"
_PAGE: Final = f"{_ROW} FROM sessions WHERE idx > ? ORDER BY idx LIMIT ?"
_HELD: Final = (
    f"{_ROW} FROM sessions INDEXED BY sessions_held"
    " WHERE state IN (1, 3) AND state = ? AND idx > ? ORDER BY idx LIMIT ?"
)
_WAITS: Final = "FROM sessions INDEXED BY sessions_due WHERE state = 2 AND NOT paused AND kind = ?"
_DUE: Final = (
    f"{_ROW} {_WAITS} AND (due_ms, stored_index) > (?, ?) AND due_ms <= ? ORDER BY due_ms, stored_index LIMIT ?"
)
_NEXT_DUE: Final = (
    f"SELECT due_ms {_WAITS} AND (due_ms, stored_index) > (?, ?) ORDER BY due_ms, stored_index LIMIT 1"
)
_KEY: Final = "SELECT idx FROM sessions INDEXED BY sessions_key WHERE kind = ? AND key = ?"
_ORDERED: Final = (
    "SELECT idx, state FROM sessions INDEXED BY sessions_order WHERE kind = ? AND order_key = ? AND idx > ? AND idx < ?"
    " ORDER BY idx LIMIT ?"
)
# Few at a time: one client has up to 16,384 outcomes.
_CLIENTS: Final = (
    "SELECT rowid, incarnation, mark, last_ms, outcomes, crc FROM clients WHERE (last_ms, rowid) > (?, ?)"
    " ORDER BY last_ms, rowid LIMIT 64"
)
_RECORDS: Final = f"SELECT {', '.join(COLUMNS)} FROM sessions WHERE idx = ?"
_KEPT_BYTES: Final = 300  # what Python adds to the records that are kept: objects, references, a place in a dict
OUTCOME: Final = Struct("<QQIHB")
# What a row that was not written by this program can make Python raise.
_WRONG: Final = (apsw.Error, ValueError, TypeError, AttributeError, struct.error)


class CheckpointReads:
    """The reading half of a checkpoint's file; `Filed` for the core. One thread."""

    def __init__(self, path: str, connection: apsw.Connection | None) -> None:
        self.path = path
        self._connection = connection
        self._recent: dict[int, tuple[bytes, int, bytes]] = {}  # idx -> positions, records_crc, records; oldest first
        self._recent_bytes = 0

    # ------------------------------------------------------------------ sessions (Filed)

    def load(self, index: int) -> Session:
        """The session's image; its records stay references."""
        rows = self._sessions(_BY_INDEX, (index,), index, keep=True)
        if not rows:
            raise DamagedRow(self.path, "sessions", index, "the row is missing")
        return rows[0]

    def load_many(self, indexes: Collection[int]) -> list[Session]:
        """The images of several, in no order."""
        wanted = list(set(indexes))
        found: list[Session] = []
        for at in range(0, len(wanted), limits.LOAD_ROWS_MAX):
            part = wanted[at : at + limits.LOAD_ROWS_MAX]
            rows = self._sessions(_BY_INDEXES, (str(part),), None, keep=True)
            if len(rows) != len(part):
                missing = min(set(part) - {session.index for session in rows})
                raise DamagedRow(self.path, "sessions", missing, "the row is missing")
            found += rows
        return found

    def key(self, kind: int, key: str) -> int:
        """Index of the row with that key in that kind; 0 for none."""
        rows = self._rows(_KEY, (kind, key), "sessions")
        return int(rows[0][0]) if rows else 0

    def ordered(self, kind: int, order_key: str, after: int, before: int, most: int) -> list[tuple[int, int]]:
        """(index, state) of the first rows with that order key in that kind between two indexes, ascending."""
        rows = self._rows(_ORDERED, (kind, order_key, after, before, most), "sessions")
        return [(int(index), int(state)) for index, state in rows]

    def trace(self, term: int, index: int) -> tuple[int, int] | None:
        """(epoch, log time) in which a session finished that was repeated or deleted by an operator."""
        sql = "SELECT idx, term, epoch, log_ms, crc FROM traces WHERE idx = ? AND term = ?"
        for row in self._checked(sql, (index, term), "traces"):
            return row[2], row[3]
        return None

    def due(self, kind: int, after: tuple[int, int], until_ms: int, most: int) -> list[Session]:
        """STORED sessions, not paused, with (due_ms, stored_index) above `after`, due by `until_ms`, in that order."""
        return self._sessions(_DUE, (kind, *after, until_ms, most), None, keep=True)

    def next_due(self, kind: int, after: tuple[int, int]) -> int | None:
        """Due time of the first STORED row above `after`."""
        rows = self._rows(_NEXT_DUE, (kind, *after), "sessions")
        return int(rows[0][0]) if rows else None

    def page(self, after: int, most: int) -> list[Session]:
        """Rows above an index, in order of their index."""
        return self._sessions(_PAGE, (after, most), None, keep=False)

    def records(self, index: int) -> dict[int, bytes]:
        """The row's records by reference (position << 32 | length).

        What a sweep or a lookup read a moment ago costs no second query; a reference that the row has got since is
        read then. A position never names two different records, so nothing here grows old.
        """
        recent = self._recent.pop(index, None)
        if recent is None:
            return self._read_records(index)
        self._recent_bytes -= _kept_bytes(recent)
        found = _Records(self, index)
        try:
            put_records(found, *recent)
        except BadRow as error:
            raise DamagedRow(self.path, "sessions", index, str(error)) from None
        return found

    def part(self, index: int, start: int, length: int) -> bytes:
        """So many bytes of the row's records, joined, from `start` on: 0.5 ms for half a MiB out of 16 MiB.

        Their pages are checked; the crc of all of them is not, for which all would have to be read.
        """
        connection = self._connection
        if connection is None:
            raise DamagedRow(self.path, "sessions", index, "there is no such file")
        try:
            with connection.blob_open("main", "sessions", "records", index, False) as blob:
                blob.seek(start)
                found = blob.read(length)
        except _WRONG as error:
            raise self._meaning(error, "sessions", index) from error
        if len(found) != length:
            raise DamagedRow(self.path, "sessions", index, "its records end before the length of all of them")
        return found

    def held(self) -> Iterator[Session]:
        """The OPEN and the REPEATING, by state and index: those that a start takes into memory."""
        for state in (1, 3):
            after = 0
            while page := self._sessions(_HELD, (state, after, limits.LOAD_ROWS_MAX), None, keep=False):
                yield from page
                after = page[-1].index

    # ------------------------------------------------------------------ the smaller tables

    def header(self) -> CheckpointHeader | None:
        """What the file stands for; None if no checkpoint was written yet."""
        if self._connection is None:
            return None
        rows = self._checked(f"SELECT one, {HEADER_COLUMNS}, crc FROM checkpoint", (), "checkpoint")
        return CheckpointHeader(*rows[0][1:-1]) if rows else None

    def filter(self) -> LiveSet:
        """Which indexes have a row."""
        found = LiveSet()
        after = -1
        while rows := self._checked(
            "SELECT shard, bits, crc FROM filter WHERE shard > ? ORDER BY shard LIMIT 64", (after,), "filter"
        ):
            for shard, bits, _ in rows:
                if len(bits) != BITMAP_BYTES:
                    raise DamagedRow(self.path, "filter", shard, f"a bitmap of {len(bits)} bytes")
                found.put_bitmap(shard, bits)
            after = rows[-1][0]
        return found

    def counts(self) -> dict[int, int]:
        """Live sessions by kind << 3 | state; what is 0 is not there."""
        rows = self._checked("SELECT kind, state, sessions, crc FROM counts ORDER BY kind, state", (), "counts")
        return {kind << 3 | state: sessions for kind, state, sessions, _ in rows}

    def terms(self) -> list[tuple[int, int]]:
        """(term, its first index), ascending."""
        rows = self._checked("SELECT term, first_index, crc FROM terms ORDER BY term", (), "terms")
        return [(term, first) for term, first, _ in rows]

    def pauses(self) -> dict[int, tuple[int, str, str]]:
        """Paused kinds: until (0: no end), who, why."""
        rows = self._checked("SELECT kind, until_ms, who, reason, crc FROM pauses ORDER BY kind", (), "pauses")
        return {kind: (until_ms, who, reason) for kind, until_ms, who, reason, _ in rows}

    def clients(self) -> Iterator[tuple[bytes, Client]]:
        """Kept outcomes of New by client incarnation, the one not heard for longest first."""
        after: tuple[int, int] = (-1, -1)
        while rows := self._rows(_CLIENTS, after, "clients"):
            for row, origin, mark, last_ms, outcomes, crc in rows:
                if crc_of(origin, mark, last_ms, outcomes) != crc:
                    raise DamagedRow(self.path, "clients", row, "its checksum is wrong")
                client = Client()
                client.mark, client.last_ms = mark, last_ms
                for request, index, term, code, state in OUTCOME.iter_unpack(outcomes):
                    client.outcomes[request] = Outcome(code, index, term, state)
                yield origin, client
            after = rows[-1][3], rows[-1][0]

    def traces(self) -> Iterator[tuple[int, int, int, int]]:
        """(term, index, epoch, log_ms) of the sessions whose end is remembered, by index."""
        after: tuple[int, int] = (-1, -1)
        sql = "SELECT idx, term, epoch, log_ms, crc FROM traces WHERE (idx, term) > (?, ?) ORDER BY idx, term LIMIT 500"
        while rows := self._checked(sql, after, "traces"):
            for index, term, epoch, log_ms, _ in rows:
                yield term, index, epoch, log_ms
            after = rows[-1][:2]

    # ------------------------------------------------------------------ one statement

    def _rows(self, sql: str, bindings: tuple[Value, ...], table: str, index: int | None = None) -> list[Row]:
        """All rows of one statement: no cursor stays open."""
        connection = self._connection
        if connection is None:
            raise DamagedRow(self.path, table, index, "there is no such file")
        try:
            return connection.execute(sql, bindings).fetchall()
        except _WRONG as error:
            raise self._meaning(error, table, index) from error

    def _checked(self, sql: str, bindings: tuple[Value, ...], table: str) -> list[Row]:
        """Rows of a smaller table whose SELECT names all columns in order, the last being `crc`."""
        rows = self._rows(sql, bindings, table)
        for row in rows:
            try:
                if crc_of(*row[:-1]) == row[-1]:
                    continue
                what = "its checksum is wrong"
            except _WRONG as error:
                what = str(error)
            raise DamagedRow(self.path, table, row[0] if isinstance(row[0], int) else None, what)
        return rows

    def _sessions(self, sql: str, bindings: tuple[Value, ...], index: int | None, *, keep: bool) -> list[Session]:
        """The images of a statement's rows; `keep` their records for who asks next."""
        found: list[Session] = []
        for row in self._rows(sql, bindings, "sessions", index):
            try:
                found.append(session_of(row))
            except _WRONG as error:
                raise self._meaning(error, "sessions", row[0]) from error
            if keep and row[_RECORDS_AT] is not None:
                self._keep(row[0], row[_POSITIONS_AT], row[_RECORDS_CRC_AT], row[_RECORDS_AT])
        return found

    def _keep(self, index: int, positions: bytes, records_crc: int, records: bytes) -> None:
        recent = self._recent
        before = recent.pop(index, None)
        if before is not None:
            self._recent_bytes -= _kept_bytes(before)
        recent[index] = kept = (positions, records_crc, records)
        self._recent_bytes += _kept_bytes(kept)
        while self._recent_bytes > limits.SWEEP_RECORDS_BYTES_MAX:
            self._recent_bytes -= _kept_bytes(recent.pop(next(iter(recent))))

    def _read_records(self, index: int) -> dict[int, bytes]:
        rows = self._rows(_RECORDS, (index,), "sessions", index)
        if not rows:
            raise DamagedRow(self.path, "sessions", index, "the row is missing")
        row = rows[0]
        try:
            session_of(row)  # the row's checksum covers what the records are checked by
            found: dict[int, bytes] = {}
            put_records(found, row[_POSITIONS_AT], row[_RECORDS_CRC_AT], row[_RECORDS_AT])
            return found
        except _WRONG as error:
            raise self._meaning(error, "sessions", index) from error

    def _meaning(self, error: Exception, table: str, index: int | None) -> Mpy6aError:
        return meaning(self.path, table, index, error, errno_of(self._connection))


def _kept_bytes(kept: tuple[bytes, int, bytes]) -> int:
    return len(kept[0]) + len(kept[2]) + _KEPT_BYTES


class _Records(dict[int, bytes]):
    """Records that were read with their row; looks again for one that the row got later."""

    def __init__(self, file: CheckpointReads, index: int) -> None:
        self._file = file
        self._index = index

    def __missing__(self, reference: int) -> bytes:
        found = self._file._read_records(self._index)
        self.update(found)
        return found[reference]
