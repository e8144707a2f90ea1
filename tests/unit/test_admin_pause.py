"""Pausing single sessions at the operators' door."""

from __future__ import annotations

import json

from mpy6a.errors import Code
from mpy6a.framing import FrameType
from mpy6a.limits import DURATION_MS_MAX
from mpy6a.reasons import sentence
from tests.unit.test_admin import Desk
from tests.unit.test_admin_kinds import S, pushed, stored


def test_a_paused_session_waits_until_it_is_resumed_and_others_go_on() -> None:
    """`why` says so, and what it says to do helps."""
    desk = Desk()
    world = desk.world
    world.sidecar(S)
    id = stored(world)
    assert desk.ask("sessions.pause", id=str(id), who="ada", reason="looking") == {"id": str(id), "pause": True}
    other = stored(world)
    world.pass_time(10)
    assert pushed(world) == 1
    assert desk.ask("sessions.show", id=str(other))["state"] == "repeating"
    shown = desk.ask("sessions.show", id=str(id))
    assert shown["why"] == "SESSION_PAUSED"
    assert f"sessions resume {id}" in sentence(shown)[1]
    desk.ask("sessions.resume", id=str(id), who="ada")
    world.pass_time(10)
    assert pushed(world) == 2


def test_a_session_put_off_is_due_then_and_not_before() -> None:
    """Also one that was due already, and one whose time is later anyway keeps it."""
    desk = Desk()
    world = desk.world
    id = stored(world)
    world.pass_time(10)  # it is due, and nobody is there
    desk.ask("sessions.pause", id=str(id), who="ada", for_ms=60_000)
    world.sidecar(S)
    world.pass_time(10)
    assert pushed(world) == 0
    assert desk.ask("sessions.show", id=str(id))["why"] == "TIMER"
    desk.ask("sessions.pause", id=str(id), who="ada", for_ms=1_000)
    world.pass_time(59_900)
    assert pushed(world) == 0
    world.pass_time(200)
    assert pushed(world) == 1
    levels = [frame.level for frame in world.log.restarted().replay() if frame.type == FrameType.ADMIN]
    assert levels == [2, 2], "an older release would take it for a pause without an end"


def test_only_what_waits_can_be_put_off() -> None:
    """Nothing of a session that runs is changed by it, and a word without an end takes no time."""
    desk = Desk()
    world = desk.world
    world.sidecar(S)
    id = stored(world)
    world.pass_time(10)
    for verb, for_ms, said in (
        ("pause", 1_000, "pause does not fit a session that is REPEATING"),
        ("kick", 1_000, "for_ms: found 1000, allowed only with pause"),
        ("pause", DURATION_MS_MAX + 1, f"for_ms: found {DURATION_MS_MAX + 1}, allowed is up to"),
    ):
        reply = desk.reply(f"sessions.{verb}", json.dumps({"id": str(id), "for_ms": for_ms}))
        assert reply.code == Code.BAD_REQUEST
        assert reply.message.startswith(said)
