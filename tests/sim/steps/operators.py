"""What operators say, and routes that change."""

from __future__ import annotations

from random import Random

from mpy6a import limits
from mpy6a.model import AdminVerb

from ..world import World, policy_for
from .processes import kill_pipe


def operator(world: World, chance: Random) -> None:
    """Some words in a row, on sessions that are there and on one that is not."""
    for _ in range(3):
        _word(world, chance)


def _word(world: World, chance: Random) -> None:
    model = world.oracle.model
    if not world.pipe.alive or not model.sessions:
        return
    keys = sorted(model.sessions)
    words = (
        AdminVerb.KICK, AdminVerb.KICK, AdminVerb.CANCEL, AdminVerb.PARK, AdminVerb.DELETE, AdminVerb.PAUSE,
        AdminVerb.PAUSE, AdminVerb.RESUME, AdminVerb.RESUME,
    )  # fmt: skip
    some = chance.sample(keys, min(len(keys), chance.randrange(1, 6)))
    some += [key for key in keys if model.sessions[key].state == 3][:2]
    some += [key for key in keys if model.sessions[key].state == 4][:1]
    verb = chance.choice(words)
    if verb is AdminVerb.KICK:
        parked = [key for key in keys if model.sessions[key].state == 4]
        some += parked[:4]
    if verb is AdminVerb.RESUME:
        some += [key for key in keys if model.sessions[key].paused]
    if chance.random() < 0.6:
        some.append((model.term, model.next_index + 3))
    world.pipe.say(verb, chance, dict.fromkeys(some))


def race(world: World, chance: Random) -> None:
    """Operators' words that meet the very moment at which a session is due: its dispatch is proposed, and is void."""
    if not world.pipe.alive or world.pipe.paused:
        return
    now_ms = world.agenda.now_ms
    ahead_ms = world.pipe.pipe.log_ms(world.pipe.clock()) - now_ms
    waiting = [
        session for session in world.oracle.model.sessions.values()
        if session.state == 2 and 0 < session.due_ms - ahead_ms - now_ms < 10_000
    ]  # fmt: skip
    for session in chance.sample(waiting, min(len(waiting), 8)):
        verb = chance.choice((AdminVerb.KICK, AdminVerb.KICK, AdminVerb.CANCEL, AdminVerb.PAUSE, AdminVerb.DELETE))
        at_ms = -(-session.due_ms // limits.TICK_MS) * limits.TICK_MS - ahead_ms - 1
        world.agenda.at(at_ms, _say, world, chance, verb, session.id)


def _say(world: World, chance: Random, verb: AdminVerb, key: tuple[int, int]) -> None:
    if world.pipe.alive and not world.pipe.paused:
        world.pipe.say(verb, chance, [key])
        if verb is AdminVerb.PAUSE:
            world.agenda.at(world.agenda.now_ms + 700, _say, world, chance, AdminVerb.RESUME, key)


def pause_kind(world: World, chance: Random) -> None:
    if not world.pipe.alive:
        return
    kind = chance.choice((1, 2, 3, 4))
    world.pipe.say(AdminVerb.PAUSE, chance, kind=kind)
    world.agenda.at(world.agenda.now_ms + chance.choice((40, 400)), world.look)
    world.agenda.at(world.agenda.now_ms + chance.choice((500, 5_000)), _resume_kind, world, chance, kind)


def _resume_kind(world: World, chance: Random, kind: int) -> None:
    if world.pipe.alive and not world.pipe.paused:
        world.pipe.say(AdminVerb.RESUME, chance, kind=kind)
    else:
        world.agenda.at(world.agenda.now_ms + 1_000, _resume_kind, world, chance, kind)


def reload(world: World, chance: Random) -> None:
    """Other routes, while it runs or by another start; a kind may be missing from them."""
    without = (chance.choice((2, 4)),) if chance.random() < 0.4 else ()
    policy = policy_for(chance, world.lease_ms, without=without, orphans=chance.choice(("hold", "hold", "park")))
    if world.pipe.alive and not world.pipe.paused and chance.random() < 0.6:
        world.pipe.reload(policy)
        return
    world.pipe.policy = policy
    kill_pipe(world, chance)
