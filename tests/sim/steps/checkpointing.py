"""The checkpoint, and who writes it: asked for now, killed, slow, without room; copied to a backup and back."""

from __future__ import annotations

from random import Random

from tests.fakes.files import POWER_CUT

from ..backups import back_up_copy
from ..world import World
from .disks import fill_segment, lose_power
from .processes import kill_pipe
from .working import much, work


def checkpoint(world: World, chance: Random) -> None:
    """The next one is due now."""
    world.checkpoint()


def crash_in_checkpoint(world: World, chance: Random) -> None:
    """The pipe or the machine goes while one is asked for, written, told, or the log below it trimmed."""
    work(world, chance)
    world.run_for(chance.choice((3, 20)))
    world.checkpoint()
    world.run_for(chance.choice((0, 2, 5, 10, 40)))
    world.note("fault", "crash in a checkpoint")
    if chance.random() < 0.5:
        kill_pipe(world, chance)
    else:
        lose_power(world, chance)


def crash_in_trim(world: World, chance: Random) -> None:
    """The power goes while segments that a checkpoint made needless get other names, or none."""
    if not fill_segment(world, chance):
        return
    world.note("fault", "crash in a trim")
    world.files.fail(chance.choice(("rename", "sync_dir", "unlink")), 1, POWER_CUT)
    world.checkpoint()
    world.run_for(1_500)
    world.files.faults.clear()
    world.ensure_pipe()


def kill_writer(world: World, chance: Random) -> None:
    """Whoever writes them is killed: now, or when it next commits, before it can tell."""
    writer = world.pipe.writer
    how = chance.random()
    if how < 0.2:
        world.checkpoint()
        world.run_for(600)
        writer.kill()
    elif how < 0.6:
        writer.kill_at_commit = True
        world.checkpoint()
    else:
        if not writer.busy:
            work(world, chance)
            world.checkpoint()
            world.run_for(chance.choice((2, 6, 20)))
        writer.kill()


def slow_writer(world: World, chance: Random) -> None:
    """It takes long: the pipe goes on without it, until clients have to wait."""
    world.pipe.writer.slow_ms = chance.choice((300, 2_000, 6_000))
    world.note("fault", "slow writer")
    much(world, chance)
    world.agenda.at(world.agenda.now_ms + chance.choice((700, 5_000)), _fast_again, world)


def _fast_again(world: World) -> None:
    world.pipe.writer.slow_ms = 0


def full_writer(world: World, chance: Random) -> None:
    """No room for what it writes; some time later there is."""
    writer = world.pipe.writer
    writer.pages = chance.choice((0, 0, 1, 3))
    world.note("fault", "no room for the checkpoint")
    much(world, chance)
    world.run_for(20)
    world.checkpoint()
    world.agenda.at(world.agenda.now_ms + chance.choice((200, 3_000)), _room, world)


def _room(world: World) -> None:
    world.pipe.writer.pages = None


def backup(world: World, chance: Random) -> None:
    """A backup of the running pipe, restored beside it."""
    back_up_copy(world, chance)
