"""`mpy6a demo` as a user starts it: everything is killed, the audit holds; and fails where the guard is off."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from mpy6a.demo.faults import Draw, Fault, Schedule
from mpy6a.demo.kills import OTHER_KILLS, OTHERS, PIPE_KILLS
from tests.e2e.live import environment
from tests.processes import Processes

pytestmark = pytest.mark.e2e

RUN_S_MAX: Final = 200.0  # a default run takes 40 s on two quiet cores
END_S_MAX: Final = 20.0  # from a signal until every process is gone; 4 s when quiet

# The first two users created in A hang there for 7.1 s and 5.1 s, long past the client's timeout of 2 s and its
# sessions' repeats, and nothing else fails: what a handler looked up, did not find and let go is created afterwards.
ZOMBIES: Final = ("--no-kill", "--seed", "163643", "--fail", "0.2")
ZOMBIE_USERS: Final = 6

LINE: Final = re.compile(r"( *[A-Za-z][A-Za-z -]*?)  ? *(\d+)(?:   *(.*))?")


class Demo:
    """One demo run as a process of its own, everything it starts marked and its files in `directory`."""

    def __init__(self, processes: Processes, directory: Path, *arguments: str, terminal: bool = False) -> None:
        self.directory = directory
        self.said = b""
        self._mark = f"DEMO_TEST={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        env = environment(TMPDIR=str(directory), TERM="xterm", COLUMNS="120", **{name: value})
        self._reading, writing = pty.openpty() if terminal else os.pipe()
        try:
            command = [sys.executable, "-m", "mpy6a", "demo", *arguments]
            self.process = processes.start(command, cwd=directory, env=env, stdout=writing, stderr=subprocess.STDOUT)
        finally:
            os.close(writing)

    def read_until(self, reached: Callable[[str], bool], at_most_s: float) -> bool:
        """Reads what it says until `reached`, or its end; whether `reached`. Raises TimeoutError."""
        end_s = time.monotonic() + at_most_s
        while not reached(self.text):
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not select.select([self._reading], [], [], left_s)[0]:
                raise TimeoutError(f"in {at_most_s} s it said only:\n{self.text}")
            try:
                more = os.read(self._reading, 65_536)
            except OSError:  # the end of a pseudo-terminal
                more = b""
            if not more:
                return reached(self.text)
            self.said += more
        return True

    def end(self, at_most_s: float = RUN_S_MAX) -> int:
        """Its exit code once it has ended."""
        self.read_until(lambda text: False, at_most_s)
        return self.process.wait(at_most_s)

    def close(self) -> None:
        """Its output is read no more."""
        os.close(self._reading)

    @property
    def text(self) -> str:
        return self.said.decode(errors="replace")

    @property
    def table(self) -> dict[str, tuple[int, str]]:
        """The lines of the last table: name -> (number, what stands behind it)."""
        lines = self.text[self.text.index("rows begun") :].splitlines()
        found = [match for line in lines if (match := LINE.fullmatch(line)) is not None]
        return {match[1].strip(): (int(match[2]), match[3] or "") for match in found}

    def number(self, name: str) -> int:
        return self.table[name][0]

    @property
    def marked(self) -> list[int]:
        """Processes of the run that are there now, those of killed parents too."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


Start = Callable[..., Demo]


@pytest.fixture
def start(processes: Processes, short_tmp: Path) -> Iterator[Start]:
    """Starts `mpy6a demo ARGUMENTS`."""
    started: list[Demo] = []

    def begin(*arguments: str, terminal: bool = False) -> Demo:
        started.append(Demo(processes, short_tmp, *arguments, terminal=terminal))
        return started[-1]

    yield begin
    for demo in started:
        demo.close()


def everything_was_killed(demo: Demo) -> None:
    """The facts that the last table of a run with kills has to show."""
    table = demo.table
    assert table["pipe"][0] >= PIPE_KILLS >= 5
    assert all(table[name][0] >= OTHER_KILLS >= 3 for name in OTHERS)
    assert table["kills"][0] == table["pipe"][0] + sum(table[name][0] for name in OTHERS)
    hit = [int(number) for name in ("pipe", *OTHERS) for number in table[name][1].split()]
    assert sum(hit) > 0, "the kills hit nothing that was in flight"
    assert table["orphans"][0] == table["parked"][0] == 0
    assert table["users in A"][0] == table["users in B"][0] > 0
    assert table["recoveries"][0] >= 1
    assert "audit: every promise kept" in demo.text


def everything_is_gone(demo: Demo) -> None:
    """No process of the run, and no file."""
    assert demo.marked == []
    assert list(demo.directory.glob("mpy6a-demo-*")) == []


