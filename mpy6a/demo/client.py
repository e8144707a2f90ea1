"""The demo's client process: creates users exactly by the seeds' nine steps, through its sidecar.

It keeps its own synced journal. Started again after a SIGKILL it goes on after the journal's rows: what it
had begun and not ended is the pipe's to finish, never created again. Every error leaves the row to the
pipe.

Run as `python -m mpy6a.demo.client --input FILE --users N --journal FILE` with $MPY6A_SIDECAR,
$MPY6A_DEMO_USERS and $MPY6A_DEMO_SEARCH set.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

import mpy6a
from mpy6a.demo.journal import Entry, Journal
from mpy6a.demo.people import SHIPPED, Person, load
from mpy6a.errors import Mpy6aError

TIMEOUT_S: Final = 2.0  # of one call to A or B; a service that hangs does so for up to 10 s
AGENT: Final = {"User-Agent": "mpy6a-demo-client"}


async def create_user(pipe: mpy6a.AsyncPipe, person: Person, a: httpx.AsyncClient, b: httpx.AsyncClient) -> Entry:
    """The nine steps for one person. Returns how it ended; raises to leave the session to the pipe."""
    row, nickname = person.line, person.nickname
    async with pipe.new("user-create") as session:  # 1
        await session.append(json=person.fields)  # 2
        made = await a.post("/users", json=person.fields, headers=session.fence)  # 3
        if made.status_code == 409 and made.json()["error"] == "nickname taken":
            await session.delete()  # no error but an answer: nothing was made, so there is nothing to recover
            return Entry(row, nickname, "refused", str(session.id), why="nickname taken")
        made.raise_for_status()  # 4: leaving by an error closes, never deletes
        user = made.json()
        await session.append(json={"id": user["id"]})  # 5
        found = await b.put(f"/index/{user['id']}", json=user, headers=session.fence)  # 6
        found.raise_for_status()  # 7 (sic: 8)
        await session.delete()  # 8 (sic: 9)
        return Entry(row, nickname, "done", str(session.id), user=user["id"])


async def create_all(pipe: mpy6a.AsyncPipe, journal: Journal, people: list[Person], *, tasks: int, rate: float) -> None:
    """Create all whose rows the journal does not know, `tasks` at a time and at most `rate` a second."""
    known = journal.rows
    todo = iter([person for person in people if person.line not in known])
    pace = _pace(asyncio.get_running_loop(), rate)
    async with _service("MPY6A_DEMO_USERS", 8001) as a, _service("MPY6A_DEMO_SEARCH", 8002) as b:

        async def work() -> None:
            for person in todo:
                await asyncio.sleep(next(pace))
                journal.write(Entry(person.line, person.nickname, "started"))
                try:
                    ended = await create_user(pipe, person, a, b)
                except (httpx.HTTPError, Mpy6aError) as error:
                    why = f"{type(error).__name__}: {error}"[:200]
                    ended = Entry(person.line, person.nickname, "left", why=why)
                journal.write(ended)

        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(work())


def main(argv: list[str] | None = None) -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m mpy6a.demo.client")
    parser.add_argument("--input", type=Path, default=SHIPPED)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.0, help="users begun a second at most; 0: no bound")
    chosen = parser.parse_args(argv)
    people, _ = load(chosen.input)

    async def run() -> None:
        async with mpy6a.AsyncPipe() as pipe:
            with Journal(chosen.journal) as journal:
                await create_all(pipe, journal, people[: chosen.users], tasks=chosen.tasks, rate=chosen.rate)

    asyncio.run(run())


def _service(variable: str, port: int) -> httpx.AsyncClient:
    url = os.environ.get(variable, f"http://127.0.0.1:{port}")
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, headers=AGENT)


def _pace(loop: asyncio.AbstractEventLoop, rate: float) -> Iterator[float]:
    """How long to wait before the next row, for ever; time lost is not made up for in a burst."""
    due = loop.time()
    while True:
        now = loop.time()
        due = max(due, now)
        yield due - now
        due += 1 / rate if rate else 0.0


if __name__ == "__main__":
    main()
