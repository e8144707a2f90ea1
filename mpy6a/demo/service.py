"""What the demo's two services share: a durable SQLite file, guarded transactions, faults, own records.

They are plain services: they know the fence (one guard call in the transaction of their work) and nothing of
retries, sessions or the pipe. What the audit wants to know they keep in their own database: `visit` says
which fence did what, in the transaction of the work; `refusal` says which older fence was turned away.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from mpy6a import guard
from mpy6a.demo import faults
from mpy6a.errors import BadRequest, Fenced

BODY_BYTES_MAX: Final = 64 * 1024  # a person is a few hundred bytes
STATS_PATH: Final = "/stats"

EPOCH_MASK: Final = 0xFFFF_FFFF  # the epoch is the low half of a fence; above 1 a handler is at work

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS run (number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS visit (
    session TEXT NOT NULL, fence INTEGER NOT NULL, what TEXT NOT NULL, answer INTEGER NOT NULL,
    agent TEXT NOT NULL,
    PRIMARY KEY (session, fence, what, answer)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusal (
    session TEXT NOT NULL, fence INTEGER NOT NULL, what TEXT NOT NULL, agent TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one service is started."""

    name: str
    port: int
    db: Path
    seed: int = 0
    fail: float = 0.0
    guard: bool = True


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: session and fence of the request's headers (None and 0 outside a session) and the agent."""

    session: str | None
    fence: int
    agent: str


class Service:
    """One service's database and what it counts; the HTTP routes are added by users.py and search.py."""

    def __init__(self, settings: Settings, schema: str) -> None:
        self.settings = settings
        self.in_flight = 0
        self.connection = sqlite3.connect(settings.db, isolation_level=None, timeout=30)
        # WAL lets the audit and the progress line read beside us; FULL syncs every commit: it survives
        # SIGKILL and power loss.
        self.connection.execute("PRAGMA journal_mode = wal")
        self.connection.execute("PRAGMA synchronous = full")
        self.connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{schema}COMMIT;")
        with self.transaction():
            guard.create(self.connection)
            runs = self.connection.execute("SELECT number FROM run").fetchone()
            self.run = runs[0] + 1 if runs else 1
            self.connection.execute("DELETE FROM run")
            self.connection.execute("INSERT INTO run VALUES (?)", (self.run,))

    def close(self) -> None:
        """Close the database; whatever is not committed is gone."""
        self.connection.close()

    def tell(self, line: str) -> None:
        """One line of the service's output, flushed at once because the next moment may be a SIGKILL."""
        print(f"{self.settings.name} run={self.run} {line}", flush=True)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE, then commit or roll back. No await may stand inside: there is one connection."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()

    @contextmanager
    def work(self, request: web.Request, what: str) -> Iterator[Visit]:
        """The transaction of one request's work, with the one guard call at its head.

        Set `answer` of what it yields: it is recorded with the work. Raises `Fenced` for an older fence; the
        refusal is recorded in a transaction of its own.
        """
        caller = caller_of(request)
        try:
            with self.transaction() as connection:
                if caller.session is not None and self.settings.guard:
                    guard.check(connection, headers=request.headers)
                visit = Visit(connection, caller)
                yield visit
                if caller.session is not None:
                    connection.execute(
                        "INSERT OR REPLACE INTO visit VALUES (?, ?, ?, ?, ?)",
                        (caller.session, caller.fence, what, visit.answer, caller.agent),
                    )
        except Fenced:
            with self.transaction() as connection:
                connection.execute(
                    "INSERT INTO refusal VALUES (?, ?, ?, ?)",
                    (caller.session, caller.fence, what, caller.agent),
                )
            raise


@dataclass(slots=True)
class Visit:
    """One guarded transaction: its connection, its caller, and the status it will answer."""

    connection: sqlite3.Connection
    caller: Caller
    answer: int = 200


SERVICE: Final = web.AppKey("service", Service)


def caller_of(request: web.Request) -> Caller:
    """Session and fence as the headers say; half of them is a mistake of the caller (`BadRequest`)."""
    session = request.headers.get(guard.SESSION_HEADER)
    fence = request.headers.get(guard.FENCE_HEADER)
    agent = request.headers.get("User-Agent", "")[:80]
    if session is None and fence is None:
        return Caller(None, 0, agent)
    if not session or fence is None or not fence.isdecimal() or len(fence) > 19:
        raise BadRequest(f"send both {guard.SESSION_HEADER} and {guard.FENCE_HEADER} (a number), or none")
    return Caller(session, int(fence), agent)


async def body(request: web.Request) -> dict[str, object]:
    """The JSON object of a request; anything else, and text that is not Unicode, is a `BadRequest`."""
    try:
        found = json.loads(await request.text())
        json.dumps(found, ensure_ascii=False).encode()  # "\ud800" parses, but no database takes it
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadRequest("the body must be a JSON object")
    return found


def make_app(settings: Settings, schema: str) -> web.Application:
    """The application with its database open, faults and errors in place, and `GET /stats`."""
    service = Service(settings, schema)
    schedule = faults.Schedule(settings.seed, settings.name, service.run, settings.fail)
    app = web.Application(
        middlewares=[
            _count,
            faults.middleware(schedule, service.tell, frozenset({STATS_PATH})),
            _answer_errors,
        ],
        client_max_size=BODY_BYTES_MAX,
    )
    app[SERVICE] = service

    async def close(app: web.Application) -> None:
        app[SERVICE].close()

    app.on_cleanup.append(close)
    app.router.add_get(STATS_PATH, _stats)
    guarded = "on" if settings.guard else "OFF"
    service.tell(f"port={settings.port} seed={settings.seed} fail={settings.fail} guard={guarded}")
    return app


def arguments(name: str, argv: list[str] | None = None) -> Settings:
    """The command line that both services have."""
    parser = argparse.ArgumentParser(prog=f"python -m mpy6a.demo.{name}")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--db", type=Path, required=True, help="the SQLite file; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule of faults")
    parser.add_argument("--fail", type=float, default=0.0, help="probability of a fault a request, 0 to 1")
    parser.add_argument("--no-guard", action="store_true", help="let fenced-off writers in")
    found = parser.parse_args(argv)
    return Settings(name, found.port, found.db, found.seed, found.fail, not found.no_guard)


def serve(app: web.Application, port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; work goes on when its caller has hung up."""
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        print=None,
        access_log=None,
        shutdown_timeout=0.5,
        handler_cancellation=False,
    )


@web.middleware
async def _count(request: web.Request, handler: faults.Handler) -> web.StreamResponse:
    """Counts the requests under way, hanging ones too, so that an audit can wait for the last zombie."""
    service = request.app[SERVICE]
    counted = request.path != STATS_PATH
    service.in_flight += counted
    try:
        return await handler(request)
    finally:
        service.in_flight -= counted


@web.middleware
async def _answer_errors(request: web.Request, handler: faults.Handler) -> web.StreamResponse:
    """409 with error "fenced" for an older fence, 400 for what cannot be read."""
    try:
        return await handler(request)
    except Fenced as error:
        return web.json_response({"error": "fenced", "message": str(error)}, status=409)
    except BadRequest as error:
        return web.json_response({"error": "bad request", "message": str(error)}, status=400)


async def _stats(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    return web.json_response({"run": service.run, "in_flight": service.in_flight})
