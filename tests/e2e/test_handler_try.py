"""`mpy6a handler try`: one push, run as a sidecar would, and what the handler did with it; nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from mpy6a.exits import EXIT_CANNOT_START, EXIT_FOUND_BAD, EXIT_USAGE
from tests.e2e.live import environment
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

COMMAND_S: Final = 60.0  # of one command; it takes 2 s
PYTHON = json.dumps(sys.executable)

HANDLERS = """
import os, sys, time
import mpy6a

@mpy6a.handler("decide")
async def decide(repeat):
    print("on stdout", repeat.cancel, [bytes(one) for one in repeat.records], flush=True)
    session = repeat.session
    await session.append(json={"id": 7})
    await session.touch()
    await session.replace(b"\\xff\\x00")
    await session.store(after=0)

@mpy6a.handler("give-back")
def give_back(repeat):
    repeat.session.release()

@mpy6a.handler("leave")
async def leave(repeat):
    repeat.session.park("odd records")

@mpy6a.handler("die")
def die(repeat):
    os._exit(9)

@mpy6a.handler("hang")
def hang(repeat):
    time.sleep(60)
"""
ROUTES = f"""
kinds:
  decide: {{id: 1, sidecars: [app], handler: {{python: "handlers:decide"}}}}
  give-back: {{id: 2, sidecars: [app], handler: {{python: "handlers:give_back"}}}}
  leave: {{id: 3, sidecars: [app], handler: {{python: "handlers:leave"}}}}
  die: {{id: 4, sidecars: [app], handler: {{python: "handlers:die"}}}}
  hang: {{id: 5, sidecars: [app], handler: {{python: "handlers:hang"}}, repeat: {{timeout: 300ms}}}}
  missing: {{id: 6, sidecars: [app], handler: {{python: "handlers:missing"}}}}
  program: {{id: 7, sidecars: [app], handler: {{exec: [{PYTHON}, ./program.py]}}, records: text}}
  slow: {{id: 8, sidecars: [app], handler: {{exec: [{PYTHON}, ./slow.py]}}}}
  no-program: {{id: 9, sidecars: [app], handler: {{exec: [./not-there]}}}}
  web: {{id: 10, sidecars: [app], handler: {{http: "http://127.0.0.1:${{WEB}}/finish"}}, records: text, health: /up}}
  own: {{id: 11, sidecars: [app], handler: {{attached: true}}}}
"""
PROGRAM = """
import json, os, sys, urllib.request
repeat = json.load(sys.stdin)
def call(what, body=b""):
    urllib.request.urlopen(urllib.request.Request(os.environ["MPY6A_CALLBACK"] + what, body, method="POST"))
for record in repeat["records"]:
    call("/append", record["text"].upper().encode())
