"""A real pipe, a real sidecar, real handlers: crashing, blocking and slow ones, drains, kills, HTTP and programs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import mpy6a
from tests.e2e.live import Live, Peer
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e
DEADLINE_S = 30.0

HANDLERS = """
import json, os, time
from pathlib import Path

import mpy6a

HERE = Path(__file__).parent


def note(repeat, what):
    attempts = [[one.outcome, one.charged] for one in repeat.attempts]
    line = {"id": repeat.session.id, "what": what, "pid": os.getpid(), "attempts": attempts}
    with (HERE / "notes").open("a") as notes:
        notes.write(json.dumps(line) + "\\n")


def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.005)


@mpy6a.handler("work")
async def work(repeat):
    what = repeat.records[0].text()
    note(repeat, what)
    if what == "crash" and not repeat.attempts:
        os._exit(1)
    if what == "block":
        wait_for("go")
    if what == "slow":
        import asyncio
        while not (HERE / "go").exists():
            await asyncio.sleep(0.005)
    await repeat.session.append(b"done by " + str(os.getpid()).encode())
    await repeat.session.delete()


@mpy6a.handler("plain")
def plain(repeat: mpy6a.RepeatData[mpy6a.Session]):
    note(repeat, "plain")
    repeat.session.append(b"step")
    repeat.session.delete()
"""

ROUTES = """\
kinds:
  work: {{id: 1, sidecars: [users], handler: {{python: "handlers:work"}}, repeat: {{delay: 10ms, backoff: 10ms..50ms}}}}
  plain: {{id: 2, sidecars: [users], handler: {{python: "handlers:plain"}}, repeat: {{delay: 10ms}}}}
  web: {{id: 3, sidecars: [users], handler: {{http: "{url}"}}, repeat: {{delay: 10ms, backoff: 10ms..50ms}}}}
