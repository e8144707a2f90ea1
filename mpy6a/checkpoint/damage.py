"""Say what an error of SQLite means for the pipe: damage, no room, or a disk that failed."""

from __future__ import annotations

from errno import EDQUOT, ENOSPC
from typing import Final

import apsw

from mpy6a.errors import DamagedCheckpoint, DiskFailed, DiskFull, Mpy6aError

NO_ROOM: Final = frozenset((ENOSPC, EDQUOT))
# What SQLite does not tell as FULL. A sync that failed is never only that: what it was to make durable is in doubt.
_FOR_WANT_OF_ROOM: Final = frozenset(
    (apsw.SQLITE_CANTOPEN, apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMOPEN, apsw.SQLITE_IOERR_WRITE)
)
# Primary codes that say that the file is not what was written. ERROR: a table or column that is not there.
_DAMAGE: Final = frozenset(
    (apsw.SQLITE_CORRUPT, apsw.SQLITE_NOTADB, apsw.SQLITE_FORMAT, apsw.SQLITE_ERROR, apsw.SQLITE_TOOBIG)
)
# I/O errors of the same kind: a page with a wrong checksum, a file that ends too early.
_DAMAGED_IO: Final = frozenset(
    (apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_SHORT_READ)
)


class DamagedRow(DamagedCheckpoint):
    """Damage, and where: file, table and row (None: not known, or the whole of it)."""

    def __init__(self, path: str, table: str, index: int | None, what: str) -> None:
        where = path + (f", table {table}" if table else "") + ("" if index is None else f", row {index}")
        super().__init__(f"{where}: {what}; run `mpy6a log verify`, then restore a backup or repair")
        self.path, self.table, self.index, self.what = path, table, index, what


def errno_of(connection: apsw.Connection | None) -> int:
    """What the operating system said to the last call that failed; 0 where nothing is known."""
    return 0 if connection is None else connection.system_errno


def meaning(path: str, table: str, index: int | None, error: Exception, errno: int = 0) -> Mpy6aError:
    """The pipe's error for one of SQLite's (`errno`: the system's), or for a row that cannot be what was written."""
    if not isinstance(error, apsw.Error):
        return DamagedRow(path, table, index, str(error) or type(error).__name__)
    code = getattr(error, "extendedresult", 0)
    no_room = errno in NO_ROOM and code in _FOR_WANT_OF_ROOM
    if code & 0xFF == apsw.SQLITE_FULL or no_room:
        return DiskFull(f"{path}: no room for the checkpoint ({error}): make room, it is written again by itself")
    if code == apsw.SQLITE_IOERR_DATA:
        return DamagedRow(path, table, index, "the checksum of a page is wrong")
    if code & 0xFF in _DAMAGE or code in _DAMAGED_IO:
        return DamagedRow(path, table, index, str(error))
    if code & 0xFF in (apsw.SQLITE_BUSY, apsw.SQLITE_LOCKED):
        return DiskFailed(f"{path}: another process holds it ({error}): nobody but this pipe may write there")
    return DiskFailed(f"{path}: {error} (SQLite error {code}): the pipe has to stop; look at the disk, then start it")
