"""The zombie that the guard is for, with real processes: a handler stands still before its write, another one takes
over and finishes, the first wakes and writes. And a pipe that is restored from a backup: fences never go back."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

import mpy6a
from mpy6a import guard
from tests.e2e import postgres
from tests.e2e.live import Live, Peer
from tests.e2e.test_serve import mpy6a as command
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e
DEADLINE_S: Final = 40.0

# Each kind does the same: wait, then one guarded write, in a database and a style of its own.
HANDLERS: Final = """
import asyncio, json, os, sqlite3, time
from contextlib import closing
from pathlib import Path

import psycopg

import mpy6a
from mpy6a import guard

HERE = Path(__file__).parent
INSERT = "INSERT INTO effect (session, fence) VALUES ('{Mpy6a-Session}', {Mpy6a-Fence})"


def note(repeat, what):
    fence = int(repeat.session.fence["Mpy6a-Fence"])
    line = {"what": what, "pid": os.getpid(), "repeats": repeat.repeats, "fence": fence}
    with (HERE / "notes").open("a") as notes:
        notes.write(json.dumps(line) + "\\n")


def finish(repeat, write):
    note(repeat, "began")
    while repeat.repeats == 1 and not (HERE / "go").exists():
        time.sleep(0.005)
    try:
        write(repeat.session.fence)
    except mpy6a.Fenced:
        note(repeat, "fenced")
        raise
    note(repeat, "wrote")
    repeat.session.delete()


