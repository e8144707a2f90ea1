"""Service B of the demo: indexes users and searches them over HTTP, with SQLite's full-text search.

    PUT    /index/ID     {"nickname": ..., ...}   200; indexing again replaces
    GET    /index/ID     200 or 404               DELETE /index/ID   200 or 404
    GET    /search?q=words&limit=N                users that hold every word (a word matches as a prefix)
    GET    /stats        POST /mpy6a/user-create (the repeat handler, http_handler.py)

An older fence gets 409 and error "fenced". Run as
`python -m mpy6a.demo.search --port P --db FILE --seed S --fail P [--no-guard]`.
"""

from __future__ import annotations

import json
from typing import Final

from aiohttp import web

from mpy6a.demo import http_handler
from mpy6a.demo.service import SERVICE, Settings, arguments, body, make_app, serve
from mpy6a.errors import BadRequest

WORDS_MAX: Final = 16
FOUND_MAX: Final = 100

# The text is kept twice on purpose: `document` is what was indexed, `words` is how it is found.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS document (id INTEGER PRIMARY KEY, nickname TEXT NOT NULL, data TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, tokenize = "unicode61 remove_diacritics 2");
"""


def app(settings: Settings) -> web.Application:
    """The service with its routes."""
    made = make_app(settings, _SCHEMA)
    made.router.add_put(r"/index/{id:\d{1,18}}", _put)
    made.router.add_get(r"/index/{id:\d{1,18}}", _get)
    made.router.add_delete(r"/index/{id:\d{1,18}}", _delete)
    made.router.add_get("/search", _search)
    http_handler.add(made)
    return made


async def _put(request: web.Request) -> web.Response:
    user, number = await body(request), int(request.match_info["id"])
    nickname = user.get("nickname")
    if not isinstance(nickname, str) or not nickname:
        raise BadRequest("a user needs a nickname")
    text = "\n".join(value for key, value in user.items() if isinstance(value, str) and key != "id")
    with request.app[SERVICE].work(request, "index") as visit:
        visit.connection.execute("DELETE FROM words WHERE rowid = ?", (number,))
        visit.connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, text))
        visit.connection.execute(
            "INSERT OR REPLACE INTO document VALUES (?, ?, ?)", (number, nickname, json.dumps(user))
        )
        return web.json_response({"id": number})


async def _get(request: web.Request) -> web.Response:
    with request.app[SERVICE].work(request, "get") as visit:
        row = visit.connection.execute(
            "SELECT data FROM document WHERE id = ?", (int(request.match_info["id"]),)
        ).fetchone()
        if row is None:
            visit.answer = 404
            return web.json_response({"error": "not indexed"}, status=404)
        return web.json_response(json.loads(row[0]))


async def _delete(request: web.Request) -> web.Response:
    number = int(request.match_info["id"])
    with request.app[SERVICE].work(request, "delete") as visit:
        visit.connection.execute("DELETE FROM words WHERE rowid = ?", (number,))
        gone = visit.connection.execute("DELETE FROM document WHERE id = ?", (number,)).rowcount
        visit.answer = 200 if gone else 404
        return web.json_response({"deleted": gone}, status=visit.answer)


async def _search(request: web.Request) -> web.Response:
    try:
        limit = int(request.query.get("limit", "20"))
    except ValueError as error:
        raise BadRequest("limit is a number") from error
    words = request.query.get("q", "").split()
    if not words or len(words) > WORDS_MAX or not 1 <= limit <= FOUND_MAX:
        raise BadRequest(f"q is 1 to {WORDS_MAX} words, limit 1 to {FOUND_MAX}")
    with request.app[SERVICE].work(request, "search") as visit:
        rows = visit.connection.execute(
            "SELECT document.id, document.nickname FROM words JOIN document ON document.id = words.rowid "
            "WHERE words MATCH ? ORDER BY rank, document.id LIMIT ?",
            (_query(words), limit),
        )
        return web.json_response({"found": [{"id": row[0], "nickname": row[1]} for row in rows]})


def _query(words: list[str]) -> str:
    """Every word as a quoted prefix, so that nothing a person types is read as FTS5 syntax."""
    return " ".join('"' + word.replace('"', '""').replace("\0", " ") + '"*' for word in words)


if __name__ == "__main__":
    chosen = arguments("search")
    serve(app(chosen), chosen.port)
