"""`mpy6a demo` refuses what it cannot do in one sentence, and calls a run that showed nothing a failure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpy6a.demo import orchestrator
from mpy6a.demo.audit import Facts
from mpy6a.demo.orchestrator import Wanted
from mpy6a.demo.people import SHIPPED
from mpy6a.demo.run import again, demo
from mpy6a.demo.show import InFlight

NOTHING = Facts(1, 1, 0, 1, 0, 0, 0, {}, {}, 0, {})
RECOVERED = Facts(1, 1, 0, 1, 0, 0, 0, {"users": 1}, {}, 1, {})
HIT = [InFlight("pipe", 1, 1, 0)]


def wanted(users: int = 500, *, kill: bool = True) -> Wanted:
    return Wanted(users, 0.1, kill, 1, SHIPPED)


@pytest.mark.parametrize(
    ("facts", "hits", "kill", "missing"),
    [
        (RECOVERED, HIT, True, 0),
        (RECOVERED, [], False, 0),
        (RECOVERED, [], True, 1),
        (NOTHING, HIT, True, 1),
        (NOTHING, [], True, 2),
    ],
)
def test_a_run_that_was_put_through_nothing_is_no_success(
    facts: Facts, hits: list[InFlight], kill: bool, missing: int
) -> None:
    """Without a recovery, or without a kill that was asked for, nothing was shown."""
    assert len(orchestrator.missing(wanted(kill=kill), facts, hits)) == missing


def test_the_client_is_paced_so_that_the_kills_hit_it_at_work() -> None:
    """The default run begins 25 users a second; few users do not take for ever, and many are not held
    back."""
    assert wanted(500).rate == 25
    assert wanted(10).rate == orchestrator.CLIENT_RATE_MIN
    assert wanted(3_000).rate == 150


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    """Exit 2 and one sentence, before anything is started."""
    ran = CliRunner().invoke(demo, ["--input", str(tmp_path / "nobody.csv")])
    assert ran.exit_code == 2
    assert "No such file" in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.parametrize("arguments", [["--fail", "2"], ["--users", "0"], ["--handler", "exec"], ["--seed", "-1"]])
def test_values_out_of_range_are_usage_errors(arguments: list[str]) -> None:
    """Exit 2 with what is allowed."""
    assert CliRunner().invoke(demo, arguments).exit_code == 2


def test_no_guard_is_there_and_not_advertised() -> None:
    """It exists to see the audit fail, not for users."""
    shown = CliRunner().invoke(demo, ["--help"]).output
    assert "--no-kill" in shown
    assert "guard" not in shown


def test_the_command_that_runs_it_again_is_told() -> None:
    """Everything that the schedules are drawn from, and a file's name as a shell takes it."""
    assert again(wanted(), "python") == "mpy6a demo --users 500 --fail 0.1 --seed 1 --handler python"
    mine = Wanted(7, 0.25, False, 3, Path("/tmp/my people.csv"), guard=False)
    assert again(mine, "http") == (
        "mpy6a demo --users 7 --fail 0.25 --seed 3 --handler http --no-kill --no-guard --input '/tmp/my people.csv'"
    )


def test_without_httpx_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, before anything is started; nothing is left in the directory of temporary files."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ran = CliRunner().invoke(demo, ["--users", "1", "--seed", "1"])
    assert ran.exit_code == 3
    assert "pip install 'mpy6a[demo]'" in ran.output
