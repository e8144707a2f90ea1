"""A handler whose session is another's, or whose time is up, is told so, each kind in its way, by real processes:
the asyncio task is cancelled, a thread's session says `cancelled`, a program gets SIGTERM and then SIGKILL, the
HTTP request is closed and its token dead."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.live import Live, Peer
from tests.e2e.test_sidecar_handlers import DEADLINE_S, House, is_running
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

NOTE: Final = """
import json, os
from pathlib import Path


def note(what, **more):
    with (Path(__file__).parent / "notes").open("a") as notes:
        notes.write(json.dumps({"what": what, "pid": os.getpid(), **more}) + "\\n")
"""
HANDLERS: Final = """
import asyncio, time

import mpy6a
from note import note


@mpy6a.handler("task")
async def task(repeat):
    if repeat.repeats > 1:
        return await repeat.session.delete()
    note("task began")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note(f"task cancelled, its session too: {repeat.session.cancelled}")
        raise


@mpy6a.handler("thread")
def thread(repeat):
    if repeat.repeats > 1:
        return repeat.session.delete()
    note("thread began")
    while not repeat.session.cancelled:
        time.sleep(0.005)
    try:
        repeat.session.append(b"late")
    except mpy6a.Fenced:
        note("thread told, and fenced")
        raise
"""
# Deaf: it notes the SIGTERM and stays.
PROGRAM: Final = """
import json, os, signal, sys, time

from note import note

if json.load(sys.stdin)["repeats"] > 1:
    sys.exit(0)
signal.signal(signal.SIGTERM, lambda *_: note("program told"))
note("program began", callback=os.environ["MPY6A_CALLBACK"])
while True:
    time.sleep(1000)
"""
ROUTES: Final = """\
kinds:
  task: {{id: 1, sidecars: [users], handler: {{python: "handlers:task"}}, repeat: {repeat}}}
  thread: {{id: 2, sidecars: [users], handler: {{python: "handlers:thread"}}, repeat: {repeat}}}
  program: {{id: 3, sidecars: [users], handler: {{exec: [./program]}}, repeat: {repeat}}}
  request: {{id: 4, sidecars: [users], handler: {{http: "{url}"}}, repeat: {repeat}}}
"""


class Requests:
    """A web service that never answers a first run. `callback` of that, and `closed` when its connection is."""

    def __init__(self) -> None:
        self.callback = ""
        self.began, self.closed = threading.Event(), threading.Event()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Its URL, while it runs."""
        requests = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.connection.settimeout(DEADLINE_S)
                if json.loads(self.rfile.read(int(self.headers["Content-Length"])))["repeats"] == 1:
                    requests.callback = self.headers["Mpy6a-Callback"]
                    requests.began.set()
                    if self.connection.recv(1, socket.MSG_PEEK) == b"":
                        requests.closed.set()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}/finish"
            finally:
                server.shutdown()
                serving.join()


def refusal(url: str) -> str:
    """What an append to a dead callback is told."""
    call = urllib.request.Request(url + "/append", b"late", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(call, timeout=DEADLINE_S)
    with refused.value as answer:
        assert answer.code == 409
        return answer.read().decode().split()[0].strip(":")


def made(live: Live, url: str, timeout: str) -> House:
    """The house with a handler of each kind; started."""
    path = live.path
    repeat = f"{{delay: 10ms, backoff: 10ms..50ms, timeout: {timeout}}}"
    (path / "routes.yaml").write_text(ROUTES.format(url=url, repeat=repeat))
    (path / "note.py").write_text(NOTE)
    (path / "handlers.py").write_text(HANDLERS)
    (path / "program").write_text(f"#!{sys.executable}\n{PROGRAM}")
    (path / "program").chmod(0o755)
    house = House(live)
    house.start()
    return house


@pytest.mark.parametrize("how", ["fenced", "out of time"])
def test_every_kind_of_handler_is_told(
    short_tmp: Path, free_port: FreePorts, processes: Processes, how: str
) -> None:
    """By an operator who parks the session, or by the kind's `timeout`, after which it is repeated."""
    requests = Requests()
    with requests.served() as url:
        house = made(Live(short_tmp, free_port, processes), url, "60s" if how == "fenced" else "4s")

        def noted(what: str) -> list[dict[str, Any]]:
            return [one for one in house.notes() if one["what"] == what]

        ids = [house.leave(kind, b"{}") for kind in ("task", "thread", "program", "request")]
        house.wait(lambda: all(noted(f"{who} began") for who in ("task", "thread", "program")))
        assert requests.began.wait(DEADLINE_S)
        if how == "fenced":
            with Peer(house.live.admin) as operator:
                for id in ids:
                    operator.ask("sessions.park", id=id, why="the test")
        house.wait(lambda: bool(noted("task cancelled, its session too: True")))
        house.wait(lambda: bool(noted("thread told, and fenced")))
        house.wait(lambda: bool(noted("program told")))
        assert requests.closed.wait(DEADLINE_S)
        [program] = noted("program began")
        assert refusal(requests.callback) in ("FENCED", "GONE")
        assert refusal(program["callback"]) in ("FENCED", "GONE")
        house.wait(lambda: not is_running(program["pid"]))  # it was deaf: SIGKILL
        left = 4 if how == "fenced" else 0
        house.wait(lambda: house.unfinished() == left)
        if how == "fenced":
            with Peer(house.live.admin) as operator:
                assert {one["state"] for one in operator.ask("sessions.list")["sessions"]} == {"parked"}
