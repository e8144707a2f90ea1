"""What the pipe says of its live sessions, asked at its admin door as any operator would ask."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, cast

from mpy6a.client.operator import Operator
from mpy6a.demo.place import Place
from mpy6a.errors import Refused, Unavailable

ANSWER_S_MAX: Final = 1.0  # a pipe that answers does so in milliseconds; one that was killed is asked again

STATES: Final = ("open", "stored", "repeating", "parked")


@dataclass(frozen=True, slots=True)
class Live:
    """How many sessions are not finished, by state."""

    states: dict[str, int]
    asked_s: float = 0.0  # when the question was put, on the monotonic clock

    @property
    def total(self) -> int:
        """All that are not finished."""
        return sum(self.states.values())

    @property
    def moving(self) -> int:
        """Those that will go on by themselves: all but the parked."""
        return self.total - self.states["parked"]


class Watch:
    """Asks in the background, one question at a time, so that the kills keep their times."""

    def __init__(self, place: Place) -> None:
        self._operator = Operator(place.admin, timeout=ANSWER_S_MAX)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")  # the only one to touch the operator
        self._asked: Future[Live | None] | None = None
        self.last: Live | None = None

    def poll(self) -> None:
        """Take the answer if it is there, and ask anew; never waits. Raises what `live_sessions` raises."""
        if self._asked is not None:
            if not self._asked.done():
                return
            self.last = self._asked.result() or self.last
        self._asked = self._thread.submit(live_sessions, self._operator)

    def list_live(self) -> list[str]:
        """`list_live` by the same operator; waits for the question under way."""
        return self._thread.submit(list_live, self._operator).result()

    def close(self) -> None:
        """Wait for the question under way, at most ANSWER_S_MAX, and ask no more."""
        self._thread.submit(self._operator.close)
        self._thread.shutdown(wait=True)


def live_sessions(operator: Operator) -> Live | None:
    """How many sessions are live; None while the pipe is down. Raises `Unavailable` when it refuses to say."""
    asked_s = time.monotonic()
    status = _ask(operator, "status")
    return None if status is None else count(status, asked_s)


def list_live(operator: Operator) -> list[str]:
    """Live sessions (the first hundred) as lines for the audit: id, state, and why it does not run."""
    answer = _ask(operator, "sessions.list")
    if answer is None:
        return ["(the pipe did not answer)"]
    sessions = cast(list[dict[str, str]], answer["sessions"])
    return [f"{one['id']} ({one['state']}, {one['why']})" for one in sessions]


def count(status: Mapping[str, object], asked_s: float) -> Live:
    """The counts in the pipe's status."""
    kinds = cast(list[dict[str, int]], status["kinds"])
    return Live({state: sum(kind[state] for kind in kinds) for state in STATES}, asked_s)


def _ask(operator: Operator, verb: str) -> dict[str, object] | None:
    try:
        return operator.request(verb)
    except Unavailable:
        return None
    except Refused as error:
        raise Unavailable(f"the pipe refuses to answer {verb!r}: {error}") from error
