"""A pipe that keeps its waiting sessions in a checkpoint answers like one that keeps all in memory, in every history.

The frames are those of `World`'s histories. One reader applies them all; the other writes a checkpoint now and then,
forgets what that holds, is killed at times, and begins again from the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpy6a.checkpoint.connecting import Connect, connect_file
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.checkpoint.writing import CheckpointWriter
from mpy6a.framing import Frame
from mpy6a.session import PARKED, STORED, Session
from mpy6a.sessions import Applied
from mpy6a.state import State
from tests.unit.checkpoint.samples import Memory

from .pair import PIPE
from .world import World

LOG = b"L" * 16
STEPS_MAX = 60


class Filing:
    """A process that applies frames and writes checkpoints, over and over. `read` is the log."""

    def __init__(self, directory: str, connect: Connect, read: Callable[[int, int], bytes]) -> None:
        self._directory = directory
        self._connect = connect
        self._read = read
        self._lives = 0
        self.begin()

    def begin(self) -> None:
        """A new process: all that it knows is in the file."""
        self._lives += 1
        self.file = CheckpointFile.open(self._directory, write=True, connect=self._connect)
        self.state = load_state(self.file, PIPE, LOG)
        self._writer = CheckpointWriter(self.file, self.state, self.records, LOG)
        assert self.state.next_index == (self._writer.next_index or 1)

    def records(self, session: Session) -> list[bytes]:
        """From the file below the checkpoint, from the log above it: the log below may be gone."""
        return self.state.sessions.records(session, self._above)

    def _above(self, position: int, length: int) -> bytes:
        assert position >= self.state.sessions.filed_below
        return self._read(position, length)

    def write(self, position: int) -> None:
        """A checkpoint as of the state; then only who has a writer or a target is in memory."""
        before = {session.index for session in self.state.sessions.all()}
        written = self._writer.write(position, 1_700_000_000_000 + self._lives)
        assert written.next_index == self.state.next_index
        assert written.settled
        assert not [s for s in self.state.sessions.in_memory() if s.state in (STORED, PARKED)]
        assert {session.index for session in self.state.sessions.all()} == before
        rows = self.state.sessions.rows
        assert rows is not None
        assert set(rows) == before
        assert not list(self.state.sessions.traces())
        assert not self.state.sessions.gone

    def kill(self) -> None:
        """What is not in the file is gone."""
        self.file.close()
        self.begin()


def said(applied: Applied) -> tuple[Any, ...]:
    """What applying a frame told, without the sessions themselves."""
    return (
        applied.results,
        applied.void,
        applied.ended,
        [(s.term, s.index, s.epoch) for s in applied.dispatched],
        [(s.term, s.index, s.due_ms) for s in applied.timers],
    )


def compare(plain: State, filing: Filing, read: Callable[[int, int], bytes]) -> None:
    """Both know the same, by whichever way they are asked."""
    state = filing.state
    expected, found = plain.dump(), state.dump()
    for kept_elsewhere in ("keys", "finished"):
        del expected[kept_elsewhere], found[kept_elsewhere]
    assert found == expected
    assert +Counter(state.sessions.counts) == +Counter(plain.sessions.counts)
    assert (state.log_ms, state.clock_accepted_ms) == (plain.log_ms, plain.clock_accepted_ms)
    assert state.policy == plain.policy
    assert (state.requests.kept, state.sessions.live()) == (plain.requests.kept, plain.sessions.live())
    for writer in plain.sessions.writers():
        assert sorted(state.sessions.owned(writer)) == sorted(plain.sessions.owned(writer))
    for target in plain.sessions.targets():
        assert sorted(state.sessions.held(target)) == sorted(plain.sessions.held(target))
    for term, index, epoch, _, _ in plain.sessions.traces():
        assert state.sessions.finished_epoch(term, index, plain.log_ms) == epoch
    for session in plain.sessions.all():
        image = next(s for s in state.sessions.after(session.index - 1))
        assert filing.records(image) == plain.sessions.records(session, read)


def run(directory: str, connect: Connect, seed: int, steps: int) -> None:
    """One history, with checkpoints and kills in it."""
    choices = Random(seed)
    world = World()
    world.r = Random(choices.random())
    log = world.pair._log
    actions = [getattr(world, name) for name in ACTIONS]
    plain = State(PIPE)

    def read(position: int, length: int) -> bytes:
        return bytes(log[position : position + length])

    filing = Filing(directory, connect, read)
    frames: list[Frame] = []  # since the last checkpoint
    applied = 0
    world.reload()
    for _ in range(steps):
        choices.choice(actions)()
        for frame in world.pair.frames[applied:]:
            frames.append(frame)
            assert said(filing.state.apply(replace(frame))) == said(plain.apply(replace(frame)))
        applied = len(world.pair.frames)
        chance = choices.randrange(8)
        if chance < 2 and frames:
            filing.write(len(log))
            frames.clear()
        if chance == 2:
            filing.kill()
            for frame in frames:
                filing.state.apply(replace(frame))
        if not chance & 1:
            compare(plain, filing, read)
    assert filing.file.verify() == []
    filing.file.close()


ACTIONS = (
    "new", "new", "write", "write", "mixed", "on_gone", "no_such_id", "resend", "resend_otherwise", "resend_news",
    "restart", "end", "dispatch", "dispatch", "repeat", "propose", "operate", "reopen", "reload", "wait",
)  # fmt: skip


@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, STEPS_MAX))
def test_a_checkpoint_changes_no_answer(seed: int, steps: int) -> None:
    """The same verdicts, effects, images, records, keys and traces, with checkpoints and kills anywhere."""
    with closing(Memory()) as memory:
        run("", memory, seed, steps)


@pytest.mark.parametrize("seed", range(2))
def test_a_checkpoint_on_a_disk_changes_no_answer(tmp_path: Path, seed: int) -> None:
    """The same with page checksums and a journal."""
    run(str(tmp_path), connect_file, seed, STEPS_MAX)
