"""Every bug that the simulator found, as the shortest history it was found in: the source holds it, the bug does not.

A history is run step by step as it is written there (tests/sim/histories.py). One that says nothing any more with its
bug put back is worthless: the world around it has changed, and it is to be made anew (docs/SIMULATION.md, "Found").
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.histories import histories, read
from tests.sim.planted import copy_source, parent, simulate
from tests.sim.steps import STEPS

ROOT = Path(__file__).parents[2]
HISTORIES = histories()

each = pytest.mark.parametrize("path", HISTORIES, ids=lambda path: str(path.stem))


def test_every_history_holds() -> None:
    """In one process of their own, for all of them: there sets of bytes have one order, and steps are a run."""
    ended = simulate(parent("mpy6a"), "--history", *map(str, HISTORIES))
    assert [line.partition(", ")[0] for line in ended.stdout.splitlines()] == [
        f"{path.stem} holds" for path in HISTORIES
    ], ended.stdout + ended.stderr


@each
def test_what_a_history_names_is_there(path: Path) -> None:
    """The bug can be put back: its text stands in the source, once, and what becomes of it is Python. So are the test
    that held it first, and every step."""
    history = read(path)
    assert history.what
    assert history.edits
    for file, text in history.texts().items():
        compile(text, file, "exec")
    file, _, name = history.held.partition("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")
    assert {step.name for step in history.steps} <= STEPS.keys()


@pytest.mark.mutation
@each
def test_the_bug_breaks_its_rule(path: Path, tmp_path: Path) -> None:
    """Put back, it is found in its history, by the same rule."""
    history = read(path)
    copy_source(tmp_path, history.texts())
    ended = simulate(tmp_path, "--history", str(path))
    assert ended.stdout.startswith(f"{history.name} breaks {history.rule}: "), ended.stdout + ended.stderr
