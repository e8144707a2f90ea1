"""The demo asks the pipe as an operator does, and asks again while it is down."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mpy6a.client.operator import Operator
from mpy6a.demo import place as places
from mpy6a.demo import watch
from mpy6a.demo.watch import Watch
from mpy6a.errors import Busy, Mpy6aError, NotAdmin, Unavailable

STATUS = {
    "kinds": [
        {"kind": 1, "open": 1, "stored": 2, "repeating": 3, "parked": 4},
        {"kind": 2, "open": 0, "stored": 0, "repeating": 1, "parked": 0},
    ]
}
LISTED = {"sessions": [{"id": "1.2.3", "state": "stored", "why": "TIMER"}]}


class Played(Operator):
    """An operator whose pipe answers, or fails, as the test says."""

    def __init__(self, *answers: dict[str, object] | Mpy6aError) -> None:
        super().__init__("/tmp/nobody.sock")
        self.answers = list(answers)

    def request(self, verb: str, arguments: dict[str, object] | None = None) -> dict[str, object]:
        answer = self.answers.pop(0)
        if isinstance(answer, Mpy6aError):
            raise answer
        return answer


def test_live_sessions_are_counted_over_all_kinds() -> None:
    """The pipe's status by kind and state; the parked do not move by themselves."""
    live = watch.count(STATUS, 7.0)
    assert live.states == {"open": 1, "stored": 2, "repeating": 4, "parked": 4}
    assert (live.total, live.moving, live.asked_s) == (11, 7, 7.0)


def test_a_pipe_that_is_down_is_no_answer_and_one_that_refuses_ends_the_run() -> None:
    """The first is what the demo does to it; the second would be so for ever."""
    operator = Played(Unavailable("no answer"), Busy("later"), dict(STATUS), NotAdmin("not here"))
    assert watch.live_sessions(operator) is None
    assert watch.live_sessions(operator) is None
    live = watch.live_sessions(operator)
    assert live is not None
    assert live.total == 11
    with pytest.raises(Unavailable, match="not here"):
        watch.live_sessions(operator)


def test_what_is_still_live_is_listed_with_the_reason() -> None:
    """As the audit names it; a pipe that does not answer is a finding too."""
    assert watch.list_live(Played(dict(LISTED))) == ["1.2.3 (stored, TIMER)"]
    assert watch.list_live(Played(Unavailable("no answer"))) == ["(the pipe did not answer)"]


def test_asking_never_holds_up_the_kills(tmp_path: Path) -> None:
    """`poll` does not wait, with a pipe or without; `last` is the last answer there was."""
    asking = Watch(places.make(tmp_path, "python"))
    try:
        begun_s = time.monotonic()
        for _ in range(100):
            asking.poll()
        assert time.monotonic() - begun_s < watch.ANSWER_S_MAX
        assert asking.last is None
        assert asking.list_live() == ["(the pipe did not answer)"]
    finally:
        asking.close()
