"""`mpy6a dev`, as in the README: start it, let a program die, kill the pipe, edit the handlers, stop it."""

from __future__ import annotations

import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpy6a.commands.dev import child_environment
from mpy6a.resources import config
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

DEADLINE_S = 20.0
MARK = "MPY6A_TEST_RUN"  # in the environment of every process of a test, however far down


class Terminal:
    """One `mpy6a dev` in a directory, and what it has printed."""

    def __init__(self, processes: Processes, place: Path, port: int) -> None:
        self.place = place
        self.token = secrets.token_hex(8)
        self.environment = child_environment(os.environ) | {MARK: self.token}
        self.text = ""
        self._processes = processes
        command = [sys.executable, "-m", "mpy6a", "dev", "handlers.py", "--port-base", str(port)]
        self.process = processes.start(
            command, cwd=place, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        os.set_blocking(self._output.fileno(), False)

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Returns the first match in what was printed, from the place `after` on; fails when none comes in time."""
        deadline_s = time.monotonic() + DEADLINE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while (found := re.compile(pattern, re.MULTILINE).search(self.text, after)) is None:
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no {pattern!r} in:\n{self.text}"
                if selector.select(left_s):
                    data = self._output.read()
                    assert data != b"", f"it ended before {pattern!r}:\n{self.text}"
                    self.text += (data or b"").decode()
        return found

    def ready(self) -> int:
        """Waits until it says what to do next; the pipe's pid."""
        return int(self.wait_for(r"^dev \| break it: kill -9 (\d+) ").group(1))

    def greet(self, name: str) -> None:
        """Runs the program that begins a greeting and dies in the middle of it."""
        program = self._processes.start(
            [sys.executable, "handlers.py", name], cwd=self.place, env=self.environment, stdout=subprocess.PIPE
        )
        assert program.wait(DEADLINE_S) == 1
        assert program.stdout is not None
        assert b"is written down" in program.stdout.read()

    def left(self) -> list[str]:
        """Command lines of the processes of this test that still run, the test's own programs excluded."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{MARK}={self.token}".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it has ended, or is another user's
        return found

    def wait_until_nothing_is_left(self) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while left := self.left():
            assert time.monotonic() < deadline_s, left
            time.sleep(0.05)  # an orphan tells nobody of its end


@pytest.fixture
def terminal(short_tmp: Path, processes: Processes, free_port: FreePorts) -> Terminal:
    """In this order: the processes end before their directory goes."""
    (short_tmp / "handlers.py").write_bytes(config("init/handlers.py").read_bytes())
    return Terminal(processes, short_tmp, free_port())


def test_what_a_program_left_undone_is_done_whatever_is_killed(terminal: Terminal) -> None:
    """The README's story, from the first start to the last word."""
    pipe = terminal.ready()
    terminal.greet("Ada")
    terminal.wait_for(r"^sidecar \| Hello Ada!")

    os.kill(pipe, signal.SIGKILL)
    terminal.wait_for(r"^dev \| the pipe was killed by SIGKILL")
    terminal.greet("Grace")  # while it comes up again, the program waits for it
    again = terminal.wait_for(r"^dev \| the pipe is started again as pid (\d+)")
    assert int(again.group(1)) != pipe
    terminal.wait_for(r"^sidecar \| Hello Grace!")

    handlers = terminal.place / "handlers.py"
    handlers.write_text(handlers.read_text().replace("Hello", "Good day"))
    changed = terminal.wait_for(r"^dev \| handlers.py has changed")
    terminal.wait_for(r"^dev \| the sidecar is started again", changed.end())
    terminal.greet("Joan")
    terminal.wait_for(r"^sidecar \| Good day Joan!")

    handlers.write_text("def (")
    terminal.wait_for(r"^dev \| handlers.py: line 1 of handlers.py: .*; the handlers from before go on running")

    terminal.process.terminate()
    terminal.wait_for(r"^dev \| stopped")
    assert terminal.process.wait(DEADLINE_S) == 0
    assert terminal.left() == []
    assert terminal.text.count("Hello Ada!") == terminal.text.count("Hello Grace!") == 1


def test_nothing_outlives_it_when_it_is_killed_itself(terminal: Terminal) -> None:
    """Its children end with it, and the next start finds everything as it was."""
    terminal.ready()
    terminal.greet("Ada")
    terminal.wait_for(r"^sidecar \| Hello Ada!")
    terminal.process.kill()
    terminal.process.wait(DEADLINE_S)
    terminal.wait_until_nothing_is_left()
    assert "id: 1" in (terminal.place / ".mpy6a" / "routes.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "handlers.py is not there: give the Python file with your handlers; `mpy6a init` writes one"),
        ("x = 1\n", "handlers.py: no handler in it; put @mpy6a.handler(kind) above the function that finishes a kind"),
        ("def finish(:\n", "handlers.py: line 1 of handlers.py: invalid syntax"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(short_tmp: Path, text: str | None, sentence: str) -> None:
    """Nothing is started, and no directory is made."""
    if text is not None:
        (short_tmp / "handlers.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mpy6a", "dev", "handlers.py"],
        cwd=short_tmp,
        env=child_environment(os.environ),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"mpy6a: {sentence}\n")
    assert not (short_tmp / ".mpy6a").exists()


def test_a_second_one_in_the_same_directory_says_who_is_there(terminal: Terminal) -> None:
    """Exit 3 and the other's pid; the first goes on."""
    terminal.ready()
    done = subprocess.run(
        [sys.executable, "-m", "mpy6a", "dev", "handlers.py"],
        cwd=terminal.place,
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 3
    assert f"another `mpy6a dev` (pid {terminal.process.pid}) runs there" in done.stderr
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for(r"^dev \| stopped")
    assert terminal.process.wait(DEADLINE_S) == 0
