"""The network, the wall clock, and nights."""

from __future__ import annotations

from random import Random

from ..world import World
from .processes import kill_pipe, start


def cut(world: World, chance: Random) -> None:
    lines = [line for line in world.network.lines if line.up]
    for line in chance.sample(lines, min(len(lines), chance.choice((1, 1, 2, 5)))):
        world.network.faults["cut"] += 1
        line.cut(wait_ms=chance.choice((1, 50, 1_000, 8_000)))


def at_push(world: World, chance: Random) -> None:
    """The next push goes into a connection that breaks, or to a sidecar that dies."""
    world.at_push = chance.choice(("cut", "die"))


def slow(world: World, chance: Random) -> None:
    world.network.latency_ms = chance.choice((1, 5, 40, 300))


def harsh(world: World, chance: Random) -> None:
    world.network.harsh = chance.choice((0.0, 0.02, 0.2))
    if world.network.harsh:
        world.note("network", "harsh")


def wall(world: World, chance: Random) -> None:
    """The wall clock is set; the pipe looks at it when it opens."""
    days_ms = 86_400_000
    leap_ms = chance.choice(
        (-3_600_000, -3_600_000, -60_000, 5_000, 3_600_000, 90_000_000, 9 * days_ms, 9 * days_ms, 9 * days_ms)
    )
    world.note("fault", "wall clock back" if leap_ms < 0 else "wall clock forward")
    world.agenda.wall_leap_ms += leap_ms
    if chance.random() < 0.6:
        kill_pipe(world, chance)
        if world.pipe.alive and world.pipe.pipe.due.clock_held:
            world.look()
            world.agenda.at(world.agenda.now_ms + 2_000, _accept, world)


def _accept(world: World) -> None:
    if world.pipe.alive and world.pipe.pipe.due.clock_held:
        world.pipe.accept_clock()


def night(world: World, chance: Random) -> None:
    """The whole machine is off for long."""
    ms = chance.choice((600_000, 3_700_000, 3_700_000, 90_000_000))
    world.note("fault", "night")
    for process in (world.pipe, *world.sidecars.values()):
        if process.alive:
            process.die()
    if chance.random() < 0.5:
        for client in list(world.clients):
            client.die()
            world.replace(client)
    world.agenda.leap(ms)
    for sidecar in world.sidecars.values():
        start(sidecar)
    world.ensure_pipe()
