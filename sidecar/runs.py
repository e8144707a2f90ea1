"""The runs this sidecar holds: handed to a handler, waiting for one, or ended and not yet answered by the
pipe.

Pure. A run leaves when the pipe has answered its ending, or when the writer itself decided the session. What
a sidecar holds is what its hello lists, and what its credit is counted against.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from enum import Enum, auto

from mpy6a import limits
from mpy6a.messages import KindCredit, RepeatPart
from mpy6a.model import SessionId
from sidecar.dials import Dial, size
from sidecar.values import KindSetup, RunKey


class Stage(Enum):
    """Where a run stands."""

    WAITING = auto()  # taken, no handler has room yet
    RUNNING = auto()  # handed to a handler
    ENDING = auto()  # its outcome is on the way to the pipe


@dataclass(slots=True)
class Run:
    """One run. `parts` are kept until it is handed over; `holder` is the attached service, b"" for http and exec."""

    key: RunKey
    kind: int
    size: int  # bytes of its records
    parts: tuple[RepeatPart, ...]
    taken_ms: int
    stage: Stage = Stage.WAITING
    again: bool = False  # its fence, or a later one, was handed over before: it is not to be run
    holder: bytes = b""
    timeout_ms: int = 0  # of its kind when it was handed over
    until_ms: int = 0  # at an attached service: when the kind's timeout ends it


class Runs:
    """All runs held, and the memory of those that were: a session is handed over under a higher fence each time.

    By fence, not by epoch: a pipe that was restored or repaired gives epochs again that this process has seen, in a
    new term.
    """

    __slots__ = ("_bytes", "_handed", "_held", "_runs", "_waiting")

    def __init__(self) -> None:
        self._runs: dict[RunKey, Run] = {}
        self._waiting: dict[int, deque[Run]] = {}
        self._held: Counter[tuple[int, int]] = Counter()  # (kind, pipe) -> runs
        self._bytes: Counter[tuple[int, int]] = Counter()
        self._handed: OrderedDict[SessionId, int] = OrderedDict()  # -> the highest fence taken

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, key: RunKey) -> Run | None:
        return self._runs.get(key)

    def all(self) -> list[Run]:
        return list(self._runs.values())

    def of_pipe(self, pipe: int) -> list[Run]:
        return [run for run in self._runs.values() if run.key.pipe == pipe]

    def take(self, pipe: int, parts: tuple[RepeatPart, ...], now_ms: int) -> Run | None:
        """Holds a session that was pushed; None: it is held already."""
        key, fence = RunKey.of(pipe, parts[0]), parts[0].fence
        if key in self._runs:
            return None
        run = self._runs[key] = Run(key, parts[0].kind, size(parts), parts, now_ms)
        if self._handed.get(key.session, 0) >= fence:
            run.again = True
        else:
            self._handed[key.session] = fence
            self._handed.move_to_end(key.session)
            while len(self._handed) > limits.HANDED_MAX:
                self._handed.popitem(last=False)
            self._waiting.setdefault(run.kind, deque()).append(run)
        self._held[run.kind, pipe] += 1
        self._bytes[run.kind, pipe] += run.size
        return run

    def waiting(self, kind: int) -> Run | None:
        """The run of the kind that has waited longest."""
        queue = self._waiting.get(kind)
        while queue:
            if queue[0].stage is Stage.WAITING and queue[0].key in self._runs:
                return queue[0]
            queue.popleft()
        return None

    def handed(self, run: Run, holder: bytes) -> tuple[RepeatPart, ...]:
        """Marks the run as running at `holder`; returns its parts, which are not kept."""
        assert run.stage is Stage.WAITING
        run.stage, run.holder = Stage.RUNNING, holder
        parts, run.parts = run.parts, ()
        return parts

    def ending(self, run: Run) -> None:
        """Marks the run as ended; it is held until the pipe has answered."""
        run.stage, run.parts = Stage.ENDING, ()

    def forget(self, key: RunKey) -> None:
        """The run is over: its credit is free again."""
        run = self._runs.pop(key, None)
        if run is not None:
            self._held[run.kind, key.pipe] -= 1
            self._bytes[run.kind, key.pipe] -= run.size

    def credit(self, dial: Dial, setup: KindSetup, free: int | None, share: int, bytes_max: int) -> KindCredit:
        """Totals of the kind in this dial: what was taken in it and what may still come.

        `free` is the room that services have now (None: as much as the concurrency allows), `share` the
        pipes that dialed: each gets its part of the concurrency, so that all together cannot overrun it by
        much.
        """
        held = self._held[setup.id, dial.pipe]
        room = max(0, max(1, min(setup.concurrency, limits.CREDIT_SESSIONS) // share) - held)
        if free is not None:
            waiting = len(self._waiting.get(setup.id, ()))
            room = min(room, max(0, free - waiting))
        room_bytes = max(0, bytes_max // share - self._bytes[setup.id, dial.pipe])
        if room == 0:
            room_bytes = 0
        return KindCredit(setup.id, dial.sessions_taken[setup.id] + room, dial.bytes_taken[setup.id] + room_bytes)
