"""A PostgreSQL server of a test's own: a cluster in a temporary directory, a socket there and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import psycopg
import pytest

from tests.ports import short_directory

MISSING: Final = "PostgreSQL is not installed"
DEADLINE_S: Final = 60.0  # initdb takes 1.5 s and a start 0.1 s; a busy machine gets the rest

# Nothing here outlives the test: no sync, and no files for a second start.
_OPTIONS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "30",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """Where a running server is. Every database of it is a test's own."""

    directory: Path

    def conninfo(self, database: str = "postgres") -> str:
        """For psycopg.connect."""
        return f"host={self.directory} user=mpy6a dbname={database} connect_timeout=10"

    def said(self) -> str:
        """What initdb and the server said."""
        return (self.directory / "said").read_text()

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database; its conninfo. Dropped afterwards, whoever is still connected."""
        name = f"test_{time.monotonic_ns()}"
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
            try:
                yield self.conninfo(name)
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def running() -> Iterator[Postgres]:
    """A server that answers; ended by its own pid. Skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip(MISSING)
    with short_directory() as directory, (directory / "said").open("ab") as said:
        data = directory / "data"
        made = Postgres(directory)
        initdb_options = ("-U", "mpy6a", "-A", "trust", "--locale=C", "--encoding=UTF8", "--no-sync")
        with _ended(_start([programs / "initdb", "-D", data, *initdb_options], directory, said)) as initdb:
            assert initdb.wait(DEADLINE_S) == 0, made.said()
        options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
        with _ended(_start([programs / "postgres", "-D", data, "-k", directory, *options], directory, said)) as server:
            _wait(made, server)
            yield made


def _start(argv: list[str | Path], directory: Path, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that owns the directory. PostgreSQL refuses to be root, so for root it is nobody."""
    user = group = others = None
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user, group, others = nobody.pw_uid, nobody.pw_gid, list[int]()
        os.chown(directory, user, group)
    return subprocess.Popen(
        argv,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        user=user,
        group=group,
        extra_groups=others,
    )


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends the process by its own pid: SIGINT, at which a server cuts off who is connected, then SIGKILL."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _programs() -> Path | None:
    """The directory of `initdb` and `postgres`: on the path, or where Debian keeps them."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def _wait(made: Postgres, server: subprocess.Popen[bytes]) -> None:
    """Until the server answers. Raises TimeoutError."""
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            psycopg.connect(made.conninfo()).close()
            return
        except psycopg.OperationalError as error:
            assert server.poll() is None, made.said()
            if time.monotonic() > end_s:
                raise TimeoutError(made.said()) from error
            time.sleep(0.02)
