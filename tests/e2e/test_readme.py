"""The README is true: its snippets are run, its links lead somewhere, its table is what the demo prints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import mpy6a.testing
from tests.ports import FreePorts
from tests.processes import Processes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS: list[str] = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
DEADLINE_S = 30.0

pytestmark = pytest.mark.e2e


def snippet(holding: str) -> str:
    """The one snippet of the README that holds a text."""
    [found] = [text for text in SNIPPETS if holding in text]
    return found


def run_snippet(text: str) -> dict[str, Any]:
    """Execute a snippet as a module of its own; its names."""
    module = types.ModuleType("readme")
    exec(compile(text, "README.md", "exec"), module.__dict__)
    return module.__dict__


def wait_for(what: str, file: Path) -> None:
    """Until a line of `file` holds a text, by the deadline."""
    until = time.monotonic() + DEADLINE_S
    while what not in file.read_text(errors="replace"):
        assert time.monotonic() < until, f"no {what!r} in: {file.read_text(errors='replace')[-2_000:]}"
        time.sleep(0.05)


def test_every_snippet_is_known_to_a_test() -> None:
    """A snippet that is added without a test fails here."""
    known = ("mpy6a.guard.create", "async def create_user", "mpy6a.testing.pipe", 'sys.argv[1]')
    for text in SNIPPETS:
        assert sum(one in text for one in known) == 1, text


def test_every_link_leads_to_a_file() -> None:
    """Promises link to their tests, and those exist."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_try_it(short_tmp: Path, processes: Processes) -> None:
    """`mpy6a dev handlers.py`, a program that dies, and its handler's greeting; kill -9 changes nothing."""
    (short_tmp / "handlers.py").write_text(snippet("sys.argv[1]"))
    output = short_tmp / "output"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("MPY6A_SIDECAR", None)
    with output.open("wb") as sink:
        dev = processes.start(
            [sys.executable, "-m", "mpy6a", "dev", "handlers.py"],
            cwd=short_tmp,
            env=environment,
            stdout=sink,
            stderr=sink,
        )
    wait_for("sidecar | ", output)
    for name in ("Ada", "Grace"):
        program = processes.start(
            [sys.executable, "handlers.py", name], cwd=short_tmp, env=environment, stdout=-1, stderr=-1
        )
        said, _ = program.communicate(timeout=DEADLINE_S)
        assert re.fullmatch(rb"wrote 1\.\d+\.\d+ down; dying\n", said)
        assert program.returncode == 1
        wait_for(f"Hello {name}", output)
    dev.terminate()
    assert dev.wait(DEADLINE_S) == 0


def test_the_guard_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call in the user's transaction, and an older fence is refused."""
    monkeypatch.chdir(tmp_path)
    names = run_snippet(snippet("mpy6a.guard.create"))
    database = names["database"]
    assert isinstance(database, sqlite3.Connection)
    with contextlib.closing(database):
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(mpy6a.Fenced):
            mpy6a.guard.check(database, "1.3.48213", 12884901891)
        database.execute("ROLLBACK")


def test_the_testing_snippet() -> None:
    """A handler is tested without processes and without waiting."""
    asyncio.run(run_snippet(snippet("mpy6a.testing.pipe"))["test_what_is_left_is_finished"]())


def test_the_table_has_the_rows_that_the_demo_prints() -> None:
    """The audit's table in the README is one that the demo of today would print; its numbers differ by run."""
    from mpy6a.demo import show

    source = Path(show.__file__).read_text()
    block = re.search(r"^```\n(rows begun.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert block is not None
    names = [re.match(r" *[a-z]+(?:[ -][a-zA-Z]+)*", line) for line in block.group(1).splitlines()]
    shown = [name.group().strip() for name in names if name is not None]
    assert len(shown) > 15
    processes = ("pipe", "client", "users", "search", "sidecar-users", "sidecar-search", "audit")
    assert [name for name in shown if name not in source and name not in processes] == []


@contextlib.contextmanager
def service(processes: Processes, name: str, port: int, database: Path) -> Iterator[None]:
    """One of the demo's services, answering."""
    options = ["--port", str(port), "--db", str(database), "--seed", "1", "--fail", "0"]
    process = processes.start([sys.executable, "-m", f"mpy6a.demo.{name}", *options])
    until = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/stats", timeout=1).raise_for_status()
            break
        assert time.monotonic() < until
        time.sleep(0.05)
    try:
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def test_the_seeds_example(tmp_path: Path, processes: Processes, free_port: FreePorts) -> None:
    """The nine steps create a user in A and B; with B down, the five steps finish it once B is back."""
    users, search = free_port(), free_port()
    text = snippet("async def create_user").replace(":8001", f":{users}").replace(":8002", f":{search}")
    names = run_snippet(text)

    async def story() -> None:
        async with mpy6a.testing.pipe(names["finish_user_create"]) as pipe:
            with service(processes, "search", search, tmp_path / "b.db"):
                await names["create_user"](pipe, {"nickname": "ada", "name": "Ada"})
                assert not pipe.sessions()
            with pytest.raises(httpx.HTTPError):
                await names["create_user"](pipe, {"nickname": "grace", "name": "Grace"})
            [left] = pipe.sessions()
            assert len(left.records) == 2
            with service(processes, "search", search, tmp_path / "b.db"):
                await pipe.advance(60)
                assert not pipe.sessions()
                found = await names["B"].get("/search", params={"q": "grace"})
                assert "grace" in found.text
        await names["A"].aclose()
        await names["B"].aclose()

    with service(processes, "users", users, tmp_path / "a.db"):
        asyncio.run(story())
