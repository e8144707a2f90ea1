"""Processes that are killed, stopped, drained, or stand still."""

from __future__ import annotations

from random import Random

from ..process import Process
from ..world import World
from .working import work


def kill_pipe(world: World, chance: Random) -> None:
    if world.pipe.alive:
        world.note("pipe", "killed")
        world.pipe.die()
    world.run_for(chance.choice((0, 5, 200, 3_000)))
    world.ensure_pipe()


def kill_unanswered(world: World, chance: Random) -> None:
    """Killed between its log and its answers, at the next group."""
    world.pipe.die_before_answers = True
    work(world, chance)


def stop_pipe(world: World, chance: Random) -> None:
    if world.pipe.alive:
        world.pipe.stop()
    world.run_for(chance.choice((0, 500)))
    world.ensure_pipe()


def stand_still(world: World, chance: Random) -> None:
    processes: list[Process] = [world.pipe, *world.sidecars.values(), *world.clients]
    process = chance.choice(processes)
    if process.alive:
        ms = chance.choice((200, 2_000, 5_000, 9_000, 20_000))
        if process in world.sidecars.values() and 2_000 <= ms <= 9_000:
            ms = world.lease_ms - 100  # too long for the Accepted of a push, and not for its lease
        world.note("fault", "stands still" if ms < world.lease_ms else "stands still past its lease")
        process.pause(ms)


def kill_sidecar(world: World, chance: Random) -> None:
    sidecar = chance.choice(list(world.sidecars.values()))
    if sidecar.alive:
        world.note("fault", "sidecar killed")
        sidecar.die()
        world.agenda.at(world.agenda.now_ms + chance.choice((5, 300, 9_000)), start, sidecar)


def drain_sidecar(world: World, chance: Random) -> None:
    sidecar = chance.choice(list(world.sidecars.values()))
    if not sidecar.alive or sidecar.agent.handing.draining:
        return
    world.note("sidecar", "drained")
    sidecar.drain()
    life, now_ms = sidecar.lives, world.agenda.now_ms

    def release() -> None:
        if sidecar.alive and sidecar.lives == life:
            sidecar.agent.release_rest(sidecar.clock())
            sidecar.wake()

    def leave() -> None:
        if sidecar.alive and sidecar.lives == life:
            world.note("sidecar", "left drained" if sidecar.agent.drained else "left in a hurry")
            sidecar.die()
            world.agenda.at(world.agenda.now_ms + 100, start, sidecar)

    world.agenda.at(now_ms + 1_000, release)
    world.agenda.at(now_ms + chance.choice((1_001, 2_500)), leave)


def start(process: Process) -> None:
    if not process.alive:
        process.start()


def kill_client(world: World, chance: Random) -> None:
    if not world.clients:
        return
    client = chance.choice(world.clients)
    world.note("fault", "service killed" if client.serves else "client killed")
    client.die()
    world.replace(client)


def goodbye(world: World, chance: Random) -> None:
    if not world.clients:
        return
    client = chance.choice(world.clients)
    if client.alive and not client.paused:
        world.note("client", "said goodbye")
        if chance.random() < 0.7:  # with its last words before it, in one turn of whoever hears them
            client.busy(chance, 40)
        client.goodbye()
        world.replace(client)
