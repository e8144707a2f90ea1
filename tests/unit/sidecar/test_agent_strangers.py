"""Strangers at the socket that the pipes dial: what they say is answered by nobody and keeps no pipe out."""

from __future__ import annotations

import pytest

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.messages import Error, Greeting, MessageType, Push, SessionEpoch, SidecarHello, Stop
from tests.unit.sidecar.desk import ANN, HTTP, OWN, PIPE, Desk, part, welcome
from tests.unit.sidecar.test_agent_push import credit_of, pushed

STRANGER = bytes([8] * 16)  # an incarnation that no pipe told as its own
HIGHEST = (1 << 31) - 1, (1 << 64) - 1  # the newest (term, dial) that can be said


def forged(desk: Desk, value: Greeting | Push | Stop, by: bytes = STRANGER, pipe: int = 1) -> None:
    """Somebody else says it on the socket that the pipes dial."""
    desk.agent.from_dial(wire.encode(value, incarnation=by, pipe=pipe), desk.now_ms)


def answered(desk: Desk) -> list[tuple[int, int]]:
    """(term, dial) of the hellos that the last flush sent to the pipe."""
    return [(hello.term, hello.dial) for hello in desk.to_pipe(SidecarHello) if isinstance(hello, SidecarHello)]


@pytest.mark.parametrize("term", [1, 5, 6, HIGHEST[0]])
@pytest.mark.parametrize("when", ["before the pipe is heard", "with its greeting", "after it"])
def test_a_strangers_greeting_does_not_keep_the_pipe_out(term: int, when: str) -> None:
    """Whatever (term, dial) it names, also the pipe's own term: never answered, and the pipe's pushes are taken."""
    desk = Desk().serving()
    greeting = Greeting(HIGHEST[1], term, 15_000, 0, "users")
    hellos: list[tuple[int, int]] = []
    for step in ("before the pipe is heard", "with its greeting", "after it"):
        if step == "with its greeting":
            desk.heard()
            hellos += answered(desk)
            desk.dial(Greeting(1, 5, 15_000, 0, "users"))
        if step == when:
            forged(desk, greeting)
        desk.flush()
        hellos += answered(desk)
    assert hellos == [(5, 1)]
    desk.push(part(10, 1))
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2)]


def test_a_stranger_pushes_and_stops_nothing_on_a_dial_that_stands() -> None:
    """It may know pipe, term, dial and target: the header has to name the process that the sidecar calls."""
    desk = Desk().serving().dialed()
    desk.push(part(10, 1))
    desk.flush()
    forged(desk, Push(1, 5, OWN, (part(11, 2),)))
    forged(desk, Stop(1, 5, Code.FENCED, (SessionEpoch(5, 10, 2),)))
    desk.flush()
    assert desk.to_service(ANN) == []
    assert (desk.agent.counts["push_old_dial"], desk.agent.counts["stop_old_dial"]) == (1, 1)
    desk.push(part(12, 2))
    desk.flush()
    assert pushed(desk, ANN) == [(12, 2)]


def test_strangers_greetings_take_no_credit_and_no_room() -> None:
    """As many as they like, of every pipe: the pipe's credit is whole, and its next greeting is answered."""
    desk = Desk().dialed()
    for number in range(3 * limits.DIALS_MAX):
        by = bytes([8] * 14) + number.to_bytes(2, "big")
        forged(desk, Greeting(number, 9, 15_000, 0, ""), by, pipe=number + 1)
    desk.agent.healthy(HTTP, False)
    desk.agent.healthy(HTTP, True)
    desk.dialed(2)
    (hello,) = desk.to_pipe(SidecarHello)
    assert isinstance(hello, SidecarHello)
    assert hello.dial == 2
    assert credit_of(hello, HTTP)[0] == 3
    assert len(desk.told()) == 1


def test_a_strangers_greeting_for_another_sidecar_tells_the_pipe_nothing() -> None:
    """The pipe's config is not wrong because somebody says so; it is counted."""
    desk = Desk().heard()
    forged(desk, Greeting(1, 5, 15_000, 0, "search"))
    desk.flush()
    assert (desk.to_pipe(Error), desk.told()) == ([], [])
    assert desk.agent.counts["dial_wrong_name"] == 1


def test_a_pipe_that_started_anew_is_answered_once_it_is_heard() -> None:
    """Its greeting may come before its welcome; until then the old process may finish, from the hello on no longer."""
    new = bytes([6] * 16)
    desk = Desk().serving().dialed()
    forged(desk, Greeting(1, 6, 15_000, 0, "users"), by=new)
    desk.flush()
    assert answered(desk) == []
    desk.push(part(10, 1))
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2)]
    desk.pipe(welcome(term=6)._replace(hop=new))
    desk.flush()
    assert answered(desk) == [(6, 1)]
    desk.push(part(11, 2))
    desk.dial(Greeting(2, 5, 15_000, 0, "users"))
    desk.flush()
    assert pushed(desk, ANN) == []
    assert answered(desk) == []
    forged(desk, Push(1, 6, OWN, (part(12, 1),)), by=new)
    desk.flush()
    assert pushed(desk, ANN) == [(12, 2)]


def test_a_greeting_in_the_pipes_name_stands_until_the_pipe_says_that_it_is_none() -> None:
    """Who could ask the pipe for its incarnation can greet as it does: the pipe refuses that hello, and the next real
    greeting is answered though its number is lower."""
    desk = Desk().serving().dialed()
    forged(desk, Greeting(HIGHEST[1], 5, 15_000, 0, "users"), by=PIPE)
    desk.flush()
    assert answered(desk) == [(5, HIGHEST[1])]
    desk.pipe(Error(Code.BAD_REQUEST, "no such dial", MessageType.SIDECAR_HELLO, 7))  # of another hello
    desk.dialed(2)
    assert answered(desk) == []
    desk.pipe(Error(Code.BAD_REQUEST, "no such dial", MessageType.SIDECAR_HELLO, HIGHEST[1]))
    desk.dialed(3)
    assert answered(desk) == [(5, 3)]
    assert desk.agent.counts["dial_refused"] == 1
    desk.push(part(10, 1), dial=3)
    desk.flush()
    assert pushed(desk, ANN) == [(10, 2)]


def test_an_unanswered_greeting_is_replaced_by_any_other_term() -> None:
    """Before the pipe was heard nothing tells which of two is its own: the last one is as good as the first."""
    desk = Desk().serving()
    forged(desk, Greeting(HIGHEST[1], HIGHEST[0], 15_000, 0, "users"), by=PIPE)
    desk.dial(Greeting(3, 5, 15_000, 0, "users"))
    desk.dial(Greeting(2, 5, 15_000, 0, "users"))
    desk.heard()
    (hello,) = desk.to_pipe(SidecarHello)
    assert isinstance(hello, SidecarHello)
    assert (hello.term, hello.dial) == (5, 3)
