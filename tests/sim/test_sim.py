"""The simulator in little: that it runs clean, that a seed is a run, and that what is planted is found and made small.

The budget of CI is `tox -e sim`; here is what has to hold for that to mean anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import marks
from tests.sim.oracle import Oracle, Violation
from tests.sim.planted import names, plant
from tests.sim.running import run
from tests.sim.steps import STEPS, WEIGHTS, plan

ROOT = Path(__file__).parents[2]


def _command(*arguments: str, path: str = "") -> str:
    """What the simulator's command says."""
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}" if path else str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", *arguments], capture_output=True, text=True, timeout=100, check=False,
        cwd=path or ROOT, env=environment,
    ).stdout  # fmt: skip


def test_a_few_seeds_hold() -> None:
    """Nothing is found in the source as it stands."""
    for seed in (1, 2):
        outcome = run(seed, 25)
        assert not outcome.failure, outcome.trace
        assert outcome.operations > 500


def test_a_seed_is_a_run() -> None:
    """Two processes make the same of a seed, to the last mark: what failed once fails again."""
    told = {_command("--seed", "3", "--steps", "20", "--counts") for _ in range(2)}
    assert len(told) == 1
    assert "NONE NEW OK" in told.pop()


def test_every_step_has_its_weight() -> None:
    """What can be done is done."""
    assert STEPS.keys() == WEIGHTS.keys()
    interval, steps = plan(7, 500)
    assert {step.name for step in steps} <= STEPS.keys()
    assert isinstance(interval, bool)


def test_every_mark_has_one_name() -> None:
    """No cell is asked for twice, and none that is said to be out of reach."""
    every = [*marks.cells(), *marks.BRANCHES]
    assert len(every) == len(set(every))
    assert not marks.UNREACHABLE.keys() & set(every)
    assert marks.missed(dict.fromkeys(every, 1)) == []
    assert marks.missed({}) == every


@pytest.mark.parametrize("name", names())
def test_every_fault_can_be_planted(name: str, tmp_path: Path) -> None:
    """The text that a fault changes stands in the source, once."""
    assert plant(name, tmp_path)


def test_a_planted_fault_is_found_and_made_small(tmp_path: Path) -> None:
    """The tester is tested: a batch of Deletes that is answered and not logged is found in the first seeds; seed,
    command and a shorter history are told."""
    plant("delete_without_log", tmp_path)
    said = _command("--seeds", "0:4", "--steps", "30", "--shrink", "20", path=str(tmp_path))
    assert "again: python -m tests.sim --seed" in said
    assert "smaller, " in said


def test_the_oracle_says_no() -> None:
    """An ack of what was never logged is none."""
    oracle = Oracle(lambda incarnation: False, lambda incarnation: False, 1)
    with pytest.raises(Violation, match="not logged"):
        oracle.acked(b"c" * 16, 1, 5, 1, [], True)