"""


class House:
    """A live pipe with a sidecar that runs python and http handlers."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.path = live.path
        self.pipe: subprocess.Popen[bytes]
        self.sidecar: subprocess.Popen[bytes]

    def start(self) -> None:
        self.pipe = self.live.start_pipe()
        self.sidecar = self.live.start_sidecar()

    def notes(self) -> list[dict[str, Any]]:
        """What handlers noted, in order."""
        path = self.path / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def unfinished(self) -> int:
        with Peer(self.live.admin) as peer:
            return len(peer.ask("sessions.list")["sessions"])

    def wait(self, holds: Callable[[], bool]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < end_s, f"{self.live.said('sidecar.log')}\n{self.notes()}"
            time.sleep(0.02)

    def leave(self, kind: str, record: bytes) -> str:
        """A session that its client leaves to the handler; its id."""

        async def left() -> str:
            async with mpy6a.AsyncPipe(self.live.service) as pipe:
                session = await pipe.new(kind, record)
                await session.store(after=0)
                return session.id

        return asyncio.run(left())


@pytest.fixture
def house(short_tmp: Path, free_port: FreePorts, processes: Processes) -> House:
    live = Live(short_tmp, free_port, processes)
    (short_tmp / "handlers.py").write_text(HANDLERS)
    (short_tmp / "routes.yaml").write_text(ROUTES.format(url="http://127.0.0.1:1/"))
    return House(live)


def test_async_and_plain_handlers_finish_what_was_left(house: House) -> None:
    """Also of a client that simply went away."""
    house.start()
    ids = {house.leave("work", b"one"), house.leave("plain", b"two")}

    async def go_away() -> str:
        async with mpy6a.AsyncPipe(house.live.service) as pipe:
            return (await pipe.new("work", b"three")).id

    ids.add(asyncio.run(go_away()))
    house.wait(lambda: len(house.notes()) == 3 and house.unfinished() == 0)
    assert {note["id"] for note in house.notes()} == ids


def test_a_handler_that_kills_its_process_is_charged_and_runs_again(house: House) -> None:
    """The death is a failure of what ran there; the process is started again, and the session repeated in
    it."""
    house.start()
    session = house.leave("work", b"crash")
    house.wait(lambda: len(house.notes()) == 2 and house.unfinished() == 0)
    first, second = house.notes()
    assert first["id"] == second["id"] == session
    assert first["pid"] != second["pid"]
    assert second["attempts"] == [[1, True]]  # FAIL, charged
    assert house.sidecar.poll() is None


def test_a_handler_that_blocks_its_process_delays_no_operation(house: House) -> None:
    """It holds the one loop of all async handlers; the sidecar and its clients do not notice, nor does its
    lease."""
    house.start()
    house.leave("work", b"block")
    house.wait(lambda: len(house.notes()) == 1)

    async def work() -> float:
        began = time.monotonic()
        async with mpy6a.AsyncPipe(house.live.service) as pipe:
            for _ in range(20):
                async with pipe.new("work", b"x") as session:
                    await session.append(b"y")
                    await session.delete()
        return time.monotonic() - began

    assert asyncio.run(work()) < 5
    assert len(house.notes()) == 1
    (house.path / "go").touch()
    house.wait(lambda: house.unfinished() == 0)
    assert len(house.notes()) == 1


def test_sigterm_lets_handlers_finish_within_their_grace(house: House) -> None:
    house.start()
    house.leave("work", b"slow")
    house.wait(lambda: len(house.notes()) == 1)
    house.sidecar.send_signal(signal.SIGTERM)
    os.kill(house.notes()[0]["pid"], signal.SIGTERM)  # as a supervisor does that ends the whole group
    house.wait(lambda: "draining" in house.live.said("sidecar.log"))
    assert house.sidecar.poll() is None
    (house.path / "go").touch()
    assert house.sidecar.wait(DEADLINE_S) == 0
    assert house.unfinished() == 0
    assert len(house.notes()) == 1


def test_sigterm_releases_what_does_not_finish(house: House) -> None:
    """Uncharged, and due at once: the next sidecar goes on with it."""
    config = house.path / "sidecar.yaml"
    config.write_text(config.read_text() + "drain: 100ms\n")
    house.start()
    session = house.leave("work", b"slow")
    house.wait(lambda: len(house.notes()) == 1)
    house.sidecar.send_signal(signal.SIGTERM)
    assert house.sidecar.wait(DEADLINE_S) == 0
    (house.path / "go").touch()
    house.live.start_sidecar()
    house.wait(lambda: house.unfinished() == 0)
    again = house.notes()[1]
    assert again["id"] == session
    assert again["attempts"]
    assert all(attempt == [2, False] for attempt in again["attempts"])  # RELEASE, not charged


def is_running(pid: int) -> bool:
    """Is there such a process that has not ended? (One that nobody has reaped yet has.)"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or before it was read
        return False


def test_a_killed_sidecar_takes_its_handlers_along_and_the_next_goes_on(house: House) -> None:
    house.start()
    session = house.leave("work", b"slow")
    house.wait(lambda: len(house.notes()) == 1)
    child = house.notes()[0]["pid"]
    house.sidecar.kill()
    house.sidecar.wait()
    house.wait(lambda: not is_running(child))
    (house.path / "go").touch()
    house.live.start_sidecar()
    house.wait(lambda: len(house.notes()) == 2 and house.unfinished() == 0)
    assert house.notes()[1]["id"] == session


def test_a_killed_pipe_finds_the_handlers_still_at_work(house: House) -> None:
    """The hello lists what runs: nothing is started twice, and the handler's delete is taken after the
    restart."""
    house.start()
    house.leave("work", b"slow")
    house.wait(lambda: len(house.notes()) == 1)
    house.pipe.kill()
    house.pipe.wait()
    (house.path / "go").touch()
    house.live.start_pipe()
    house.wait(lambda: house.unfinished() == 0)
    assert len(house.notes()) == 1


class _Handler(BaseHTTPRequestHandler):
    """Appends by callback, then deletes by its answer; the first call of each session fails."""

    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        pushed = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(pushed)
        if pushed["repeats"] == 1:
            status = 500
        else:
            status = _post(self.headers["Mpy6a-Callback"] + "/append", b"by http")
            assert status == 204
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _post(url: str, body: bytes) -> int:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=DEADLINE_S) as answer:
        return int(answer.status)


def test_an_http_handler_finishes_a_session_after_a_failure(house: House) -> None:
    """Its records come back with what it appended; the fence rises with each run."""
    seen: list[dict[str, Any]] = []
    handler = type("Handler", (_Handler,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/finish"
            (house.path / "routes.yaml").write_text(ROUTES.format(url=url))
            house.start()
            session = house.leave("web", b"hello")
            house.wait(lambda: len(seen) == 2 and house.unfinished() == 0)
        finally:
            server.shutdown()
            serving.join()
    first, second = seen
    assert first["session"] == second["session"] == session
    assert int(first["fence"]) < int(second["fence"])
    assert [base64.b64decode(one["base64"]) for one in second["records"]] == [b"hello"]


def test_a_sidecar_without_http_kinds_is_small(house: House) -> None:
    """Under 50 MB: aiohttp is not loaded where nobody needs it."""
    (house.path / "routes.yaml").write_text("\n".join(ROUTES.format(url="").splitlines()[:3]) + "\n")
    house.start()
    house.leave("work", b"x")
    house.wait(lambda: house.unfinished() == 0)
    status = Path(f"/proc/{house.sidecar.pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert kib < 50_000
    maps = Path(f"/proc/{house.sidecar.pid}/maps").read_text()
    assert "aiohttp" not in maps
    assert os.path.exists(house.path / "users.sock")


# ---- programs

# Notes what it was given, says by callback that it was there, and exits 0; or hangs, with a child, deaf to SIGTERM.
PROGRAM = """
import json, os, signal, subprocess, sys, time, urllib.request
from pathlib import Path

pushed = json.load(sys.stdin)
what = pushed["records"][0]["text"]
child = None
if what.startswith("hang") and pushed["repeats"] == 1:
    if what == "hang deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
line = {"pid": os.getpid(), "child": child and child.pid, "fence": os.environ["MPY6A_FENCE"], **pushed}
with open("notes", "a") as notes:
    notes.write(json.dumps(line) + "\\n")
if child is not None:
    child.wait()
    time.sleep(1000)
call = urllib.request.Request(os.environ["MPY6A_CALLBACK"] + "/append", b"by a program", method="POST")
assert urllib.request.urlopen(call).status == 204
sys.exit(1 if what == "twice" and len(pushed["records"]) == 1 else 0)
"""
EXEC_ROUTES = """\
kinds:
  run:
    id: 1
    sidecars: [users]
    handler: {exec: [./finish]}
    records: text
    repeat: {delay: 10ms, backoff: 10ms..50ms, timeout: %s}
"""


@pytest.fixture
def programs(house: House) -> House:
    """The house with a program as its only handler; not started yet."""
    (house.path / "finish").write_text(f"#!{sys.executable}\n{PROGRAM}")
    (house.path / "finish").chmod(0o755)
    (house.path / "routes.yaml").write_text(EXEC_ROUTES % "30s")
    return house


def test_a_program_finishes_what_was_left_and_what_it_appended_comes_back(programs: House) -> None:
    """Its exit 0 deletes; after an exit 1 it runs again, with a higher fence."""
    programs.start()
    once = programs.leave("run", b"once")
    programs.wait(lambda: len(programs.notes()) == 1 and programs.unfinished() == 0)
    twice = programs.leave("run", b"twice")
    programs.wait(lambda: len(programs.notes()) == 3 and programs.unfinished() == 0)
    first, second, third = programs.notes()
    assert (first["session"], second["session"], third["session"]) == (once, twice, twice)
    assert second["records"] == [{"text": "twice"}]
    assert third["records"] == [{"text": "twice"}, {"text": "by a program"}]
    assert int(second["fence"]) < int(third["fence"])


@pytest.mark.parametrize("what", ["hang", "hang deaf"])
def test_a_program_that_hangs_is_stopped_with_all_its_group_and_runs_again(programs: House, what: str) -> None:
    """By SIGTERM at the kind's timeout, and if it is deaf to that by SIGKILL 5 s later."""
    (programs.path / "routes.yaml").write_text(EXEC_ROUTES % "1s")
    programs.start()
    programs.leave("run", what.encode())
    programs.wait(lambda: len(programs.notes()) == 1)
    hung = programs.notes()[0]
    programs.wait(lambda: not is_running(hung["pid"]) and not is_running(hung["child"]))
    programs.wait(lambda: len(programs.notes()) == 2 and programs.unfinished() == 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_sidecar_that_ends_leaves_no_program_and_the_next_goes_on(programs: House, how: signal.Signals) -> None:
    """Killed with SIGKILL too: neither the program nor its child, nor what started them."""
    config = programs.path / "sidecar.yaml"
    config.write_text(config.read_text() + "drain: 100ms\n")
    programs.start()
    session = programs.leave("run", b"hang deaf" if how == signal.SIGKILL else b"hang")
    programs.wait(lambda: len(programs.notes()) == 1)
    hung = programs.notes()[0]
    starter = int(Path(f"/proc/{hung['pid']}/stat").read_text().rsplit(")", 1)[1].split()[1])
    programs.sidecar.send_signal(how)
    assert programs.sidecar.wait(DEADLINE_S) == (-how if how == signal.SIGKILL else 0)
    programs.wait(lambda: not any(map(is_running, (hung["pid"], hung["child"], starter))))
    programs.live.start_sidecar()
    programs.wait(lambda: len(programs.notes()) == 2 and programs.unfinished() == 0)
    assert programs.notes()[1]["session"] == session


def test_a_sidecar_whose_program_is_missing_does_not_start(programs: House) -> None:
    """Exit 3, and one sentence that names kind and command."""
    (programs.path / "finish").unlink()
    sidecar = programs.live.run("sidecar", said="sidecar.log")
    assert sidecar.wait(DEADLINE_S) == 3
    (said,) = programs.live.said("sidecar.log").splitlines()
    assert "kind 'run'" in said
    assert "./finish" in said