print(repeat["records"][-1]["text"], file=sys.stderr)
sys.exit(int(repeat["records"][0]["text"]))
"""
SLOW = """
import os, pathlib, time
pathlib.Path("pid.new").write_text(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(60)
"""


class Ended:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def facts(self, code: int = 0) -> dict[str, Any]:
        assert self.code == code, (self.code, self.out, self.err)
        facts: dict[str, Any] = json.loads(self.out)
        return facts


@pytest.fixture
def place(short_tmp: Path, free_port: FreePorts) -> Iterator[Path]:
    """Routes and handlers; afterwards nothing but these is there, and nothing in the directory for temporary files."""
    (short_tmp / "tmp").mkdir()
    files = {"routes.yaml": ROUTES, "handlers.py": HANDLERS, "program.py": PROGRAM, "slow.py": SLOW}
    for name, text in files.items():
        (short_tmp / name).write_text(text)
    yield short_tmp
    assert list((short_tmp / "tmp").iterdir()) == []
    assert {path.name for path in short_tmp.iterdir()} - {"pid", "record", "pipe.yaml"} == {*files, "tmp"}


def attempt(place: Path, *argv: str, web: int = 1, routes: bool = True, at: Path | None = None) -> Ended:
    given = ["--routes", "routes.yaml"] if routes and at is None else []
    env = environment(TMPDIR=str(place / "tmp"), WEB=str(web), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "mpy6a", "handler", "try", *argv, *given]
    done = subprocess.run(
        command, cwd=at or place, env=env, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    return Ended(done)


def told(facts: dict[str, Any]) -> list[tuple[str, object, object]]:
    return [(one["verb"], one["record"], one["refused"]) for one in facts["operations"]]


def test_a_python_handler_is_run_once_and_what_it_did_is_told(place: Path) -> None:
    """Each operation in order, its outcome, and when it would be repeated; though it is due at once, it runs once.
    What the handler prints does not come between the facts."""
    (place / "record").write_bytes(b"two")
    ended = attempt(place, "decide", "--record", "one", "--record-file", "record", "--cancel", "--json")
    facts = ended.facts()
    assert told(facts) == [
        ("append", {"text": '{"id":7}'}, None), ("touch", None, None), ("replace", {"base64": "/wA="}, None)
    ]  # fmt: skip
    assert ended.err.count("on stdout") == 1
    assert "on stdout True [b'one', b'two']" in ended.err
    assert (facts["outcome"], facts["after_ms"], facts["good"], facts["charged"]) == ("store", 0, True, False)
    assert (facts["kind"], facts["handler"]) == ("decide", {"python": "handlers:decide"})
    assert (facts["records"], facts["cancel"]) == (2, True)
    assert facts["session"].startswith("65535.")
    assert 0 <= facts["operations"][0]["at_ms"] <= facts["took_ms"] < 60_000
    text = attempt(place, "decide")
    assert text.code == 0
    lines = text.out.splitlines()
    assert lines[0].startswith("decide, python: handlers:decide; session 65535.")
    assert [line.split(" (")[0] for line in lines[1:]] == [
        "  append '{\"id\":7}'", "  touch", "  replace 2 bytes", "store, again after 0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "outcome", "message", "code"),
    [
        ("give-back", "release", "", 0),
        ("leave", "park", "odd records", EXIT_FOUND_BAD),
        ("die", "fail", "", EXIT_FOUND_BAD),
        ("hang", "fail", "", EXIT_FOUND_BAD),
    ],
)
def test_how_a_python_handler_may_end(place: Path, kind: str, outcome: str, message: str, code: int) -> None:
    """Released and parked as it said; a process that dies, and a run beyond its timeout, fail."""
    facts = attempt(place, kind, "--json").facts(code)
    assert (facts["outcome"], facts["good"], facts["charged"]) == (outcome, code == 0, outcome == "fail")
    assert message in facts["message"]


@pytest.mark.parametrize(
    ("first", "outcome", "message", "code"),
    [("0", "delete", "", 0), ("75", "release", "why", 0), ("65", "park", "why", 1), ("3", "fail", "why", 1)],
)
def test_a_program_is_run_and_its_callbacks_are_served(
    place: Path, first: str, outcome: str, message: str, code: int
) -> None:
    """By the table of docs/HANDLERS.md, in the routes' directory."""
    facts = attempt(place, "program", "--record", first, "--record", "why", "--json").facts(code)
    assert told(facts) == [("append", {"text": first}, None), ("append", {"text": "WHY"}, None)]
    assert (facts["outcome"], facts["message"]) == (outcome, message)


def test_a_program_has_its_timeout(place: Path) -> None:
    """--timeout instead of the kind's; the program is stopped."""
    facts = attempt(place, "slow", "--timeout", "400ms", "--json").facts(EXIT_FOUND_BAD)
    assert facts["outcome"] == "fail"
    assert "timeout" in facts["message"]
    assert not Path(f"/proc/{(place / 'pid').read_text()}").exists()


def test_ctrl_c_ends_the_handler_too(place: Path, processes: Processes) -> None:
    """Exit 130, and no program is left."""
    env = environment(TMPDIR=str(place / "tmp"), WEB="1", PYTHONDONTWRITEBYTECODE="1")
    argv = [sys.executable, "-m", "mpy6a", "handler", "try", "slow", "--routes", "routes.yaml"]
    command = processes.start(argv, cwd=place, env=env, stderr=subprocess.PIPE)
    until = time.monotonic() + COMMAND_S
    while not (place / "pid").exists():
        assert time.monotonic() < until
        assert command.poll() is None
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    assert command.wait(COMMAND_S) == 130
    assert not Path(f"/proc/{(place / 'pid').read_text()}").exists()


class Web(BaseHTTPRequestHandler):
    """Answers as the first record says; appends by callback before."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        callback = self.headers["Mpy6a-Callback"]
        urllib.request.urlopen(urllib.request.Request(f"{callback}/append", b"step", method="POST"), timeout=30).close()
        said = json.loads(body["records"][0]["text"])
        self.send_response(said.get("status", 200))
        self.send_header("Retry-After", "30")
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_http_handler_gets_one_post(place: Path, web: int) -> None:
    """Its answer is the outcome, by the table of docs/HANDLERS.md; `health:` is not waited for."""
    facts = attempt(place, "web", "--record", '{"outcome": "store", "after": "5m"}', "--json", web=web).facts()
    assert told(facts) == [("append", {"text": "step"}, None)]
    assert (facts["outcome"], facts["after_ms"]) == ("store", 300_000)
    facts = attempt(place, "web", "--record", '{"status": 503}', "--json", web=web).facts()
    assert (facts["outcome"], facts["after_ms"], facts["good"]) == ("release", 30_000, True)
    ended = attempt(place, "web", "--record", '{"status": 500}', web=web)
    assert ended.code == EXIT_FOUND_BAD
    assert ended.out.splitlines()[-1].startswith("fail, charged, again after")
    assert "the handler answered 500" in ended.out


def test_a_handler_that_is_not_there_is_no_good_release(place: Path, free_port: FreePorts) -> None:
    """The sidecar would release the session; whoever tries is told that nobody was there."""
    facts = attempt(place, "web", "--json", web=free_port()).facts(EXIT_FOUND_BAD)
    assert (facts["outcome"], facts["good"], facts["charged"]) == ("release", False, False)
    assert "refused the connection" in facts["message"]


def test_what_cannot_be_tried(place: Path, tmp_path: Path) -> None:
    """One sentence each: a kind that is none, one that is attached, functions and programs that are not there, no
    config, records that no pipe takes."""
    ended = attempt(place, "decode")
    assert (ended.code, ended.out) == (EXIT_USAGE, "")
    assert ended.err == "mpy6a: no kind 'decode' in the routes; did you mean 'decide'?\n"
    ended = attempt(place, "own")
    assert ended.code == EXIT_USAGE
    assert "mpy6a.testing.pipe" in ended.err
    assert "serves it itself" in ended.err
    ended = attempt(place, "missing")
    assert ended.code == EXIT_USAGE
    assert ended.err.splitlines()[-1].startswith("mpy6a: handlers:missing: its process ended with status 2")
    assert str(place) in ended.err.splitlines()[-1]
    ended = attempt(place, "no-program")
    assert ended.code == EXIT_CANNOT_START
    assert ended.err.count("\n") == 1
    assert "./not-there" in ended.err
    ended = attempt(place, "decide", routes=False)
    assert ended.code == EXIT_USAGE
    assert "mpy6a init" in ended.err
    (place / "record").write_bytes(b"x" * ((1 << 20) + 1))
    for wrong, said in (
        (["--record-file", "record"], "record 1: a record has at most 1048576 bytes"),
        (["--record-file", "none"], "'none' does not exist"),
        (["--timeout", "5"], "500ms, 30s"),
        (["--config", "pipe.yaml"], "not both"),
        (["--record", "x"] * 4_097, "4097 records"),
    ):
        ended = attempt(place, "decide", *wrong)
        assert (ended.code, ended.out) == (EXIT_USAGE, ""), said
        assert said in ended.err


def test_python_handlers_are_looked_for_beside_the_routes(place: Path, tmp_path: Path) -> None:
    """Wherever the command is called; or where --path says."""
    routes = str(place / "routes.yaml")
    assert attempt(place, "leave", "--routes", routes, "--json", at=tmp_path).facts(1)["outcome"] == "park"
    ended = attempt(place, "leave", "--routes", routes, "--path", str(tmp_path), at=tmp_path)
    assert ended.code == EXIT_USAGE
    assert "No module named 'handlers'" in ended.err
    assert ended.err.splitlines()[-1].endswith(f"It is looked for in {tmp_path}")


def test_the_routes_and_limits_are_those_of_the_pipes_config(place: Path) -> None:
    """As for `mpy6a serve`: the argument, the variable, the file here; what is beyond its limits is refused too."""
    (place / "pipe.yaml").write_text(
        "pipe: 1\ndata: d\nroutes: routes.yaml\nsidecars: {app: 'tcp://127.0.0.1:1'}\nlimits: {record: 7B}\n"
    )
    facts = attempt(place, "decide", "--record", "1234567", "--json", routes=False).facts(EXIT_FOUND_BAD)
    assert facts["outcome"] == "fail"  # its own record is one byte too long
    assert "TooLarge" in facts["message"]
    ended = attempt(place, "decide", "--record", "12345678", routes=False)
    assert ended.code == EXIT_USAGE
    assert "at most 7 bytes" in ended.err
