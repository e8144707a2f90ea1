"""Work of clients, of strangers, and of nobody."""

from __future__ import annotations

from random import Random

from mpy6a import wire
from mpy6a.messages import MessageType
from mpy6a.model import Op, Verb

from ..network import Line
from ..pipes import NUMBER
from ..stranger import Stranger
from ..world import World


def work(world: World, chance: Random) -> None:
    for client in chance.sample(world.clients, min(len(world.clients), 3)):
        if client.alive and not client.paused:
            client.busy(chance, 24)


def much(world: World, chance: Random) -> None:
    for client in world.clients:
        if client.alive and not client.paused:
            client.busy(chance, 40)


def strange(world: World, chance: Random) -> None:
    """Batches made by hand, each from what the one before came to."""
    for _ in range(chance.choice((1, 1, 3))):
        Stranger(world, chance).send()
        world.run_for(4)


def copy(world: World, chance: Random) -> None:
    """A message comes a second time, over a connection that is gone."""
    if world.copies and world.pipe.alive:
        payload = chance.choice(world.copies)
        world.note("network", "an old message")
        line = Line(world.network, "old", _Nobody(), world.pipe, queues=False)
        world.network.lines.remove(line)
        world.agenda.at(world.agenda.now_ms + chance.choice((0, 40, 2_000)), world.pipe.arrived, line, payload)


class _Nobody:
    """The end of a connection that is gone."""

    reachable = False

    def arrived(self, line: Line, payload: bytes) -> None:
        """Nobody hears it."""

    def came_up(self, line: Line) -> None:
        """It never does."""

    def went_down(self, line: Line) -> None:
        """It was never up."""


def garbage(world: World, chance: Random) -> None:
    """Bytes that are no message, and messages for somebody else."""
    if not world.pipe.alive:
        return
    line = Line(world.network, "garbage", _Nobody(), world.pipe, queues=False)
    world.network.lines.remove(line)
    body = wire.encode_batch_body(1, 1, 0, [Op(Verb.TOUCH, 1, 1, 1, 1)])
    for payload in (
        chance.randbytes(chance.randrange(1, 200)),
        wire.pack(MessageType.BATCH, body[:-8], incarnation=b"x" * 16, pipe=NUMBER),
        wire.pack(MessageType.BATCH, body, incarnation=b"x" * 16, pipe=NUMBER + 1),
    ):
        world.pipe.arrived(line, payload)


def wait(world: World, chance: Random) -> None:
    """Nothing but time."""


def look(world: World, chance: Random) -> None:
    world.look()
