"""Connect to the file of a checkpoint: with checksums on its pages, made whole or not at all, of a known version."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Final

import apsw
import apsw.sqlite_extra

from mpy6a import limits
from mpy6a.checkpoint.damage import DamagedRow, meaning
from mpy6a.checkpoint.tables import APPLICATION_ID, FORMAT_VERSION, PAGE_BYTES, RESERVED_BYTES, TABLES
from mpy6a.errors import FormatVersion

FILE_NAME: Final = "checkpoint.db"
_UNFINISHED: Final = ".new"  # behind the name of a file that is being made
_LEFT_BY_SQLITE: Final = ("", "-journal", "-wal", "-shm")

# (path, for writing) -> connection. FileNotFoundError where there is nothing to read; for writing an empty one will do.
Connect = Callable[[str, bool], apsw.Connection]


def connect_file(path: str, write: bool) -> apsw.Connection:
    """The file, with page checksums. For writing it is made if there is none: whole and durable, or not at all."""
    vfs = checking_vfs()
    if write and not os.path.exists(path) and os.path.isdir(os.path.dirname(path)):
        _make(path, vfs)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    flags = apsw.SQLITE_OPEN_READWRITE if write else apsw.SQLITE_OPEN_READONLY
    return apsw.Connection(path, vfs=vfs, flags=flags)


def create(connection: apsw.Connection) -> None:
    """Give an empty database its page layout and its tables."""
    reserve_checksums(connection)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL")
    connection.execute(
        f"PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {TABLES}; PRAGMA application_id = {APPLICATION_ID};"
        f"PRAGMA user_version = {FORMAT_VERSION}; COMMIT"
    )


def reserve_checksums(connection: apsw.Connection) -> None:
    """Have an empty database keep room for the checksum of each page, which switches them on."""
    reserved = ctypes.c_int(RESERVED_BYTES)
    connection.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, ctypes.addressof(reserved))


def is_empty(connection: apsw.Connection) -> bool:
    """Whether nothing was ever written to this database."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    return not tables and not connection.pragma("user_version")


def prepare(connection: apsw.Connection, write: bool) -> None:
    """Set how this connection works."""
    cache_bytes = limits.CHECKPOINT_WRITER_CACHE_BYTES if write else limits.CHECKPOINT_READER_CACHE_BYTES
    connection.execute(f"PRAGMA cache_size = -{cache_bytes >> 10}")
    if write:
        connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
    else:
        connection.execute("PRAGMA query_only = 1")


def check(connection: apsw.Connection, path: str) -> None:
    """Refuse a file of another version, of another program, or whose pages are not checked.

    Reads page 1. The byte that switches the page checksums on stands in it: flipped, it switches them off.
    """
    version = connection.pragma("user_version")
    reserved = ctypes.c_int(-1)
    connection.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, ctypes.addressof(reserved))
    if reserved.value != RESERVED_BYTES:
        raise DamagedRow(path, "", None, f"{reserved.value} reserved bytes a page, {RESERVED_BYTES} are right")
    if connection.pragma("application_id") != APPLICATION_ID:
        raise DamagedRow(path, "", None, "it is no checkpoint of a pipe")
    if version != FORMAT_VERSION:
        raise FormatVersion(
            f"{path} has format {version}, this release reads format {FORMAT_VERSION}: use a release that reads it"
        )


def make_private(path: str) -> None:
    """Make a new, empty file that only its owner may read; what SQLite puts beside it gets the same mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


@cache
def checking_vfs() -> str:
    """Registers SQLite's checksumming file layer, once a process; its name."""
    connection = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(connection, "cksumvfs")
    connection.close()
    return "cksmvfs"


def _make(path: str, vfs: str) -> None:
    """A file that is there is whole: it gets its name when it is."""
    unfinished = path + _UNFINISHED
    for left in _LEFT_BY_SQLITE:
        if os.path.exists(unfinished + left):
            os.remove(unfinished + left)
    make_private(unfinished)
    connection = apsw.Connection(unfinished, vfs=vfs, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        create(connection)
    except apsw.Error as error:
        raise meaning(path, "", None, error) from error
    finally:
        connection.close()  # moves the journal into the file, syncs it, and removes the journal
    os.rename(unfinished, path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
