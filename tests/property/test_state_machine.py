"""`apply` keeps the promises of semantics.md in every history: real frames, judged by an independent model.

`World` plays everybody around a log, `Pair` logs each step as a real frame and compares state and reference after it;
here Hypothesis chooses the steps and shrinks what fails.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import ClassVar

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.state import State
from mpy6a.wire import decode_rows

from .pair import PIPE, NewState
from .world import World

CHOICES = st.randoms(use_true_random=False)


class Histories(RuleBasedStateMachine):
    """Any order of steps; each rule is one step of `World`, and raises where state and reference differ."""

    new_state: ClassVar[NewState] = State

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.new_state, tell=note)

    def _by(self, choices: Random) -> World:
        self.world.r = choices
        return self.world

    @initialize(r=CHOICES)
    def begin(self, r: Random) -> None:
        """A pipe with routes and a few sessions."""
        self._by(r).reload()
        self.world.new()
        self.world.new()

    @rule(r=CHOICES)
    def new(self, r: Random) -> None:
        self._by(r).new()

    @rule(r=CHOICES)
    def write(self, r: Random) -> None:
        self._by(r).write()

    @rule(r=CHOICES)
    def write_more(self, r: Random) -> None:
        self._by(r).write()
        self.world.write()

    @rule(r=CHOICES)
    def mixed(self, r: Random) -> None:
        self._by(r).mixed()

    @rule(r=CHOICES)
    def on_gone(self, r: Random) -> None:
        self._by(r).on_gone()

    @rule(r=CHOICES)
    def no_such_id(self, r: Random) -> None:
        self._by(r).no_such_id()

    @rule(r=CHOICES)
    def resend(self, r: Random) -> None:
        self._by(r).resend()

    @rule(r=CHOICES)
    def resend_otherwise(self, r: Random) -> None:
        self._by(r).resend_otherwise()

    @rule(r=CHOICES)
    def resend_news(self, r: Random) -> None:
        self._by(r).resend_news()

    @rule(r=CHOICES)
    def restart(self, r: Random) -> None:
        self._by(r).restart()

    @rule(r=CHOICES)
    def end(self, r: Random) -> None:
        self._by(r).end()

    @rule(r=CHOICES)
    def dispatch(self, r: Random) -> None:
        self._by(r).dispatch()

    @rule(r=CHOICES)
    def repeat(self, r: Random) -> None:
        self._by(r).repeat()

    @rule(r=CHOICES)
    def propose(self, r: Random) -> None:
        self._by(r).propose()

    @rule(r=CHOICES)
    def operate(self, r: Random) -> None:
        self._by(r).operate()

    @rule(r=CHOICES)
    def reopen(self, r: Random) -> None:
        self._by(r).reopen()

    @rule(r=CHOICES)
    def reload(self, r: Random) -> None:
        self._by(r).reload()

    @rule(r=CHOICES)
    def checkpoint(self, r: Random) -> None:
        self._by(r).checkpoint()

    @rule(r=CHOICES)
    def keyed(self, r: Random) -> None:
        self._by(r).keyed()

    @rule(r=CHOICES)
    def start(self, r: Random) -> None:
        self._by(r).start()

    @rule(r=CHOICES)
    def wait(self, r: Random) -> None:
        self._by(r).wait()

    def teardown(self) -> None:
        """Whoever replays the log comes to the same state."""
        again = self.new_state(PIPE)
        for frame in self.world.pair.frames:
            again.apply(replace(frame))
        assert again.dump() == self.world.pair.state.dump()


# What fails takes its time to shrink, one difference at a time; a run that passes takes seconds.
Histories.TestCase.settings = settings(report_multiple_bugs=False)
TestHistories = pytest.mark.timeout(400)(Histories.TestCase)


@pytest.mark.parametrize("seed", range(4))
def test_a_replay_tells_what_the_live_pipe_told(seed: int) -> None:
    """Applied as it came in, already decoded, or read back from the log: the same verdicts, the same state."""
    world = World()
    world.r = Random(seed)
    for _ in range(60):
        world.r.choice((world.new, world.write, world.mixed, world.dispatch, world.end, world.resend))()
    live, replay = State(PIPE), State(PIPE)
    for frame in world.pair.frames:
        told, again = live.apply(decoded(frame)), replay.apply(replace(frame))
        assert (told.results, told.void, told.ended) == (again.results, again.void, again.ended)
    assert live.dump() == replay.dump() == world.pair.state.dump()


def decoded(frame: Frame) -> Frame:
    """The frame as the pipe hands it to the log: with what it has read of the batch already."""
    if frame.type != FrameType.BATCH:
        return replace(frame)
    return replace(frame, decoded=decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED)))
