"""The orchestrator kills and restarts as planned, waits until all is finished, and leaves nobody behind."""

from __future__ import annotations

import io
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from mpy6a.demo import journal, search, users
from mpy6a.demo import orchestrator as orchestration
from mpy6a.demo import place as places
from mpy6a.demo.kills import PROCESSES, Kill
from mpy6a.demo.orchestrator import Orchestrator, Wanted, make_children, plan
from mpy6a.demo.people import SHIPPED
from mpy6a.demo.place import Place
from mpy6a.demo.processes import Child, answers_tcp, answers_unix
from mpy6a.demo.service import SERVICE, Settings
from mpy6a.demo.show import Progress
from mpy6a.demo.watch import Live
from mpy6a.errors import CannotStart, Unavailable

# Stand-ins for the real processes, quick to start: they listen where those would, and do nothing.
LISTEN_TCP = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
LISTEN_UNIX = """
import os, socket, sys, time
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(64)
time.sleep(60)
"""
SERVE_STATS = """
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    c, _ = s.accept()
    c.settimeout(1)
    try:
        if c.recv(4096):
            c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n{"run": 1, "in_flight": 0}')
    except OSError:
        continue
    finally:
        c.close()
"""
# Begins and ends a row every few milliseconds, and goes on where its last life stopped.
CLIENT = """
import json, sys, time
path, rows, done_from = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    done = len(open(path).readlines()) // 2
except FileNotFoundError:
    done = 0
with open(path, "a") as journal:
    for row in range(done + 2, rows + 2):
        entry = {"row": row, "nickname": str(row), "session": "", "user": 0, "why": ""}
        ended = "done" if row > done_from else "refused"
        both = [json.dumps(entry | {"phase": phase}) for phase in ("started", ended)]
        print(*both, sep="\\n", file=journal, flush=True)
        time.sleep(0.02)
"""


class FakeWatch:
    """A pipe whose last session is finished with the second answer."""

    def __init__(self) -> None:
        self.last: Live | None = None
        self.answers = 0

    def poll(self) -> None:
        self.answers += 1
        left = max(0, 2 - self.answers)
        self.last = Live({"open": 0, "stored": left, "repeating": 0, "parked": 0}, time.monotonic())

    def list_live(self) -> list[str]:
        return []

    def close(self) -> None:
        return


def stand_ins(place: Place, rows: int, done_from: int = 1 << 30) -> dict[str, Child]:
    """The processes of a run with everything that costs time left out."""

    def child(name: str, code: str, *arguments: str) -> Child:
        real = make_children(Wanted(1, 0, True, 1, SHIPPED), place)[name]
        command = [sys.executable, "-S", "-E", "-c", code, *arguments]
        return Child(name, command, place.environment(), place.log(name), real.is_up)

    made = [child("pipe", LISTEN_TCP, str(place.pipe_port))]
    for name in places.SIDECARS:
        made.append(child(f"sidecar-{name}", LISTEN_UNIX, str(place.sidecar_socket(name))))
        made.append(child(name, SERVE_STATS, str(place.service_ports[name])))
    made.append(child("client", CLIENT, str(place.journal), str(rows), str(done_from)))
    return {one.name: one for one in made}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = places.make(tmp_path, "python")
    for app in (
        users.app(Settings("users", 0, made.database("users"))),
        search.app(Settings("search", 0, made.database("search"))),
    ):
        app[SERVICE].close()
    return made


def orchestrator(place: Place, children: dict[str, Child], planned: list[Kill]) -> Orchestrator:
    progress = Progress(Console(file=io.StringIO()))
    return Orchestrator(Wanted(100, 0.1, True, 1, SHIPPED), place, progress, children, planned, FakeWatch())