def sqlite_write(fence, guarded=True):
    with closing(sqlite3.connect(HERE / "effects.db", isolation_level=None, timeout=20)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            connection.execute(INSERT.format_map(fence))
            if guarded:
                guard.check(connection, headers=fence)


def psycopg_write(fence):
    with psycopg.connect((HERE / "conninfo").read_text()) as connection, connection.transaction():
        connection.execute(INSERT.format_map(fence))
        guard.check(connection, headers=fence)


async def async_write(fence):
    connection = await psycopg.AsyncConnection.connect((HERE / "conninfo").read_text())
    async with connection, connection.transaction():
        await connection.execute(INSERT.format_map(fence))
        await guard.acheck(connection, headers=fence)


@mpy6a.handler("sqlite")
def in_sqlite(repeat):
    finish(repeat, sqlite_write)


@mpy6a.handler("unguarded")
def unguarded(repeat):
    finish(repeat, lambda fence: sqlite_write(fence, guarded=False))


@mpy6a.handler("psycopg")
def in_postgres(repeat):
    finish(repeat, psycopg_write)


@mpy6a.handler("async")
def in_postgres_async(repeat):
    finish(repeat, lambda fence: asyncio.run(async_write(fence)))


@mpy6a.handler("again")
def again(repeat):
    try:
        sqlite_write(repeat.session.fence)
    except mpy6a.Fenced:
        note(repeat, "fenced")
        raise
    note(repeat, "wrote")
    repeat.session.append(b"wrote")
    if not (HERE / "finish").exists():
        raise RuntimeError("once more")
    repeat.session.delete()
"""

KINDS: Final = {
    "sqlite": "in_sqlite",
    "unguarded": "unguarded",
    "psycopg": "in_postgres",
    "async": "in_postgres_async",
    "again": "again",
}
ROUTE: Final = """\
  {name}: {{id: {id}, sidecars: [users, search], handler: {{python: "handlers:{function}"}},
    repeat: {{delay: 10ms, backoff: 10ms..50ms}}}}
"""
EFFECT: Final = "CREATE TABLE effect (session text NOT NULL, fence bigint NOT NULL)"


class House:
    """A pipe and two sidecars that run the same handlers, and the handlers' own SQLite file."""

    def __init__(self, live: Live, free_port: FreePorts) -> None:
        self.live = live
        self.path = path = live.path
        routes = (
            ROUTE.format(name=name, id=1 + number, function=KINDS[name]) for number, name in enumerate(KINDS)
        )
        (path / "handlers.py").write_text(HANDLERS)
        (path / "routes.yaml").write_text("kinds:\n" + "".join(routes))
        push = f"tcp://127.0.0.1:{free_port()}"
        pipe, sidecar = path / "pipe.yaml", path / "sidecar.yaml"
        known = pipe.read_text().replace(f"users: {live.push}", f"users: {live.push}, search: {push}")
        pipe.write_text(known + "lease: 3s\n")
        other = sidecar.read_text().replace("name: users", "name: search").replace("users.sock", "search.sock")
        (path / "search.yaml").write_text(other.replace(live.push, push))
        with closing(sqlite3.connect(path / "effects.db")) as database:
            guard.create(database)
            database.execute(EFFECT)
            database.commit()

    def start_search(self) -> None:
        """The second sidecar, once it answers and has heard the pipe."""
        process = self.live.run("sidecar", "--log-format", "json", "search.yaml", said="search.log")
        with Peer(f"ipc://{self.path}/search.sock") as peer:
            peer.hello(process, pipes=1)

    def notes(self, what: str) -> list[dict[str, Any]]:
        """What handlers noted of this, in order."""
        path = self.path / "notes"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [one for one in found if one["what"] == what]

    def sessions(self) -> list[dict[str, Any]]:
        with Peer(self.live.admin) as peer:
            found: list[dict[str, Any]] = peer.ask("sessions.list")["sessions"]
            return found

    def wait(self, holds: Callable[[], bool]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < end_s, (self.live.said("sidecar.log"), (self.path / "notes").read_text())
            time.sleep(0.02)

    def leave(self, kind: str) -> str:
        """A session that its client leaves to the handler; its id."""
        with mpy6a.Pipe(self.live.service) as pipe:
            session = pipe.new(kind, b"")
            session.store(after=0)
            return session.id

    def effects(self) -> list[int]:
        """The fences of the writes that stand in the SQLite file."""
        with closing(sqlite3.connect(self.path / "effects.db")) as database:
            return [fence for (fence,) in database.execute("SELECT fence FROM effect ORDER BY rowid")]


@pytest.fixture
def house(short_tmp: Path, free_port: FreePorts, processes: Processes) -> House:
    return House(Live(short_tmp, free_port, processes), free_port)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    with postgres.running() as made:
        yield made


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """The process is stopped in the block, and goes on after it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        end_s = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            assert time.monotonic() < end_s
            time.sleep(0.005)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def zombie_story(house: House, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A handler is stopped before its write; its session goes to the other sidecar, whose handler finishes it; the
    first goes on, and what it came to is noted. The last notes of both."""
    house.live.start_pipe()
    house.live.start_sidecar()
    house.leave(kind)
    house.wait(lambda: len(house.notes("began")) == 1)
    [zombie] = house.notes("began")
    with standing_still(zombie["pid"]):
        (house.path / "go").touch()  # it finds it when it wakes
        house.start_search()
        house.wait(lambda: len(house.notes("wrote")) == 1 and not house.sessions())
        [successor] = house.notes("wrote")
    ends = ("fenced", "wrote")
    house.wait(lambda: any(one["pid"] == zombie["pid"] for end in ends for one in house.notes(end)))
    [woken] = [one for end in ends for one in house.notes(end) if one["pid"] == zombie["pid"]]
    assert successor["pid"] != zombie["pid"]
    assert woken["fence"] == zombie["fence"] < successor["fence"]
    return woken, successor


def test_a_zombie_is_refused_and_the_effect_stands_once(house: House) -> None:
    """In SQLite."""
    woken, successor = zombie_story(house, "sqlite")
    assert woken["what"] == "fenced"
    assert house.effects() == [successor["fence"]]


def test_without_the_guard_the_zombie_writes_too(house: House) -> None:
    """The story is true: nothing else keeps the late write out."""
    woken, successor = zombie_story(house, "unguarded")
    assert woken["what"] == "wrote"
    assert house.effects() == [successor["fence"], woken["fence"]]


@pytest.mark.parametrize("kind", ["psycopg", "async"])
def test_a_zombie_is_refused_by_postgres_and_the_effect_stands_once(
    house: House, server: postgres.Postgres, kind: str
) -> None:
    """With a blocking and with an async connection."""
    with server.database() as conninfo:
        (house.path / "conninfo").write_text(conninfo)
        with psycopg.connect(conninfo) as database:
            guard.create(database)
            database.execute(EFFECT)
        woken, successor = zombie_story(house, kind)
        assert woken["what"] == "fenced"
        with psycopg.connect(conninfo) as database:
            assert database.execute("SELECT fence FROM effect").fetchall() == [(successor["fence"],)]
            assert database.execute("SELECT fence FROM mpy6a_fence").fetchall() == [(successor["fence"],)]


def test_fences_never_go_back_when_a_pipe_is_restored(house: House) -> None:
    """What the lost life had written is there, and so are its fences; every run after the restore is let in at once."""
    pipe = house.live.start_pipe()
    house.live.start_sidecar()
    house.leave("again")
    house.wait(lambda: len(house.notes("wrote")) >= 2)
    assert command("kinds", "pause", "again", at=house.path).code == 0
    house.wait(lambda: [one["state"] for one in house.sessions()] == ["stored"])
    assert command("backup", "data", "copy", at=house.path).code == 0
    known = len(house.notes("wrote"))
    assert command("kinds", "resume", "again", at=house.path).code == 0
    house.wait(lambda: len(house.notes("wrote")) >= known + 3)
    pipe.kill()
    pipe.wait()
    (house.path / "data").rename(house.path / "lost")
    assert command("restore", "copy", "data", at=house.path).code == 0
    house.live.start_pipe()  # the kind is paused, as it was when the backup was taken
    house.wait(lambda: [one["state"] for one in house.sessions()] == ["stored"])
    (house.path / "finish").touch()
    assert command("kinds", "resume", "again", at=house.path).code == 0
    house.wait(lambda: not house.sessions())
    fences = [one["fence"] for one in house.notes("wrote")]
    assert fences == sorted(set(fences)) == house.effects()
    [last] = [fence for fence in fences if fence >> 32 > 200_000_000]  # the term of the restore
    assert fences[-1] == last
    assert last & 0xFFFF_FFFF in [fence & 0xFFFF_FFFF for fence in fences[known:-1]]  # an epoch that was there before
    assert house.notes("fenced") == []
