"""Every process of the demo is ended by its own pid, those too that outlived their parents."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mpy6a.demo.place import RUN_VARIABLE
from mpy6a.demo.processes import Child, answers_tcp, answers_unix, end_leftovers

AWAKE = "import signal, time; {}; print('awake', flush=True); time.sleep(600)"
SLEEPER = [sys.executable, "-c", AWAKE.format("0")]
STUBBORN = [sys.executable, "-c", AWAKE.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)")]


def wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        os.sched_yield()


def child(tmp_path: Path, command: list[str], is_up: Callable[[], bool] = lambda: True) -> Child:
    return Child("one", command, dict(os.environ), tmp_path / "one.log", is_up)


def awake(tmp_path: Path, lives: int = 1) -> Callable[[], bool]:
    return lambda: (tmp_path / "one.log").read_text().count("awake") == lives


def test_a_child_is_killed_and_started_again(tmp_path: Path) -> None:
    """Each life writes on into the same file, and only our own kills are counted."""
    one = child(tmp_path, SLEEPER)
    try:
        assert not one.up
        one.start()
        wait(awake(tmp_path))
        assert one.up
        assert one.exit_code is None
        one.kill()
        assert (one.up, one.running, one.exit_code, one.kills) == (False, False, None, 1)
        one.start()
        wait(awake(tmp_path, 2))
    finally:
        one.stop(5)
    assert not one.running
    assert one.kills == 1


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    """Nobody outlives the run."""
    one = child(tmp_path, STUBBORN)
    try:
        one.start()
        wait(awake(tmp_path))
    finally:
        one.stop(0.05)
    assert not one.running


def test_an_end_of_its_own_is_seen_with_its_last_words(tmp_path: Path) -> None:
    """A process that ends by itself is a finding, and its output says why."""
    one = child(tmp_path, [sys.executable, "-c", "import sys; print('port in use'); sys.exit(3)"])
    try:
        one.start()
        wait(lambda: one.exit_code is not None)
        assert one.exit_code == 3
        assert one.tail == "  one| port in use"
        assert not one.up
    finally:
        one.stop(1)


def test_leftovers_of_this_run_are_ended_and_no_others(tmp_path: Path) -> None:
    """A killed parent's child is found by the run's mark; another run's is left alone."""
    mine = subprocess.Popen(SLEEPER, env=os.environ | {RUN_VARIABLE: "mine"}, stdout=subprocess.DEVNULL)
    other = subprocess.Popen(SLEEPER, env=os.environ | {RUN_VARIABLE: "mine too"}, stdout=subprocess.DEVNULL)
    try:
        assert end_leftovers("mine") == 1
        assert mine.wait(5) == -9
        assert other.poll() is None
    finally:
        for one in (mine, other):
            one.kill()
            one.wait()


def test_a_socket_file_without_a_listener_is_not_up(tmp_path: Path) -> None:
    """After a SIGKILL the file is still there."""
    path = tmp_path / "s.sock"
    assert not answers_unix(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert answers_unix(path)
    assert path.exists()
    assert not answers_unix(path)


def test_a_port_is_up_while_somebody_listens() -> None:
    """A connection is the proof."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not answers_tcp(port)
        listener.listen()
        assert answers_tcp(port)
