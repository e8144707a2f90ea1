"""The demo's services do plain CRUD and search, and hold an older fence off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mpy6a.demo import search, users
from mpy6a.demo.service import SERVICE, Settings

Answer = tuple[int, dict[str, object]]


class Caller:
    """Calls a service as one writer of one session, or as nobody's."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def __call__(
        self,
        method: str,
        path: str,
        content: object = None,
        fence: tuple[str, int] | None = None,
        data: str = "",
    ) -> Answer:
        headers = {"User-Agent": "test"}
        if fence is not None:
            headers |= {"Mpy6a-Session": fence[0], "Mpy6a-Fence": str(3 << 32 | fence[1])}
        body = data or (json.dumps(content) if content is not None else None)
        async with self._session.request(method, self._url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.json()


Script = Callable[[Caller], Awaitable[None]]


def run(app: web.Application, script: Script) -> None:
    """Run the script against the service on a loopback port."""

    async def serve() -> None:
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            await asyncio.wait_for(script(Caller(session, str(server.make_url("")))), 10)

    asyncio.run(serve())


def service_a(path: Path, *, guard: bool = True) -> web.Application:
    return users.app(Settings("users", 0, path / "users.db", guard=guard))


def service_b(path: Path) -> web.Application:
    return search.app(Settings("search", 0, path / "search.db"))


ZOE = {"nickname": 'Zoë "the fox"', "name": "Zoë, Ångström\nII", "email": ""}


def test_users_can_be_created_read_updated_and_deleted(tmp_path: Path) -> None:
    """CRUD as anyone knows it, for callers without a session."""

    async def script(call: Caller) -> None:
        assert await call("POST", "/users", ZOE) == (201, ZOE | {"id": 1})
        assert await call("GET", "/users/1") == (200, ZOE | {"id": 1})
        assert await call("POST", "/users/find", {"nickname": ZOE["nickname"]}) == (200, ZOE | {"id": 1})
        assert await call("PUT", "/users/1", {"nickname": "zoe"}) == (200, {"nickname": "zoe", "id": 1})
        assert await call("POST", "/users", {"nickname": "李雷"}) == (201, {"nickname": "李雷", "id": 2})
        assert (await call("PUT", "/users/2", {"nickname": "zoe"}))[0] == 409
        assert await call("GET", "/users?after=1") == (200, {"users": [{"nickname": "李雷", "id": 2}]})
        assert await call("DELETE", "/users/1") == (200, {"deleted": 1})
        for method, path in (("GET", "/users/1"), ("PUT", "/users/1"), ("DELETE", "/users/1")):
            assert (await call(method, path, {"nickname": "x"}))[0] == 404

    run(service_a(tmp_path), script)


def test_a_nickname_taken_is_another_409_than_a_fence(tmp_path: Path) -> None:
    """The caller can tell "that name is taken" from "you were fenced off"."""

    async def script(call: Caller) -> None:
        assert (await call("POST", "/users", ZOE, ("1.3.5", 1)))[0] == 201
        status, content = await call("POST", "/users", ZOE, ("1.3.6", 1))
        assert (status, content["error"]) == (409, "nickname taken")
        assert (await call("POST", "/users/find", {"id": 1}, ("1.3.5", 2)))[0] == 200
        status, content = await call("POST", "/users", ZOE, ("1.3.5", 1))
        assert (status, content["error"]) == (409, "fenced")

    run(service_a(tmp_path), script)


def test_creating_again_in_the_same_session_answers_the_same_user(tmp_path: Path) -> None:
    """A session makes one user at most, whatever is sent twice."""

    async def script(call: Caller) -> None:
        made = await call("POST", "/users", ZOE, ("1.3.5", 1))
        assert await call("POST", "/users", ZOE, ("1.3.5", 1)) == made
        status, content = await call("POST", "/users", {"nickname": "other"}, ("1.3.5", 1))
        assert (status, content["error"]) == (409, "this session made another user")

    run(service_a(tmp_path), script)


def test_a_look_up_by_nickname_never_adopts_another_sessions_user(tmp_path: Path) -> None:
    """A repeat whose create was refused finds nothing, although its namesake is there."""

    async def script(call: Caller) -> None:
        await call("POST", "/users", ZOE, ("1.3.5", 1))
        by = {"nickname": ZOE["nickname"]}
        assert (await call("POST", "/users/find", by, ("1.3.6", 2)))[0] == 404
        assert (await call("POST", "/users/find", by, ("1.3.5", 2)))[0] == 200
        assert (await call("POST", "/users/find", {"id": 1}, ("1.3.6", 2)))[0] == 200

    run(service_a(tmp_path), script)


@pytest.mark.parametrize(("guard", "created"), [(True, 409), (False, 201)])
def test_a_create_that_comes_after_the_handler_looked_is_refused(tmp_path: Path, guard: bool, created: int) -> None:
    """The zombie create: the look-up that found nothing fences it off; without a guard it lives."""

    async def script(call: Caller) -> None:
        by = {"nickname": ZOE["nickname"]}
        assert (await call("POST", "/users/find", by, ("1.3.5", 2)))[0] == 404
        assert (await call("POST", "/users", ZOE, ("1.3.5", 1)))[0] == created

    app = service_a(tmp_path, guard=guard)
    run(app, script)
    again = service_a(tmp_path)
    connection = again[SERVICE].connection
    assert connection.execute("SELECT count(*) FROM user").fetchone() == (0 if guard else 1,)
    refused = connection.execute("SELECT session, fence, what, agent FROM refusal").fetchall()
    assert refused == ([("1.3.5", 3 << 32 | 1, "create", "test")] if guard else [])
    visits = connection.execute("SELECT fence & 4294967295, what, answer FROM visit ORDER BY 1").fetchall()
    assert visits == ([(2, "find", 404)] if guard else [(1, "create", 201), (2, "find", 404)])
    assert again[SERVICE].run == 2
    again[SERVICE].close()


def test_what_is_indexed_is_found_by_any_of_its_words(tmp_path: Path) -> None:
    """Search ignores case and accents, matches prefixes, needs every word, and reads nothing as syntax."""

    async def script(call: Caller) -> None:
        assert (await call("PUT", "/index/7", ZOE | {"id": 7}, ("1.3.5", 1)))[0] == 200
        assert (await call("PUT", "/index/8", {"nickname": "Иван", "note": "любит чай"}))[0] == 200
        one: list[dict[str, object]] = [{"id": 7, "nickname": ZOE["nickname"]}]
        two: list[dict[str, object]] = [{"id": 8, "nickname": "Иван"}]
        for query, found in (
            ("zoe", one), ("ANGS", one), ("fox zoë", one), ("чай", two), ("fox чай", []),
            ('"', []), ("NEAR(", []), ("* OR fox", []), ("nickname:zoe", []),
            ("a'); DROP TABLE words; --", []),
        ):  # fmt: skip
            assert await call("GET", f"/search?q={quote(query)}") == (
                200,
                {"found": found},
            ), query
        assert (await call("PUT", "/index/7", {"nickname": "renamed"}))[0] == 200
        assert await call("GET", "/search?q=fox") == (200, {"found": []})
        assert (await call("GET", "/index/7"))[0] == 200
        assert await call("DELETE", "/index/7") == (200, {"deleted": 1})
        assert (await call("GET", "/index/7"))[0] == 404
        assert (await call("DELETE", "/index/7"))[0] == 404

    run(service_b(tmp_path), script)


def test_indexing_is_held_off_by_a_newer_fence(tmp_path: Path) -> None:
    """A predecessor's late index cannot replace what its successor indexed."""

    async def script(call: Caller) -> None:
        assert (await call("PUT", "/index/7", {"nickname": "new"}, ("1.3.5", 2)))[0] == 200
        status, content = await call("PUT", "/index/7", {"nickname": "old"}, ("1.3.5", 1))
        assert (status, content["error"]) == (409, "fenced")
        assert await call("GET", "/index/7") == (200, {"nickname": "new"})

    run(service_b(tmp_path), script)


def test_a_bad_request_gets_400_and_changes_nothing(tmp_path: Path) -> None:
    """What cannot be read is the caller's fault, said in words."""

    async def script(call: Caller) -> None:
        for data in ("", "{", "[]", "[" * 20_000, '{"name": "x"}', '{"nickname": ""}', '{"nickname": 5}',
                     '{"nickname": "%s"}' % ("x" * 65), '{"nickname": "\\ud800"}'):  # fmt: skip
            assert (await call("POST", "/users", data=data or " "))[0] == 400, data
        assert (await call("POST", "/users/find", {"id": [1]}))[0] == 400
        assert (await call("POST", "/users/find", {"id": 2**64}))[0] == 400
        assert (await call("GET", "/users?limit=0"))[0] == 400
        assert (await call("POST", "/users", ZOE, ("", 1)))[0] == 400
        assert await call("GET", "/users") == (200, {"users": []})

    run(service_a(tmp_path), script)


def test_stats_tell_what_is_under_way(tmp_path: Path) -> None:
    """An audit can wait for the last request that hangs."""

    async def script(call: Caller) -> None:
        assert await call("GET", "/stats") == (200, {"run": 1, "in_flight": 0})

    run(service_a(tmp_path), script)
