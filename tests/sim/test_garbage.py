"""The pipe never looks for cyclic garbage among what is old (mpy6a/collecting.py): so there must be none."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tests.sim import running
from tests.sim.world import World

OF_THE_CLIENTS = ("mpy6a.client.", "mpy6a.errors", "mpy6a.messages", "mpy6a.model")  # killed ones, and what they held


class Kept(World):
    """A world that does not end with its run: what is found then was garbage before."""

    worlds: list[World] = []  # noqa: RUF012 -- of one test, emptied by it

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.worlds.append(self)
        super().__init__(*arguments, **named)


def test_the_pipe_makes_no_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions, frames and batches end with their last reference, also where operations are refused and pipes die."""
    monkeypatch.setattr(running, "World", Kept)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # what is frozen is not looked at: the keeper freezes
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        outcome = running.run(5, 25)
        assert not outcome.failure, outcome.trace
        gc.collect()
        found = [type(thing) for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
        Kept.worlds.clear()
    ours = {kind.__module__ + "." + kind.__qualname__ for kind in found if kind.__module__.startswith("mpy6a.")}
    assert {name for name in ours if not name.startswith(OF_THE_CLIENTS)} == set()
