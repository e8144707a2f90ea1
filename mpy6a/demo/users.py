"""Service A of the demo: create, read, update and delete users over HTTP, in SQLite.

    POST   /users        {"nickname": ..., ...}   201 and the user with its id
    POST   /users/find   {"id": ...} or {"nickname": ...}   200 and the user, or 404
    GET    /users/ID     PUT /users/ID    DELETE /users/ID     GET /users?after=ID&limit=N
    GET    /stats        POST /mpy6a/user-create (the repeat handler, http_handler.py)

A nickname is unique: a second user of that name is refused with 409 and error "nickname taken"; an older
fence with 409 and error "fenced". A session makes one user at most: creating the same nickname in the same
session again answers the user that is there. A look-up *by nickname* inside a session finds only what that
session created: a repeat must not adopt, and index as its own, the namesake that made its own create fail.

Run as `python -m mpy6a.demo.users --port P --db FILE --seed S --fail P [--no-guard]`.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from aiohttp import web

from mpy6a.demo import http_handler
from mpy6a.demo.service import SERVICE, Settings, Visit, arguments, body, make_app, serve
from mpy6a.errors import BadRequest

NICKNAME_CHARACTERS_MAX: Final = 64
PAGE_USERS_MAX: Final = 500

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS user (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    nickname TEXT NOT NULL UNIQUE,
    data TEXT NOT NULL,
    session TEXT UNIQUE
);
"""


def app(settings: Settings) -> web.Application:
    """The service with its routes."""
    made = make_app(settings, _SCHEMA)
    made.router.add_post("/users", _create)
    made.router.add_post("/users/find", _find)
    made.router.add_get("/users", _page)
    made.router.add_get(r"/users/{id:\d{1,18}}", _get)
    made.router.add_put(r"/users/{id:\d{1,18}}", _put)
    made.router.add_delete(r"/users/{id:\d{1,18}}", _delete)
    http_handler.add(made)
    return made


async def _create(request: web.Request) -> web.Response:
    person = await body(request)
    nickname = _nickname(person)
    with request.app[SERVICE].work(request, "create") as visit:
        session = visit.caller.session
        mine = _row(visit, "session", session) if session is not None else None
        if mine is not None:
            if mine[1] == nickname:
                return _answer(visit, 201, _user(mine))
            return _answer(visit, 409, {"error": "this session made another user", "id": mine[0]})
        try:
            made = visit.connection.execute(
                "INSERT INTO user (nickname, data, session) VALUES (?, ?, ?)",
                (nickname, _data(person), session),
            )
        except sqlite3.IntegrityError:
            return _answer(visit, 409, {"error": "nickname taken", "nickname": nickname})
        return _answer(visit, 201, person | {"id": made.lastrowid})


async def _find(request: web.Request) -> web.Response:
    by = await body(request)
    with request.app[SERVICE].work(request, "find") as visit:
        if "id" in by:
            row = _row(visit, "id", by["id"])
        else:
            row = _row(visit, "nickname", _nickname(by))
            if row is not None and visit.caller.session not in (None, row[3]):
                row = None
        if row is None:
            return _answer(visit, 404, {"error": "no such user"})
        return _answer(visit, 200, _user(row))


async def _get(request: web.Request) -> web.Response:
    with request.app[SERVICE].work(request, "get") as visit:
        row = _row(visit, "id", int(request.match_info["id"]))
        if row is None:
            return _answer(visit, 404, {"error": "no such user"})
        return _answer(visit, 200, _user(row))


async def _put(request: web.Request) -> web.Response:
    person = await body(request)
    nickname, number = _nickname(person), int(request.match_info["id"])
    with request.app[SERVICE].work(request, "update") as visit:
        try:
            changed = visit.connection.execute(
                "UPDATE user SET nickname = ?, data = ? WHERE id = ?", (nickname, _data(person), number)
            )
        except sqlite3.IntegrityError:
            return _answer(visit, 409, {"error": "nickname taken", "nickname": nickname})
        if changed.rowcount == 0:
            return _answer(visit, 404, {"error": "no such user"})
        return _answer(visit, 200, person | {"id": number})


async def _delete(request: web.Request) -> web.Response:
    with request.app[SERVICE].work(request, "delete") as visit:
        gone = visit.connection.execute("DELETE FROM user WHERE id = ?", (int(request.match_info["id"]),))
        return _answer(visit, 200 if gone.rowcount else 404, {"deleted": gone.rowcount})


async def _page(request: web.Request) -> web.Response:
    try:
        after, limit = int(request.query.get("after", "0")), int(request.query.get("limit", "100"))
    except ValueError as error:
        raise BadRequest("after and limit are numbers") from error
    if not (0 <= after < 1 << 63 and 1 <= limit <= PAGE_USERS_MAX):
        raise BadRequest(f"after is a user's id, limit 1 to {PAGE_USERS_MAX}")
    with request.app[SERVICE].work(request, "page") as visit:
        rows = visit.connection.execute(
            "SELECT id, nickname, data, session FROM user WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return _answer(visit, 200, {"users": [_user(row) for row in rows]})


Row = tuple[int, str, str, str | None]


def _row(visit: Visit, column: str, value: object) -> Row | None:
    """One user by a column of ours (never the caller's word, so it may stand in the statement)."""
    if not isinstance(value, int | str) or (isinstance(value, int) and not 0 <= value < 1 << 63):
        raise BadRequest(f"{column} is {value!r:.80}, allowed is a number or text")
    query = f"SELECT id, nickname, data, session FROM user WHERE {column} = ?"
    found: Row | None = visit.connection.execute(query, (value,)).fetchone()
    return found


def _user(row: Row) -> dict[str, object]:
    data: dict[str, object] = json.loads(row[2])
    return data | {"nickname": row[1], "id": row[0]}


def _data(person: dict[str, object]) -> str:
    return json.dumps({key: value for key, value in person.items() if key not in ("id", "nickname")})


def _nickname(person: dict[str, object]) -> str:
    nickname = person.get("nickname")
    if not isinstance(nickname, str) or not 0 < len(nickname) <= NICKNAME_CHARACTERS_MAX:
        raise BadRequest(f"a user needs a nickname of 1 to {NICKNAME_CHARACTERS_MAX} characters")
    return nickname


def _answer(visit: Visit, status: int, content: dict[str, object]) -> web.Response:
    visit.answer = status
    return web.json_response(content, status=status)


if __name__ == "__main__":
    chosen = arguments("users")
    serve(app(chosen), chosen.port)
