"""The public API as a user writes it: what a strict type checker says of it is part of the API.

`tox -e lint` checks this file against the installed package (check.py); it is never run.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import Any, assert_type

import aiosqlite
import httpx
import psycopg
from psycopg.rows import DictRow

import mpy6a
import mpy6a.guard
import mpy6a.testing

A = httpx.AsyncClient(base_url="http://127.0.0.1:8001", timeout=5)
B = httpx.AsyncClient(base_url="http://127.0.0.1:8002", timeout=5)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# The seeds' example, as README and interfaces show it.
async def create_user(pipe: mpy6a.AsyncPipe, user: dict[str, str]) -> None:
    async with pipe.new("user-create") as session:
        await session.append(json=user)
        made = await A.post("/users", json=user, headers=session.fence)
        made.raise_for_status()
        user = made.json()
        await session.append(json={"id": user["id"]})
        found = await B.put(f"/index/{user['id']}", json=user, headers=session.fence)
        found.raise_for_status()
        await session.delete()


@mpy6a.handler("user-create")
async def finish_user_create(repeat: mpy6a.RepeatData) -> None:
    session = repeat.session
    facts = {k: v for record in repeat.records for k, v in record.json().items()}
    if not facts:
        return await session.delete()
    by = {"id": facts["id"]} if "id" in facts else {"nickname": facts["nickname"]}
    seen = await A.post("/users/find", json=by, headers=session.fence)
    if seen.status_code == 404:
        return await session.delete()
    user = seen.raise_for_status().json()
    found = await B.put(f"/index/{user['id']}", json=user, headers=session.fence)
    found.raise_for_status()
    await session.delete()


async def sessions(pipe: mpy6a.AsyncPipe) -> None:
    """Both ways to open one, all that it says of itself, and all that can be done with it."""
    session = await pipe.new("user-create", b"first", key="ann", trace=TRACE)
    by_number = await pipe.new(1)
    await by_number.delete()
    assert_type(str(session.id), str)
    assert_type(session.epoch, int)
    assert_type(session.fence, dict[str, str])
    assert_type(session.cancelled, bool)
    assert_type(await session.append(b"record"), None)
    assert_type(await session.append(data=b"record"), None)
    assert_type(await session.append(json=["anything", {"that": "JSON can say"}]), None)
    assert_type(await session.replace(b"all of it"), None)
    assert_type(await session.replace(json={"all": "of it"}), None)
    assert_type(await session.touch(), None)
    assert_type(await session.store(after=30), None)
    assert_type(await session.store(after=timedelta(minutes=1)), None)
    assert_type(await session.delete(), None)


@mpy6a.handler(2)
async def every_outcome(repeat: mpy6a.RepeatData) -> None:
    for record in repeat.records:
        raw: bytes = record
        assert_type(record, mpy6a.Record)
        assert_type(record.json(), Any)
        assert_type(record.text(), str)
        print(len(raw))
    assert_type(repeat.repeats, int)
    print(repeat.kind, len(repeat.attempts))
    if repeat.session.cancelled:
        await repeat.session.park("nothing to compensate with")
    await repeat.session.release()


async def lifespans() -> None:
    """Constructing does no I/O; `close` and `aclose` fit a framework's lifespan."""
    async with mpy6a.AsyncPipe("ipc://./users.sock") as pipe:
        await pipe.serve(finish_user_create, concurrency=32)
    pipe = mpy6a.AsyncPipe()
    await pipe.aclose()


def blocking(database: sqlite3.Connection) -> None:
    with mpy6a.Pipe("tcp://127.0.0.1:7400") as pipe, pipe.new("user-create", key="ann") as session:
        assert_type(session.epoch, int)
        assert_type(session.fence, dict[str, str])
        assert_type(session.append(json={"nickname": "ann"}), None)
        assert_type(session.replace(data=b"raw"), None)
        assert_type(session.touch(), None)
        assert_type(session.store(after=0.5), None)
    pipe = mpy6a.Pipe()
    opened = pipe.new("user-create")
    opened.delete()
    pipe.close()


def guarded(database: sqlite3.Connection, headers: dict[str, str]) -> None:
    """The fence inside the user's own transaction."""
    mpy6a.guard.create(database)
    with database:
        database.execute("BEGIN IMMEDIATE")
        assert_type(mpy6a.guard.check(database, headers=headers), None)
    assert_type(mpy6a.guard.forget(database, timedelta(days=1)), int)


def guarded_postgres(
    database: psycopg.Connection, named: psycopg.Connection[DictRow], repeat: mpy6a.RepeatData
) -> None:
    """Whatever rows the connection gives."""
    mpy6a.guard.create(named, table="orders.fence")
    with database.transaction():
        assert_type(mpy6a.guard.check(database, headers=repeat.session.fence), None)
        mpy6a.guard.check(named, "1.3.48213", 12884901892, table="orders.fence")
    assert_type(mpy6a.guard.forget(named, 86_400.0), int)


async def guarded_async(
    database: psycopg.AsyncConnection, named: psycopg.AsyncConnection[DictRow], other: aiosqlite.Connection
) -> None:
    """The same names with an `a`, to be awaited."""
    await mpy6a.guard.acreate(database)
    async with named.transaction():
        assert_type(await mpy6a.guard.acheck(named, "1.3.48213", 12884901892), None)
    await mpy6a.guard.acheck(other, headers={"Mpy6a-Session": "1.3.48213", "Mpy6a-Fence": "12884901892"})
    assert_type(await mpy6a.guard.aforget(database, timedelta(days=1)), int)


def mistaken(database: sqlite3.Connection, later: psycopg.AsyncConnection) -> None:
    """A guard that does not guard is found before it runs."""
    mpy6a.guard.check(later, "1.3.48213", 12884901892)  # type: ignore[arg-type]
    mpy6a.guard.check(database, "1.3.48213", "12884901892")  # type: ignore[arg-type]


async def forgotten(later: psycopg.AsyncConnection) -> None:
    mpy6a.guard.acheck(later, "1.3.48213", 12884901892)  # type: ignore[unused-coroutine]


def errors(error: mpy6a.Mpy6aError) -> str:
    """One root, three families, leaves that can be caught by name."""
    families: tuple[type[mpy6a.Mpy6aError], ...] = (mpy6a.Refused, mpy6a.Unavailable, mpy6a.Corrupt)
    refused: tuple[type[mpy6a.Refused], ...] = (
        mpy6a.AfterRefusal,
        mpy6a.DiskLow,
        mpy6a.Fenced,
        mpy6a.Gone,
        mpy6a.KeyLive,
        mpy6a.TooLarge,
        mpy6a.UnknownKind,
    )
    unavailable: tuple[type[mpy6a.Unavailable], ...] = (mpy6a.Busy, mpy6a.OutcomeUnknown)
    if isinstance(error, mpy6a.KeyLive):
        return assert_type(error.session_id, str)
    return f"{error} {families} {refused} {unavailable}"


async def tested() -> None:
    """The embedded pipe with its virtual clock."""
    async with mpy6a.testing.pipe(finish_user_create) as pipe:
        async with pipe.new("user-create") as session:
            await session.append(json={"nickname": "ann"})
        await pipe.advance(30)
        assert len(pipe.sessions()) == 0


def version() -> str:
    return assert_type(mpy6a.__version__, str)
