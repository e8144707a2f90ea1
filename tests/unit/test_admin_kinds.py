"""Pausing and resuming kinds at the operators' door: nothing of a paused kind is dispatched, and `why` says so."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import click
import pytest

from mpy6a.commands.until import Until
from mpy6a.errors import Code
from mpy6a.messages import Push
from mpy6a.model import Op, SessionId, Verb
from tests.fakes.core import World
from tests.unit.test_admin import Desk

A, S = b"A" * 16, b"S" * 16


def stored(world: World) -> SessionId:
    """A session that is due in a millisecond."""
    id = world.new(A, b"first")
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=1)])
    return id


def pushed(world: World) -> int:
    return sum(len(message.sessions) for _, message in world.pushed if isinstance(message, Push))


def test_a_paused_kind_waits_until_it_is_resumed() -> None:
    """By name and by number; the session says KIND_PAUSED and why, and goes on by itself afterwards."""
    desk = Desk()
    world = desk.world
    world.sidecar(S)
    assert desk.ask("kinds.pause", kind="user-create", who="ada", reason="looking") == {
        "kind": 1, "pause": True, "was_paused": False,
    }  # fmt: skip
    id = stored(world)
    world.pass_time(10)
    assert pushed(world) == 0
    shown = desk.ask("sessions.show", id=str(id))
    assert (shown["why"], shown["detail"]) == ("KIND_PAUSED", "looking")
    [kind] = desk.ask("status")["kinds"]
    assert (kind["paused"], kind["stored"]) == ({"who": "ada", "reason": "looking", "for_ms": None}, 1)
    assert desk.ask("kinds.list") == {"kinds": [kind]}
    assert desk.ask("kinds.resume", kind="1", who="ada")["was_paused"]
    assert world.pusher.deadline(world.now_ms) == world.now_ms or pushed(world) == 1
    world.work()
    assert pushed(world) == 1
    assert desk.ask("kinds.list")["kinds"][0]["paused"] is None


def test_resuming_comes_at_once() -> None:
    """What waited is due already: the loop is told not to wait for a timer."""
    world = World()
    assert world.pusher.deadline(world.now_ms) is None
    world.pusher.look_again()
    assert world.pusher.deadline(world.now_ms) == world.now_ms


def test_a_pause_outlives_a_restart() -> None:
    """It is in the log."""
    desk = Desk()
    desk.ask("kinds.pause", kind=1, who="ada", reason="looking")
    world = World(log=desk.world.log.restarted())
    assert Desk(world).ask("kinds.list")["kinds"][0]["paused"] == {"who": "ada", "reason": "looking", "for_ms": None}


def test_a_kind_that_nobody_knows_is_refused() -> None:
    """With the nearest name; a number that is in no route may be of an orphan."""
    desk = Desk()
    reply = desk.reply("kinds.pause", '{"kind": "user-creat"}')
    assert reply.code == Code.BAD_REQUEST
    assert "did you mean user-create" in reply.message
    assert desk.reply("kinds.pause").code == Code.BAD_REQUEST
    assert desk.reply("kinds.stop", '{"kind": 1}').code == Code.BAD_REQUEST
    assert desk.ask("kinds.pause", kind=7)["kind"] == 7
    assert [kind["kind"] for kind in desk.ask("kinds.list")["kinds"]] == [1, 7]


def test_a_pause_with_an_end_is_over_by_itself() -> None:
    """No message is needed for it, and no restart prolongs it: the end is log time, in the log."""
    desk = Desk()
    world = desk.world
    world.sidecar(S)
    id = stored(world)
    desk.ask("kinds.pause", kind="user-create", who="ada", reason="looking", for_ms=60_000)
    world.pass_time(20_000)
    assert pushed(world) == 0
    shown = desk.ask("sessions.show", id=str(id))
    assert (shown["why"], shown["detail"]) == ("KIND_PAUSED", "looking, for 40 s more")
    assert desk.ask("kinds.list")["kinds"][0]["paused"]["for_ms"] == 40_000
    wake_ms = world.pusher.deadline(world.now_ms)
    assert wake_ms == world.now_ms + 40_000
    world.pass_time(39_990)
    assert pushed(world) == 0
    world.pass_time(10)
    assert pushed(world) == 1
    assert desk.ask("kinds.list")["kinds"][0]["paused"] is None
    assert not desk.ask("kinds.resume", kind="user-create")["was_paused"]


def test_an_end_outlives_a_restart() -> None:
    world = World()
    Desk(world).ask("kinds.pause", kind="user-create", for_ms=60_000)
    again = World(log=world.log.restarted(), wall_ms=world.log_ms + 50_000)
    [kind] = Desk(again).ask("kinds.list")["kinds"]
    assert 9_000 <= kind["paused"]["for_ms"] <= 10_000
    later = World(log=world.log.restarted(), wall_ms=world.log_ms + 61_000)
    assert Desk(later).ask("kinds.list")["kinds"][0]["paused"] is None


@pytest.mark.parametrize("for_ms", [-1, "1h", 1 << 62, True])
def test_an_end_that_is_none_is_refused(for_ms: object) -> None:
    reply = Desk().reply("kinds.pause", json.dumps({"kind": "user-create", "for_ms": for_ms}))
    assert reply.code == Code.BAD_REQUEST
    assert reply.message.startswith("for_ms: found")


@pytest.mark.parametrize(("text", "for_ms"), [("90s", 90_000), ("2h30m", 9_000_000)])
def test_until_is_a_duration(text: str, for_ms: int) -> None:
    assert Until().convert(text, None, None) == for_ms


def test_until_is_a_time_with_its_zone() -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    assert 3_590_000 < Until().convert(at.isoformat(), None, None) <= 3_600_000
    for wrong in ("soon", "0", "2020-01-01T00:00Z", at.replace(tzinfo=None).isoformat(), "900d"):
        with pytest.raises(click.BadParameter):
            Until().convert(wrong, None, None)
