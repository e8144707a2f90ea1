"""What the pipe says of its live sessions, asked through the operators' command line as anyone would."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from mpy6a.demo.place import Place
from mpy6a.errors import Unavailable

ANSWER_S_MAX: Final = 15.0  # of one question, start of the interpreter included
UNREACHABLE: Final = 4  # exit code of the command line while the pipe is down

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
        self._place = place
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._asked: Future[Live | None] | None = None
        self.last: Live | None = None

    def poll(self) -> None:
        """Take the answer if it is there, and ask anew; never waits. Raises what `live_sessions` raises."""
        if self._asked is not None:
            if not self._asked.done():
                return
            self.last = self._asked.result() or self.last
        self._asked = self._thread.submit(live_sessions, self._place)

    def close(self) -> None:
        """Wait for the question under way, at most ANSWER_S_MAX."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def live_sessions(place: Place) -> Live | None:
    """How many sessions are live; None while the pipe cannot be asked. Raises `Unavailable` as `_ask`
    does."""
    asked_s = time.monotonic()
    answer = _ask(place, "status")
    return None if answer is None else count(answer, asked_s)


def list_live(place: Place) -> list[str]:
    """Every live session as a line for the audit: its id, its state, and why it does not run."""
    answer = _ask(place, "sessions", "list")
    if answer is None:
        return ["(the pipe did not answer)"]
    listed = json.loads(answer)["sessions"]
    return [f"{one['id']} ({one['state']}, {one['why']})" for one in listed]


def count(answer: bytes, asked_s: float) -> Live:
    """The counts in the answer to `status --json`."""
    kinds = json.loads(answer)["kinds"]
    return Live({state: sum(int(kind[state]) for kind in kinds) for state in STATES}, asked_s)


def _ask(place: Place, *question: str) -> bytes | None:
    """`mpy6a QUESTION --json` at the run's admin door; None while the pipe is down.

    Raises `Unavailable` with the command's own words when it fails for another reason.
    """
    try:
        ran = subprocess.run(
            place.command("mpy6a", *question, "--json"),
            env=place.environment(),
            cwd=place.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_S_MAX,
        )
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode == UNREACHABLE:
        return None
    if ran.returncode != 0:
        words = ran.stderr.decode(errors="replace").strip()[-400:]
        raise Unavailable(f"`mpy6a {' '.join(question)} --json` ended with {ran.returncode}: {words}")
    return ran.stdout
