"""Nothing that a test starts outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.processes import Processes

pytestmark = pytest.mark.e2e

STUBBORN = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)\n"
)
POLITE = "import time; print('ready', flush=True); time.sleep(600)"


def _ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_is_ended_and_reaped_the_stubborn_by_kill() -> None:
    with Processes(end_timeout_s=0.2) as started:
        stubborn = started.start([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
        polite = started.start([sys.executable, "-c", POLITE], stdout=subprocess.PIPE)
        _ready(stubborn)
        _ready(polite)
    assert (polite.returncode, stubborn.returncode) == (-signal.SIGTERM, -signal.SIGKILL)
    assert not _runs(polite.pid)
    assert not _runs(stubborn.pid)
    assert stubborn.stdout is not None
    assert stubborn.stdout.closed


def test_a_failing_test_leaves_none_behind() -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def fail() -> None:
        with Processes() as started:
            begun.append(started.start([sys.executable, "-c", POLITE], stdout=subprocess.PIPE))
            _ready(begun[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert begun[0].returncode == -signal.SIGTERM


def test_one_that_is_gone_already_is_left_alone(processes: Processes) -> None:
    process = processes.start([sys.executable, "-c", "raise SystemExit(3)"])
    assert process.wait(30) == 3
    processes.end()
    assert process.returncode == 3