def marked(place: Place) -> list[int]:
    """Processes that carry this run's mark."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and place.token.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_everybody_is_killed_as_planned_and_the_rows_are_all_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process is hit while it works and comes back; the end is audited; no process is left."""
    monkeypatch.setattr(orchestration, "SHOW_EVERY_S", 0.02)
    monkeypatch.setattr(orchestration, "CALM_S_MAX", 0.02)
    planned = [Kill(name, 5, 5, in_outage=name != "users") for name in (*PROCESSES, "pipe")]
    children = stand_ins(place, rows=40)
    run = orchestrator(place, children, planned)
    try:
        outcome = run.run()
    finally:
        run.close()
    assert Counter(hit.name for hit in outcome.hits) == Counter(kill.name for kill in planned)
    assert {name: child.kills for name, child in children.items()} == {"pipe": 2} | dict.fromkeys(
        ("client", "users", "search", "sidecar-users", "sidecar-search"), 1
    )
    assert outcome.audit.facts.refused == 40
    assert outcome.audit.findings == ("no session was recovered: nothing was shown (more users, or a higher --fail)",)
    assert outcome.parked == 0
    assert marked(place) == []


class Noting(Child):
    """Notes, at its kill, how the rows have ended so far."""

    seen: ClassVar[list[str]] = []

    def kill(self) -> None:
        self.seen.extend(entry.phase for entry in journal.read(self._log.parent / "journal.jsonl"))
        super().kill()


def test_a_kill_waits_until_work_goes_on_after_the_one_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were everybody always down, a SIGKILL would hit nobody at work: rows have to be done in between."""
    monkeypatch.setattr(orchestration, "SHOW_EVERY_S", 0.02)
    children = stand_ins(place, rows=60, done_from=40)
    old = children["search"]
    children["search"] = Noting("search", old.command, place.environment(), place.log("search"), old.is_up)
    run = orchestrator(place, children, [Kill("users", 5, 5, in_outage=True), Kill("search", 5, 5)])
    try:
        outcome = run.run()
    finally:
        run.close()
    assert [hit.name for hit in outcome.hits] == ["users", "search"]
    assert "done" in Noting.seen


def test_a_process_that_ends_by_itself_ends_the_run_with_its_last_words(place: Place) -> None:
    """A crash of ours is never taken for a kill of the schedule."""
    children = stand_ins(place, rows=1_000)
    crash = [sys.executable, "-c", "import time; time.sleep(0.1); raise SystemExit('out of luck')"]
    children["client"] = Child("client", crash, dict(os.environ), place.log("client"), lambda: True)
    run = orchestrator(place, children, [])
    try:
        with pytest.raises(Unavailable, match=r"client ended by itself with 1\n  client\| out of luck"):
            run.run()
    finally:
        run.close()
    assert marked(place) == []


def test_a_process_that_does_not_come_up_is_told_with_its_last_words(place: Place) -> None:
    """Exit 3's sentence: which process, and what it said."""
    children = stand_ins(place, rows=1)
    broken = [sys.executable, "-c", "raise SystemExit('port in use')"]
    children["pipe"] = Child("pipe", broken, dict(os.environ), place.log("pipe"), lambda: False)
    run = orchestrator(place, children, [])
    try:
        with pytest.raises(CannotStart, match="port in use"):
            run.run()
    finally:
        run.close()
    assert marked(place) == []


def test_the_real_processes_are_what_the_documentation_says(place: Place) -> None:
    """The pipe, a service and a sidecar for A and B each, and the client; unguarded services only on request."""
    children = make_children(Wanted(5, 0.1, True, 1, SHIPPED), place)
    assert set(children) == set(PROCESSES)
    assert next(iter(children)) == "pipe"
    assert next(reversed(children)) == "client"
    said = {name: " ".join(child.command[1:]) for name, child in children.items()}
    assert said["pipe"] == "-m mpy6a serve pipe.yaml"
    assert said["sidecar-users"] == f"-m sidecar {place.sidecar_config('users')}"
    assert said["users"].startswith("-m mpy6a.demo.users --port ")
    assert "--no-guard" not in "".join(said.values())
    bare = make_children(Wanted(5, 0.1, True, 1, SHIPPED, guard=False), place)
    assert [name for name in bare if "--no-guard" in bare[name].command] == ["users", "search"]
    assert not answers_tcp(place.pipe_port)
    assert not answers_unix(place.sidecar_socket("users"))


def test_nobody_is_killed_on_request() -> None:
    """--no-kill plans nothing."""
    assert plan(Wanted(500, 0.1, False, 1, SHIPPED)) == []
    assert len(plan(Wanted(500, 0.1, True, 1, SHIPPED))) >= 20
