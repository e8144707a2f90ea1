"""The whole history, in a state that never heard of a checkpoint: what the pipe knows has to be the same."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

from mpy6a.framing import Frame
from mpy6a.state import State

from .oracle import Violation

_FIRST: Final = attrgetter("first_index")


class Shadow:
    """Every frame that the log holds or held. Applied when somebody looks."""

    def __init__(self, pipe: int) -> None:
        self.frames: list[Frame] = []
        self._pipe = pipe
        self._state = State(pipe)
        self._applied = 0

    def committed(self, frame: Frame) -> None:
        """The log returned it."""
        self.frames.append(frame)

    def opened(self, found: Sequence[Frame], begins_at: int) -> None:
        """A new life replayed these, from that index on."""
        kept = bisect_left(self.frames, begins_at, key=_FIRST)
        self.frames[kept:] = found
        end = self.frames[-1].first_index + self.frames[-1].count if self.frames else 1
        if self._state.next_index > end:  # some were lost: nobody had been promised them
            self._state, self._applied = State(self._pipe), 0

    def until(self, index: int) -> State:
        """A state of its own, of everything below an index."""
        state = State(self._pipe)
        for frame in self.frames[: bisect_left(self.frames, index, key=_FIRST)]:
            state.apply(replace(frame, decoded=None))
        return state

    def compare(self, state: State) -> None:
        """Everything that `apply` reads, in memory or in the file."""
        own = self._state
        for frame in self.frames[self._applied :]:
            own.apply(replace(frame, decoded=None))
        self._applied = len(self.frames)
        same(state, own)


def same(state: State, own: State) -> None:
    """Raises Violation where the first state, which may have a checkpoint behind it, differs from the second."""
    found, expected = state.dump(), own.dump()
    found |= {
        "counts": +Counter(state.sessions.counts), "log_ms": state.log_ms, "policy": state.policy,
        "clock_accepted_ms": state.clock_accepted_ms, "live": state.sessions.live(),
    }  # fmt: skip
    expected |= {
        "counts": +Counter(own.sessions.counts), "log_ms": own.log_ms, "policy": own.policy,
        "clock_accepted_ms": own.clock_accepted_ms, "live": own.sessions.live(),
    }  # fmt: skip
    for name, value in expected.items():
        if found[name] != value:
            raise Violation("history", f"{name}: {_difference(found[name], value)} by a replay of the whole history")


def _difference(found: object, expected: object) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in (*expected, *found):
            if found.get(key) != expected.get(key):
                return f"{key!r}: {_difference(found.get(key), expected.get(key))}"
    return f"{str(found)[:200]} for {str(expected)[:200]}"
