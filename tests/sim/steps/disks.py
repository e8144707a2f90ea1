"""What disks do: lose power, fail, fill up, forget."""

from __future__ import annotations

import errno
from random import Random

from tests.fakes.files import POWER_CUT

from ..flips import flip_copy
from ..repairs import repair_copy
from ..world import World
from .working import much, strange, work


def cut_power(world: World, chance: Random) -> None:
    """The machine goes down in the middle of a group, or of what else that group needs."""
    operation = chance.choice(("write", "sync", "sync", "sync_dir", "rename"))
    world.note("fault", f"power cut in {operation}")
    world.files.fail(operation, 1 + chance.randrange(4), POWER_CUT)
    work(world, chance)
    world.run_for(chance.choice((20, 100)))
    if world.pipe.alive:
        world.files.faults.clear()
        world.pipe.die()
        world.files.crash(chance)
    world.ensure_pipe()
    if chance.random() < 0.3:
        work(world, chance)
        world.run_for(8)
        if world.pipe.alive:
            world.pipe.die()
        world.files.crash(chance)
        world.ensure_pipe()


def roll(world: World, chance: Random) -> None:
    """The power goes right after the log went on in a new segment."""
    if fill_segment(world, chance):
        world.note("fault", "power lost after a new segment")
        lose_power(world, chance)


def fill_segment(world: World, chance: Random) -> bool:
    """Work until the log goes on in a new segment, or for long; False without a pipe that works."""
    if not world.pipe.alive or world.pipe.paused:
        return False
    before = world.pipe.log.segment
    for _ in range(6):
        much(world, chance)
        world.run_for(12)
        if not world.pipe.alive or world.pipe.log.segment > before:
            break
    return True


def lose_power(world: World, chance: Random) -> None:
    """All that was not synced is forgotten, or not."""
    if chance.random() < 0.6:
        work(world, chance)
        world.run_for(chance.choice((4, 9, 20)))
    world.note("fault", "power lost")
    if world.pipe.alive:
        world.pipe.die()
    world.files.crash(chance)
    world.run_for(chance.choice((1, 1_000)))
    world.ensure_pipe()


def break_disk(world: World, chance: Random) -> None:
    operation = chance.choice(("write", "sync", "sync", "sync_dir", "rename"))
    full = operation == "write" and chance.random() < 0.3
    world.note("fault", f"{'ENOSPC' if full else 'EIO'} in {operation}")
    world.files.fail(
        operation, 1 + chance.randrange(4), errno.ENOSPC if full else errno.EIO, lasting=chance.random() < 0.3
    )
    work(world, chance)
    world.run_for(60)
    if world.pipe.alive:
        world.files.faults.clear()
        return
    world.files.faults.clear()
    if chance.random() < 0.35:  # the next life's opening meets one too
        for error in (errno.EIO, POWER_CUT):
            if not world.pipe.alive:
                world.files.fail(chance.choice(("write", "sync", "sync_dir")), 1, error)
                world.pipe.start()
                world.files.faults.clear()
    if chance.random() < 0.7:
        world.ensure_pipe()
        work(world, chance)
        world.run_for(30)
        if chance.random() < 0.7:
            lose_power(world, chance)
    world.ensure_pipe()


def fill_disk(world: World, chance: Random) -> None:
    """No room for the next segment."""
    if world.files.room is None:
        world.note("fault", "disk full")
        world.files.room = chance.choice((0, 30_000, 200_000))
        much(world, chance)
        world.run_for(100)
        if not world.pipe.alive:
            world.files.room = None
            world.ensure_pipe()
    else:
        world.files.room = None


def disk_level(world: World, chance: Random) -> None:
    world.disk_level = chance.choice((1, 1, 2, 2, 2, 0))
    world.note("fault", f"disk level {world.disk_level}")
    if world.pipe.alive:
        world.pipe.pipe.disk_level = world.disk_level
    work(world, chance)
    strange(world, chance)
    world.agenda.at(world.agenda.now_ms + 400, world.look)
    world.agenda.at(world.agenda.now_ms + 3_000, _room_again, world)


def _room_again(world: World) -> None:
    world.disk_level = 0


def flip(world: World, chance: Random) -> None:
    """A bit turns, in a copy."""
    flip_copy(world, chance)


def mend(world: World, chance: Random) -> None:
    """A bit turns in a copy, which is repaired; a few times."""
    for _ in range(3):
        repair_copy(world, chance)