@pytest.mark.timeout(240)
def test_a_default_run_keeps_every_promise(start: Start) -> None:
    """500 users, a tenth of all requests faulty, every process killed again and again: nothing is lost, nothing is
    half there, a writer whose fence is old is refused. Piped, it says so in plain lines, and how to run it again."""
    demo = start("--fail", "0.1", "--seed", "7")
    assert demo.end() == 0, demo.text
    everything_was_killed(demo)
    everything_is_gone(demo)
    assert demo.number("rows begun") == 500
    assert demo.number("fences refused") >= 1
    assert "\x1b" not in demo.text
    assert re.search(r"^ *\d+\.\d s +created +\d+  indexed +\d+  unfinished", demo.text, re.MULTILINE)
    assert re.search(r"^again +mpy6a demo --users 500 --fail 0.1 --seed 7 --handler python$", demo.text, re.MULTILINE)


@pytest.mark.timeout(240)
def test_an_http_handler_recovers_as_well(start: Start) -> None:
    """The same promise with the handler as an endpoint of the services that are killed."""
    demo = start("--users", "100", "--fail", "0.1", "--seed", "11", "--handler", "http")
    assert demo.end() == 0, demo.text
    everything_was_killed(demo)
    everything_is_gone(demo)


def test_the_zombies_of_the_next_two_tests_are_certain() -> None:
    """What their seed draws: two hangs well past the repeats, then no fault in any request that can come."""
    draws = {name: Schedule(163643, name, 1, 0.2) for name in ("users", "search")}
    first = [draws["users"].draw() for _ in range(16)]
    assert [draw.fault for draw in first] == [Fault.HANG] * 2 + [Fault.NONE] * 14
    assert all(5_000 < draw.hang_ms < 8_000 for draw in first[:2])
    assert {draws["search"].draw() for _ in range(8)} == {Draw(number, Fault.NONE) for number in range(1, 9)}


def test_without_the_guard_the_audit_fails(start: Start) -> None:
    """The fence is what keeps the promise, and the audit sees it broken: exit 1, the orphans named."""
    demo = start("--users", str(ZOMBIE_USERS), "--no-guard", *ZOMBIES)
    assert demo.end() == 1, demo.text
    orphans = re.findall(r"^OFF: orphan: user \d+ '.+' is in A and not in B$", demo.text, re.MULTILINE)
    assert len(orphans) == demo.number("orphans") == 2
    assert demo.number("fences refused") == 0
    assert "audit: FAILED" in demo.text
    everything_is_gone(demo)


def test_with_the_guard_the_same_run_keeps_its_promise_with_a_file_of_ones_own(start: Start, short_tmp: Path) -> None:
    """Both late creates are refused. Bad rows of the user's file are told with their line and skipped."""
    people = short_tmp / "my people.csv"
    rows = [f"person{row},Person {row}".encode() for row in range(1, ZOMBIE_USERS + 1)]
    rows[2:2] = [b",nobody", b"J\xfcrgen,latin-1", b'"two\nlines",good', b"one,two,three"]
    people.write_bytes(b"\r\n".join([b"nickname,name", *rows, b""]))
    demo = start("--users", str(ZOMBIE_USERS), "--input", people.name, *ZOMBIES)
    assert demo.end() == 0, demo.text
    assert demo.text.startswith(
        "skipped, line 4: the nickname is missing\n"
        "skipped, line 5: nickname is not UTF-8\n"
        "skipped, line 8: 3 columns, the header has 2\n"
        f"{ZOMBIE_USERS} users, --fail 0.2, --seed 163643, --handler python, nobody is killed\n"
    )
    assert demo.table["fences refused"] == (2, "A 2, B 0")
    assert demo.table["undone"][0] == 2
    assert demo.number("users in A") == demo.number("users in B") == ZOMBIE_USERS - 2
    assert demo.number("orphans") == demo.number("kills") == 0
    assert f"--no-kill --input '{people}'\n" in demo.text
    everything_is_gone(demo)


@pytest.mark.parametrize(("number", "terminal"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_ends_every_process(start: Start, number: signal.Signals, terminal: bool) -> None:
    """In the midst of its work, piped or on a terminal with its live display, and with an impatient second signal."""
    demo = start("--seed", "1", terminal=terminal)
    # A user that was created shows that pipe, sidecars, services and client are all there.
    at_work = re.compile(r"│ +[1-9]\d* │" if terminal else r"created +[1-9]")
    assert demo.read_until(lambda text: at_work.search(text) is not None, RUN_S_MAX), demo.text
    assert ("\x1b[" in demo.text) == terminal
    assert len(demo.marked) >= 5  # itself, six processes and the handlers', less those that were just killed
    demo.process.send_signal(number)
    demo.process.send_signal(number)
    assert demo.end(END_S_MAX) == 128 + number, demo.text
    assert "Traceback" not in demo.text
    everything_is_gone(demo)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail", "2"], "2.0 is not in the range 0<=x<=1"),
        (["--handler", "exec"], "'exec' is not one of 'python', 'http'"),
        (["--input", "nobody.csv"], "nobody.csv: No such file or directory; give a CSV file that can be read"),
    ],
)
def test_bad_usage_is_one_sentence(start: Start, arguments: list[str], said: str) -> None:
    """Exit 2, before anything is started."""
    demo = start(*arguments)
    assert demo.end() == 2, demo.text
    errors = [line for line in demo.text.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in demo.text
    everything_is_gone(demo)
