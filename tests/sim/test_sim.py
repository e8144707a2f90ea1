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
from tests.sim.bounds import small
from tests.sim.oracle import Oracle, Violation
from tests.sim.planted import edited, names, plant
from tests.sim.running import run
from tests.sim.steps import STEPS, WEIGHTS, plan
from tests.sim.world import World

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
def test_every_fault_can_be_planted(name: str) -> None:
    """The text that a fault changes stands in the source, once, and what becomes of it is Python."""
    summary, texts = edited(name)
    assert summary
    for file, text in texts.items():
        compile(text, file, "exec")


def test_a_planted_fault_is_found_and_made_small(tmp_path: Path) -> None:
    """The tester is tested: a batch of Deletes that is answered and not logged is found in the first seeds; seed,
    command and a shorter history are told."""
    plant("delete_without_log", tmp_path)
    said = _command("--seeds", "0:4", "--steps", "30", "--shrink", "20", path=str(tmp_path))
    assert "again: python -m tests.sim --seed" in said
    assert "smaller, " in said


def test_a_life_begins_from_the_checkpoint_before() -> None:
    """A pipe that is killed finds what it knew in the file and in the log above it: nobody has to replay the rest."""
    with small(1):
        world = World(1)
        for _ in range(12):
            STEPS["much"](world, world.chance)
            world.run_for(400)
            world.checkpoint()
        before = world.pipe.keeper.kept.index
        assert before > 1
        assert world.pipe.pipe.state.sessions.filed.count
        world.pipe.die()
        world.ensure_pipe()
    assert world.marks["open: from a checkpoint"] == 1
    assert world.marks["open: trimmed"] == 1
    assert world.pipe.log.first_index <= before


def test_a_writer_that_is_killed_is_started_again() -> None:
    """It commits, dies before it can tell, and the next one begins from what was committed."""
    with small(1):
        world = World(1)
        writer = world.pipe.writer
        STEPS["much"](world, world.chance)
        world.run_for(50)
        writer.kill_at_commit = True
        world.checkpoint()
        world.run_for(500)
        filed = writer.disk.header()
        assert filed is not None
        assert world.pipe.keeper.kept.index >= filed.next_index or writer.busy
    assert world.marks["checkpoint: committed and not told"] == 1
    assert world.marks["checkpoint: writer started again"] == 1


def test_the_shadow_says_no() -> None:
    """What a replay of the whole history does not come to is told, with its name."""
    with small(1):
        world = World(1)
        world.run_for(200)
        state = world.pipe.pipe.state
        state.paused_kinds[3] = (0, "nobody", "a fault")
        with pytest.raises(Violation, match="paused_kinds"):
            world.pipe.shadow.compare(state)


def test_the_oracle_says_no() -> None:
    """An ack of what was never logged is none."""
    oracle = Oracle(lambda incarnation: False, lambda incarnation: False, 1)
    with pytest.raises(Violation, match="not logged"):
        oracle.acked(b"c" * 16, 1, 5, 1, [], True)
