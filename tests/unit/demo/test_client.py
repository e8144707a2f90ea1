"""The demo's client takes the seeds' nine steps in order, and never begins a row twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import httpx
import pytest
from aiohttp.test_utils import TestServer

import mpy6a
from mpy6a.demo import client, search, users
from mpy6a.demo.journal import Entry, Journal, read
from mpy6a.demo.people import Person
from mpy6a.demo.service import Settings
from mpy6a.errors import Fenced

ZOE = Person(2, {"nickname": "zoe", "name": "Zoë", "email": ""})


@dataclass
class FakeSession:
    """Writes down what is asked of it; undecided at the end means stored, as in the library."""

    said: list[str]
    id: str
    fails: str
    ended: bool = False

    @property
    def fence(self) -> dict[str, str]:
        return {"Mpy6a-Session": self.id, "Mpy6a-Fence": str(3 << 32 | 1)}

    async def append(self, *, json: dict[str, object]) -> None:
        await self._say(f"append {' '.join(json)}")

    async def delete(self) -> None:
        await self._say("delete")
        self.ended = True

    async def _say(self, what: str) -> None:
        self.said.append(what)
        if what.startswith(self.fails):
            raise Fenced(f"{self.id}: another writer")

    async def __aenter__(self) -> Self:
        await self._say("new")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended:
            self.said.append("store")


@dataclass
class FakePipe:
    """Sessions whose operation `fails` (by its first word) is refused."""

    fails: str = "nothing"
    sessions: list[FakeSession] = field(default_factory=list)

    def new(self, kind: str) -> FakeSession:
        assert kind == "user-create"
        self.sessions.append(FakeSession([], f"1.3.{len(self.sessions)}", self.fails))
        return self.sessions[-1]


Script = Callable[[httpx.AsyncClient, httpx.AsyncClient], Awaitable[None]]


def with_services(path: Path, script: Script) -> None:
    """Both services on loopback ports, as the client finds them through its environment."""

    async def run() -> None:
        a = users.app(Settings("users", 0, path / "a.db"))
        b = search.app(Settings("search", 0, path / "b.db"))
        async with TestServer(a) as at_a, TestServer(b) as at_b:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MPY6A_DEMO_USERS", str(at_a.make_url("")))
                patch.setenv("MPY6A_DEMO_SEARCH", str(at_b.make_url("")))
                async with (
                    httpx.AsyncClient(base_url=str(at_a.make_url("")), verify=False) as to_a,
                    httpx.AsyncClient(base_url=str(at_b.make_url("")), verify=False) as to_b,
                ):
                    await asyncio.wait_for(script(to_a, to_b), 10)

    asyncio.run(run())


async def create(pipe: FakePipe, person: Person, a: httpx.AsyncClient, b: httpx.AsyncClient) -> Entry:
    return await client.create_user(cast("mpy6a.AsyncPipe", pipe), person, a, b)


def test_the_nine_steps(tmp_path: Path) -> None:
    """Session, data, user in A, identifier, index in B, delete: in this order, and then it is done."""

    async def script(a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        pipe = FakePipe()
        assert await create(pipe, ZOE, a, b) == Entry(2, "zoe", "done", "1.3.0", user=1)
        assert pipe.sessions[0].said == ["new", "append nickname name email", "append id", "delete"]
        assert (await a.get("/users/1")).json() == ZOE.fields | {"id": 1}
        assert (await b.get("/index/1")).json() == ZOE.fields | {"id": 1}

    with_services(tmp_path, script)


def test_a_nickname_that_is_taken_is_an_answer_not_an_error(tmp_path: Path) -> None:
    """Nothing was made, so the session is deleted and the row is refused."""

    async def script(a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        pipe = FakePipe()
        await create(pipe, ZOE, a, b)
        again = await create(pipe, Person(9, {"nickname": "zoe"}), a, b)
        assert again == Entry(9, "zoe", "refused", "1.3.1", why="nickname taken")
        assert pipe.sessions[1].said == ["new", "append nickname", "delete"]

    with_services(tmp_path, script)


@pytest.mark.parametrize(
    ("fails", "said", "made", "indexed"),
    [
        ("new", ["new"], False, False),
        ("append nickname", ["new", "append nickname name email", "store"], False, False),
        ("append id", ["new", "append nickname name email", "append id", "store"], True, False),
        ("delete", ["new", "append nickname name email", "append id", "delete", "store"], True, True),
    ],
)
def test_any_refusal_of_the_pipe_leaves_the_session_to_it(
    tmp_path: Path, fails: str, said: list[str], made: bool, indexed: bool
) -> None:
    """On an error the client leaves at once and undoes nothing."""

    async def script(a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        pipe = FakePipe(fails)
        with pytest.raises(Fenced):
            await create(pipe, ZOE, a, b)
        assert pipe.sessions[0].said == said
        assert ((await a.get("/users/1")).status_code == 200) is made
        assert ((await b.get("/index/1")).status_code == 200) is indexed

    with_services(tmp_path, script)


def test_the_fences_409_is_an_error_and_leaves_the_session(tmp_path: Path) -> None:
    """Fenced off by a repeat: the client must not delete a session that is no longer its own."""

    async def script(a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        newer = {"Mpy6a-Session": "1.3.0", "Mpy6a-Fence": str(3 << 32 | 2)}
        await a.post("/users/find", json={"nickname": "zoe"}, headers=newer)
        pipe = FakePipe()
        with pytest.raises(httpx.HTTPStatusError):
            await create(pipe, ZOE, a, b)
        assert pipe.sessions[0].said[-1] == "store"

    with_services(tmp_path, script)


def test_a_later_life_goes_on_after_the_journals_rows(tmp_path: Path) -> None:
    """What was begun in any life is never begun again, however it ended; every other row is, once."""
    people = [Person(line, {"nickname": f"n{line}"}) for line in range(2, 12)]

    async def script(a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        with Journal(tmp_path / "journal") as journal:
            journal.write(Entry(3, "n3", "started"))
            journal.write(Entry(5, "n5", "started"))
            journal.write(Entry(5, "n5", "left"))
        pipe = FakePipe()
        with Journal(tmp_path / "journal") as journal:
            await client.create_all(cast("mpy6a.AsyncPipe", pipe), journal, people, tasks=4, rate=0)
        assert len(pipe.sessions) == 8
        entries = read(tmp_path / "journal")
        assert sorted(entry.row for entry in entries if entry.phase == "started") == list(range(2, 12))
        assert {entry.row for entry in entries if entry.phase == "done"} == set(range(2, 12)) - {3, 5}

    with_services(tmp_path, script)


def test_a_row_is_journaled_before_its_session_and_left_with_its_reason(tmp_path: Path) -> None:
    """An error of a service or of the pipe leaves the row, and the next one is taken."""
    people = [Person(2, {"nickname": "a"}), Person(3, {"nickname": "b"})]

    async def script(a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        pipe = FakePipe("append nickname")
        with Journal(tmp_path / "journal") as journal:
            await client.create_all(cast("mpy6a.AsyncPipe", pipe), journal, people, tasks=1, rate=0)
        entries = read(tmp_path / "journal")
        assert [(entry.row, entry.phase) for entry in entries] == [
            (2, "started"), (2, "left"), (3, "started"), (3, "left"),
        ]  # fmt: skip
        assert entries[1].why == "Fenced: 1.3.0: another writer"

    with_services(tmp_path, script)
