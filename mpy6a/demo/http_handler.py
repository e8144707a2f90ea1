"""The seeds' repeat handler of "user-create" as an HTTP endpoint, as a service in any language has it.

The sidecar POSTs the RepeatData; 204 says "delete: finished", any 5xx "fail: repeat later". It is the same
five steps as handler.py, with nothing of the library: a JSON body in, two services asked, a status out.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Final

import aiohttp
from aiohttp import web

PATH: Final = "/mpy6a/user-create"
TIMEOUT_S: Final = 5.0  # of one call to A or B, as in handler.py

_CALLS: Final = web.AppKey("calls", aiohttp.ClientSession)


class _Leave(Exception):
    """An error of A or B: leave at once, the session repeats later (seeds: "on any error")."""


def add(app: web.Application) -> None:
    """Mount the endpoint on a service."""
    app.router.add_post(PATH, finish_user_create)
    app.on_startup.append(_open)
    app.on_cleanup.append(_close)


async def finish_user_create(request: web.Request) -> web.Response:
    """Finish or roll back one session of "user-create"."""
    push = json.loads(await request.text())
    calls = request.app[_CALLS]
    headers = {
        "Mpy6a-Session": push["session"],
        "Mpy6a-Fence": push["fence"],
        "User-Agent": f"mpy6a-demo-handler/{os.environ.get('MPY6A_DEMO_AT', 'http')}",
    }
    users = os.environ.get("MPY6A_DEMO_USERS", "http://127.0.0.1:8001")
    search = os.environ.get("MPY6A_DEMO_SEARCH", "http://127.0.0.1:8002")

    facts = {key: value for record in push["records"] for key, value in _record(record).items()}  # 1
    if not facts:
        return web.Response(status=204)
    by = {"id": facts["id"]} if "id" in facts else {"nickname": facts["nickname"]}
    try:
        status, user = await _call(calls, "POST", f"{users}/users/find", by, headers)  # 2
        if status == 404:
            return web.Response(status=204)  # 3
        if status != 200:
            raise _Leave(f"A answered {status}: {user.get('error')}")
        status, found = await _call(calls, "PUT", f"{search}/index/{user['id']}", user, headers)  # 4
        if status != 200:
            raise _Leave(f"B answered {status}: {found.get('error')}")
    except (_Leave, aiohttp.ClientError, TimeoutError, ValueError) as error:
        return web.json_response({"error": str(error) or type(error).__name__}, status=502)
    return web.Response(status=204)  # 5


def _record(record: dict[str, object]) -> dict[str, object]:
    """One record in whichever form the route's `records:` chose."""
    try:
        match record:
            case {"base64": str(text)}:
                found = json.loads(base64.b64decode(text, validate=True))
            case {"text": str(text)}:
                found = json.loads(text)
            case {"json": found}:
                pass
            case _:
                raise web.HTTPUnprocessableEntity(text="a record is neither base64 nor text nor json")
    except ValueError as error:
        raise web.HTTPUnprocessableEntity(text=f"a record cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise web.HTTPUnprocessableEntity(text="a record of user-create must be a JSON object")
    return found


async def _call(
    calls: aiohttp.ClientSession, method: str, url: str, content: object, headers: dict[str, str]
) -> tuple[int, dict[str, object]]:
    async with calls.request(method, url, json=content, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def _open(app: web.Application) -> None:
    app[_CALLS] = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def _close(app: web.Application) -> None:
    await app[_CALLS].close()
