"""Pausing and resuming kinds at the operators' door: nothing of a paused kind is dispatched, and `why` says so."""

from __future__ import annotations

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
    assert (kind["paused"], kind["stored"]) == ({"who": "ada", "reason": "looking"}, 1)
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
    assert Desk(world).ask("kinds.list")["kinds"][0]["paused"] == {"who": "ada", "reason": "looking"}


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
