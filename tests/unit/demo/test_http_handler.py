"""The HTTP endpoint takes the seeds' five steps, and answers 204 only when the session may be deleted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mpy6a.demo import http_handler, search, users
from mpy6a.demo.service import Settings


class Both:
    """Services A and B on loopback ports, with the handler's endpoint in each."""

    def __init__(self, session: aiohttp.ClientSession, a: str, b: str) -> None:
        self._session, self.a, self.b = session, a, b

    async def push(
        self, epoch: int, *records: dict[str, object], at: str = "", form: str = "base64"
    ) -> tuple[int, str]:
        """One POST as the sidecar makes it."""
        encoded: list[dict[str, object]] = []
        for record in records:
            text = json.dumps(record)
            whole = {"base64": base64.b64encode(text.encode()).decode(), "text": text, "json": record}
            encoded.append({form: whole[form]})
        content = {
            "session": "1.3.5", "epoch": epoch, "fence": str(3 << 32 | epoch), "kind": "user-create",
            "repeats": epoch - 1, "cancel": False, "records": encoded,
        }  # fmt: skip
        async with self._session.post((at or self.a) + http_handler.PATH, json=content) as answer:
            return answer.status, await answer.text()

    async def call(self, method: str, url: str, content: object = None, epoch: int = 0) -> int:
        headers = {"Mpy6a-Session": "1.3.5", "Mpy6a-Fence": str(3 << 32 | epoch)} if epoch else {}
        async with self._session.request(method, url, json=content, headers=headers) as answer:
            return answer.status


def with_both(
    path: Path,
    script: Callable[[Both], Awaitable[None]],
    *,
    make_b: Callable[[Path], web.Application] | None = None,
) -> None:
    async def run() -> None:
        a = users.app(Settings("users", 0, path / "a.db"))
        b = make_b(path) if make_b else search.app(Settings("search", 0, path / "b.db"))
        async with TestServer(a) as at_a, TestServer(b) as at_b, aiohttp.ClientSession() as session:
            with pytest.MonkeyPatch.context() as patch:
                url_a, url_b = str(at_a.make_url("")).rstrip("/"), str(at_b.make_url("")).rstrip("/")
                patch.setenv("MPY6A_DEMO_USERS", url_a)
                patch.setenv("MPY6A_DEMO_SEARCH", url_b)
                await asyncio.wait_for(script(Both(session, url_a, url_b)), 10)

    asyncio.run(run())


ZOE: dict[str, object] = {"nickname": "Zoë", "name": "Z"}


@pytest.mark.parametrize("form", ["base64", "text", "json"])
@pytest.mark.parametrize("known", [False, True])
def test_a_user_that_is_there_is_indexed(tmp_path: Path, form: str, known: bool) -> None:
    """By nickname, or by its identifier when the client had written it down; in either service's endpoint."""

    async def script(both: Both) -> None:
        assert await both.call("POST", f"{both.a}/users", ZOE, epoch=1) == 201
        records = (ZOE, {"id": 1}) if known else (ZOE,)
        assert await both.push(2, *records, at=both.b, form=form) == (204, "")
        assert await both.call("GET", f"{both.b}/index/1") == 200

    with_both(tmp_path, script)


def test_a_user_that_is_not_there_ends_the_session_and_fences_its_creator_off(tmp_path: Path) -> None:
    """Nothing is left to finish, and the client's late create comes to nothing."""

    async def script(both: Both) -> None:
        assert await both.push(2, ZOE) == (204, "")
        assert await both.call("POST", f"{both.a}/users", ZOE, epoch=1) == 409

    with_both(tmp_path, script)


def test_a_session_without_records_was_never_begun(tmp_path: Path) -> None:
    """The client died between its first and second step."""

    async def script(both: Both) -> None:
        assert await both.push(2) == (204, "")

    with_both(tmp_path, script)


def test_an_error_of_b_fails_the_run(tmp_path: Path) -> None:
    """Any error: leave at once, the session repeats later."""

    def broken(path: Path) -> web.Application:
        async def refuse(request: web.Request) -> web.Response:
            return web.json_response({"error": "no"}, status=503)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", refuse)
        return app

    async def script(both: Both) -> None:
        assert await both.call("POST", f"{both.a}/users", ZOE, epoch=1) == 201
        status, text = await both.push(2, ZOE)
        assert status == 502
        assert "B answered 503" in text

    with_both(tmp_path, script, make_b=broken)


def test_a_run_that_was_fenced_off_fails(tmp_path: Path) -> None:
    """An older run of the handler does no harm, and does not say that the session is finished."""

    async def script(both: Both) -> None:
        assert await both.call("POST", f"{both.a}/users", ZOE, epoch=3) == 201
        status, text = await both.push(2, ZOE)
        assert status == 502
        assert "A answered 409: fenced" in text
        assert await both.call("GET", f"{both.b}/index/1") == 404

    with_both(tmp_path, script)


def test_a_service_that_is_down_fails_the_run(tmp_path: Path) -> None:
    """A refused connection is an error like any other."""

    async def script(both: Both) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MPY6A_DEMO_USERS", "http://127.0.0.1:9")
            assert (await both.push(2, ZOE))[0] == 502

    with_both(tmp_path, script)


def test_a_record_that_is_none_parks(tmp_path: Path) -> None:
    """What no repeat can mend is for an operator: 422."""

    async def script(both: Both) -> None:
        for record in ({"text": "[]"}, {"base64": "!"}, {"text": "{"}, {"other": 1}):
            content = {"session": "1.3.5", "fence": "7", "records": [record]}
            assert await both.call("POST", both.a + http_handler.PATH, content) == 422, record

    with_both(tmp_path, script)
