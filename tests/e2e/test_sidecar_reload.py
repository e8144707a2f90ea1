"""SIGHUP at a sidecar, by real processes: whole or not at all, and nothing that runs notices."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.live import Live
from tests.e2e.test_sidecar_handlers import HANDLERS, House, is_running
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

ROUTES = """\
kinds:
  work: {id: 1, sidecars: [users], handler: {python: "handlers:work"}, repeat: {delay: 10ms, backoff: 10ms..50ms}}
"""
PLAIN = '  plain: {id: 2, sidecars: [users], handler: {python: "handlers:plain"}, repeat: {delay: 10ms}}\n'
PROGRAM = "  run: {id: 4, sidecars: [users], handler: {exec: [./run.sh]}, repeat: {delay: 10ms, backoff: 10ms..50ms}}\n"
SCRIPT = """#!/bin/sh
echo "{\\"what\\": \\"%s\\"}" >> %s/notes
while [ -n "$1" ] && [ ! -e "$1" ]; do sleep 0.01; done
"""


@pytest.fixture
def house(short_tmp: Path, free_port: FreePorts, processes: Processes) -> House:
    live = Live(short_tmp, free_port, processes)
    (short_tmp / "handlers.py").write_text(HANDLERS)
    (short_tmp / "routes.yaml").write_text(ROUTES)
    return House(live)


def write_routes(house: House, text: str) -> None:
    (house.path / "routes.yaml").write_text(text)


def reload(house: House, said: str, times: int = 1) -> None:
    """SIGHUP, until the sidecar has said so."""
    house.sidecar.send_signal(signal.SIGHUP)
    house.wait(lambda: house.live.said("sidecar.log").count(f'"{said}') >= times)


def reload_pipe(house: House, times: int = 1) -> None:
    house.pipe.send_signal(signal.SIGHUP)
    house.wait(lambda: house.live.said("pipe.log").count('"reloaded') >= times)


def test_new_python_handlers_take_new_sessions_and_the_old_ones_finish_theirs(house: House) -> None:
    """The process that runs a session stays until it is over; then it goes by itself."""
    house.start()
    slow = house.leave("work", b"slow")
    house.wait(lambda: len(house.notes()) == 1)
    old = house.notes()[0]["pid"]
    write_routes(house, ROUTES + PLAIN)
    reload_pipe(house)
    reload(house, "reloaded")
    assert '"kinds": "added plain"' in house.live.said("sidecar.log")
    house.leave("plain", b"two")
    house.leave("work", b"three")
    house.wait(lambda: len(house.notes()) == 3 and house.unfinished() == 1)
    new = {note["pid"] for note in house.notes()[1:]}
    assert len(new) == 1
    assert old not in new
    assert is_running(old)
    (house.path / "go").touch()
    house.wait(lambda: house.unfinished() == 0 and not is_running(old))
    assert [note["id"] for note in house.notes()].count(slow) == 1


def test_what_is_bad_or_cannot_be_loaded_changes_nothing(house: House) -> None:
    """A file, a key that needs a restart, a module that is not there, a program that is not there."""
    house.start()
    house.leave("work", b"one")
    house.wait(lambda: len(house.notes()) == 1 and house.unfinished() == 0)
    child = house.notes()[0]["pid"]
    failed = "reload: nothing has changed"
    write_routes(house, ROUTES.replace("id: 1", "id: x"))
    reload(house, failed, 1)
    assert "routes.yaml:2: kinds.work.id: found 'x'" in house.live.said("sidecar.log")
    write_routes(house, ROUTES.replace("handlers:work", "nowhere:work"))
    reload(house, failed, 2)
    assert "ended with status 2" in house.live.said("sidecar.log")
    write_routes(house, ROUTES + PLAIN)  # the pipe does not know it yet
    reload(house, failed, 3)
    assert "ended with status 3" in house.live.said("sidecar.log")
    write_routes(house, ROUTES + PROGRAM)
    reload(house, failed, 4)
    assert "is not there" in house.live.said("sidecar.log")
    write_routes(house, ROUTES)
    config = house.path / "sidecar.yaml"
    text = config.read_text()
    config.write_text(text.replace("users.sock", "other.sock"))
    reload(house, failed, 5)
    assert "needs a restart" in house.live.said("sidecar.log")
    config.write_text(text)
    house.leave("work", b"two")
    house.wait(lambda: len(house.notes()) == 2 and house.unfinished() == 0)
    assert house.notes()[1]["pid"] == child
    reload(house, "reloaded", 1)
    house.leave("work", b"three")
    house.wait(lambda: len(house.notes()) == 3 and house.unfinished() == 0)
    assert house.notes()[2]["pid"] != child


def test_a_kind_with_programs_comes_changes_and_goes(house: House) -> None:
    """A program that runs is not stopped by the reload that replaces it, or takes its kind away."""
    house.start()
    script = house.path / "run.sh"
    script.write_text(SCRIPT % ("first", house.path))
    script.chmod(0o755)
    other = house.path / "other.sh"
    other.write_text(SCRIPT % ("second", house.path))
    other.chmod(0o755)
    waits = PROGRAM.replace("[./run.sh]", "[./run.sh, go]")
    write_routes(house, ROUTES + waits)
    reload_pipe(house)
    reload(house, "reloaded")
    house.leave("run", b"one")
    house.wait(lambda: len(house.notes()) == 1)
    write_routes(house, ROUTES + PROGRAM.replace("run.sh", "other.sh"))
    reload(house, "reloaded", 2)
    house.leave("run", b"two")
    house.wait(lambda: len(house.notes()) == 2 and house.unfinished() == 1)
    write_routes(house, ROUTES)
    reload(house, "reloaded", 3)
    house.leave("run", b"three")  # the pipe still routes it: it waits
    assert house.unfinished() == 2
    (house.path / "go").touch()
    house.wait(lambda: house.unfinished() == 1)
    write_routes(house, ROUTES + PROGRAM)
    reload(house, "reloaded", 4)
    house.wait(lambda: house.unfinished() == 0)
    assert [note["what"] for note in house.notes()] == ["first", "second", "first"]
    assert house.sidecar.poll() is None
    house.sidecar.terminate()
    assert house.sidecar.wait(30) == 0
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _runs_at(pid, house.path / "run.sh")]


def _runs_at(pid: str, path: Path) -> bool:
    try:
        return str(path) in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
