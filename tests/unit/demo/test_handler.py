"""The Python handler takes the seeds' five steps, and deletes a session only when nothing is left to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from aiohttp.test_utils import TestServer

import mpy6a
from mpy6a.demo import handler, search, users
from mpy6a.demo.service import Settings

ZOE: dict[str, object] = {"nickname": "Zoë", "name": "Z"}


@dataclass
class FakeSession:
    """A pushed session: its fence, and whether the handler deleted it."""

    epoch: int
    said: list[str] = field(default_factory=list)

    @property
    def fence(self) -> dict[str, str]:
        return {"Mpy6a-Session": "1.3.5", "Mpy6a-Fence": str(3 << 32 | self.epoch)}

    async def delete(self) -> None:
        self.said.append("delete")


class FakeRecord(bytes):
    """Bytes with `.json()`, as in the library."""

    def json(self) -> object:
        return json.loads(self)


class Both:
    """Services A and B, and the handler that calls them."""

    def __init__(self, a: httpx.AsyncClient, b: httpx.AsyncClient) -> None:
        self.a, self.b = a, b

    async def push(self, epoch: int, *records: dict[str, object]) -> list[str]:
        """One run; what it said to the pipe."""
        session = FakeSession(epoch)
        repeat = SimpleNamespace(
            session=session, records=[FakeRecord(json.dumps(record).encode()) for record in records]
        )
        await handler.finish_user_create(cast("mpy6a.RepeatData", repeat))
        return session.said

    async def create(self, epoch: int) -> int:
        answer = await self.a.post("/users", json=ZOE, headers=FakeSession(epoch).fence)
        return answer.status_code


def with_both(path: Path, script: Callable[[Both], Awaitable[None]]) -> None:
    async def run() -> None:
        a = users.app(Settings("users", 0, path / "a.db"))
        b = search.app(Settings("search", 0, path / "b.db"))
        async with TestServer(a) as at_a, TestServer(b) as at_b:
            url_a, url_b = str(at_a.make_url("")), str(at_b.make_url(""))
            async with (
                httpx.AsyncClient(base_url=url_a, verify=False) as to_a,
                httpx.AsyncClient(base_url=url_b, verify=False) as to_b,
            ):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(handler, "A", to_a)
                    patch.setattr(handler, "B", to_b)
                    await asyncio.wait_for(script(Both(to_a, to_b)), 10)

    asyncio.run(run())


@pytest.mark.parametrize("known", [False, True])
def test_a_user_that_is_there_is_indexed_and_the_session_deleted(tmp_path: Path, known: bool) -> None:
    """By nickname, or by its identifier when the client had written it down."""

    async def script(both: Both) -> None:
        assert await both.create(epoch=1) == 201
        records: list[dict[str, object]] = [ZOE, {"id": 1}] if known else [ZOE]
        assert await both.push(2, *records) == ["delete"]
        assert (await both.b.get("/index/1")).json() == ZOE | {"id": 1}

    with_both(tmp_path, script)


def test_a_user_that_is_not_there_ends_the_session_and_fences_its_creator_off(tmp_path: Path) -> None:
    """Nothing is left to finish, and the client's late create comes to nothing."""

    async def script(both: Both) -> None:
        assert await both.push(2, ZOE) == ["delete"]
        assert await both.create(epoch=1) == 409

    with_both(tmp_path, script)


def test_a_session_without_records_was_never_begun(tmp_path: Path) -> None:
    """The client died between its first and second step."""

    async def script(both: Both) -> None:
        assert await both.push(2) == ["delete"]

    with_both(tmp_path, script)


def test_any_error_leaves_the_session_to_be_repeated(tmp_path: Path) -> None:
    """A run that was fenced off raises and deletes nothing."""

    async def script(both: Both) -> None:
        assert await both.create(epoch=3) == 201
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            await both.push(2, ZOE)
        assert (await both.b.get("/index/1")).status_code == 404

    with_both(tmp_path, script)
