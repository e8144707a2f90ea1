"""What can be done to the world, one step at a time: work, operators' words, strangers, and faults of every kind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from mpy6a import limits, wire
from mpy6a.messages import MessageType
from mpy6a.model import AdminVerb, Op, Verb
from tests.fakes.files import POWER_CUT

from .network import Line
from .pipes import NUMBER
from .process import Process
from .stranger import Stranger
from .world import World, policy_for


class Step(NamedTuple):
    """One step of a run: what, the seed of its choices, and how long the world goes on after it."""

    name: str
    seed: int
    wait_ms: int

    def __str__(self) -> str:
        return f"{self.name:<16} then {self.wait_ms} ms"


def do(world: World, step: Step) -> None:
    """Make one step, and let its time go by."""
    chance = Random(step.seed)
    STEPS[step.name](world, chance)
    world.run_for(step.wait_ms)
    if not world.pipe.alive and chance.random() < 0.7:
        world.ensure_pipe()


# ---------------------------------------------------------------------- work


def _work(world: World, chance: Random) -> None:
    for client in chance.sample(world.clients, min(len(world.clients), 3)):
        if client.alive and not client.paused:
            client.busy(chance, 24)


def _much(world: World, chance: Random) -> None:
    for client in world.clients:
        if client.alive and not client.paused:
            client.busy(chance, 40)


def _strange(world: World, chance: Random) -> None:
    Stranger(world, chance).send()


def _copy(world: World, chance: Random) -> None:
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


# ---------------------------------------------------------------------- operators


def _operator(world: World, chance: Random) -> None:
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


def _race(world: World, chance: Random) -> None:
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


def _pause_kind(world: World, chance: Random) -> None:
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


def _reload(world: World, chance: Random) -> None:
    """Started again with other routes; a kind may be missing from them."""
    without = (chance.choice((2, 4)),) if chance.random() < 0.4 else ()
    world.pipe.policy = policy_for(chance, world.lease_ms, without=without)
    _kill_pipe(world, chance)


# ---------------------------------------------------------------------- processes


def _kill_pipe(world: World, chance: Random) -> None:
    if world.pipe.alive:
        world.note("pipe", "killed")
        world.pipe.die()
    world.run_for(chance.choice((0, 5, 200, 3_000)))
    world.ensure_pipe()


def _kill_unanswered(world: World, chance: Random) -> None:
    """Killed between its log and its answers, at the next group."""
    world.pipe.die_before_answers = True
    _work(world, chance)


def _stop_pipe(world: World, chance: Random) -> None:
    if world.pipe.alive:
        world.pipe.stop()
    world.run_for(chance.choice((0, 500)))
    world.ensure_pipe()


def _stand_still(world: World, chance: Random) -> None:
    processes: list[Process] = [world.pipe, *world.sidecars.values(), *world.clients]
    process = chance.choice(processes)
    if process.alive:
        ms = chance.choice((200, 2_000, 5_000, 9_000, 20_000))
        world.note("fault", "stands still" if ms < world.lease_ms else "stands still past its lease")
        process.pause(ms)


def _kill_sidecar(world: World, chance: Random) -> None:
    sidecar = chance.choice(list(world.sidecars.values()))
    if sidecar.alive:
        world.note("fault", "sidecar killed")
        sidecar.die()
        world.agenda.at(world.agenda.now_ms + chance.choice((5, 300, 9_000)), _start, sidecar)


def _drain_sidecar(world: World, chance: Random) -> None:
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
            world.agenda.at(world.agenda.now_ms + 100, _start, sidecar)

    world.agenda.at(now_ms + 1_000, release)
    world.agenda.at(now_ms + chance.choice((1_001, 2_500)), leave)


def _start(process: Process) -> None:
    if not process.alive:
        process.start()


def _kill_client(world: World, chance: Random) -> None:
    if not world.clients:
        return
    client = chance.choice(world.clients)
    world.note("fault", "service killed" if client.serves else "client killed")
    client.die()
    world.replace(client)


def _goodbye(world: World, chance: Random) -> None:
    if not world.clients:
        return
    client = chance.choice(world.clients)
    if client.alive and not client.paused:
        world.note("client", "said goodbye")
        client.goodbye()
        world.replace(client)


# ---------------------------------------------------------------------- disk


def _cut_power(world: World, chance: Random) -> None:
    """The machine goes down in the middle of a group, or of what else that group needs."""
    operation = chance.choice(("write", "sync", "sync", "sync_dir", "rename"))
    world.note("fault", f"power cut in {operation}")
    world.files.fail(operation, 1 + chance.randrange(4), POWER_CUT)
    _work(world, chance)
    world.run_for(chance.choice((20, 100)))
    if world.pipe.alive:
        world.files.faults.clear()
        world.pipe.die()
        world.files.crash(chance)
    world.ensure_pipe()
    if chance.random() < 0.3:
        _work(world, chance)
        world.run_for(8)
        if world.pipe.alive:
            world.pipe.die()
        world.files.crash(chance)
        world.ensure_pipe()


def _roll(world: World, chance: Random) -> None:
    """The power goes right after the log went on in a new segment."""
    if not world.pipe.alive or world.pipe.paused:
        return
    before = world.pipe.log.stats.segments
    for _ in range(6):
        _much(world, chance)
        world.run_for(12)
        if not world.pipe.alive or world.pipe.log.stats.segments > before:
            break
    world.note("fault", "power lost after a new segment")
    _lose_power(world, chance)


def _lose_power(world: World, chance: Random) -> None:
    """All that was not synced is forgotten, or not."""
    world.note("fault", "power lost")
    if world.pipe.alive:
        world.pipe.die()
    world.files.crash(chance)
    world.run_for(chance.choice((1, 1_000)))
    world.ensure_pipe()


def _break_disk(world: World, chance: Random) -> None:
    operation = chance.choice(("write", "sync", "sync", "sync_dir", "rename"))
    full = operation == "write" and chance.random() < 0.3
    world.note("fault", f"{'ENOSPC' if full else 'EIO'} in {operation}")
    world.files.fail(
        operation, 1 + chance.randrange(4), errno.ENOSPC if full else errno.EIO, lasting=chance.random() < 0.3
    )
    _work(world, chance)
    world.run_for(60)
    if world.pipe.alive:
        world.files.faults.clear()
        return
    world.files.faults.clear()
    if chance.random() < 0.5:  # the next life's opening meets one too
        error = chance.choice((errno.EIO, POWER_CUT))
        world.files.fail(chance.choice(("write", "sync")), 1 + chance.randrange(2), error)
        world.pipe.start()
        world.files.faults.clear()
    if chance.random() < 0.7:
        world.ensure_pipe()
        _work(world, chance)
        world.run_for(30)
        if chance.random() < 0.7:
            _lose_power(world, chance)
    world.ensure_pipe()


def _fill_disk(world: World, chance: Random) -> None:
    """No room for the next segment."""
    if world.files.room is None:
        world.note("fault", "disk full")
        world.files.room = chance.choice((0, 30_000, 200_000))
        _much(world, chance)
        world.run_for(100)
        if not world.pipe.alive:
            world.files.room = None
            world.ensure_pipe()
    else:
        world.files.room = None


def _disk_level(world: World, chance: Random) -> None:
    world.disk_level = chance.choice((1, 2, 2, 2, 0))
    world.note("fault", f"disk level {world.disk_level}")
    if world.pipe.alive:
        world.pipe.pipe.disk_level = world.disk_level
    _work(world, chance)
    _strange(world, chance)
    world.agenda.at(world.agenda.now_ms + 3_000, _room_again, world)


def _room_again(world: World) -> None:
    world.disk_level = 0


def _flip(world: World, chance: Random) -> None:
    from .flips import flip_copy

    flip_copy(world, chance)


# ---------------------------------------------------------------------- network and clocks


def _cut(world: World, chance: Random) -> None:
    lines = [line for line in world.network.lines if line.up]
    for line in chance.sample(lines, min(len(lines), chance.choice((1, 1, 2, 5)))):
        world.network.faults["cut"] += 1
        line.cut(wait_ms=chance.choice((1, 50, 1_000, 8_000)))


def _at_push(world: World, chance: Random) -> None:
    """The next push goes into a connection that breaks, or to a sidecar that dies."""
    world.at_push = chance.choice(("cut", "die"))


def _slow(world: World, chance: Random) -> None:
    world.network.latency_ms = chance.choice((1, 5, 40, 300))


def _harsh(world: World, chance: Random) -> None:
    world.network.harsh = chance.choice((0.0, 0.02, 0.2))
    if world.network.harsh:
        world.note("network", "harsh")


def _wall(world: World, chance: Random) -> None:
    """The wall clock is set; the pipe looks at it when it opens."""
    leap_ms = chance.choice((-3_600_000, -3_600_000, -60_000, 5_000, 3_600_000, 90_000_000, 9 * 86_400_000))
    world.note("fault", "wall clock back" if leap_ms < 0 else "wall clock forward")
    world.agenda.wall_leap_ms += leap_ms
    if chance.random() < 0.6:
        _kill_pipe(world, chance)
        if world.pipe.alive and world.pipe.pipe.due.clock_held:
            world.look()
            world.agenda.at(world.agenda.now_ms + 2_000, _accept, world)


def _accept(world: World) -> None:
    if world.pipe.alive and world.pipe.pipe.due.clock_held:
        world.pipe.accept_clock()


def _night(world: World, chance: Random) -> None:
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
        _start(sidecar)
    world.ensure_pipe()


def _look(world: World, chance: Random) -> None:
    world.look()


def _checkpoint(world: World, chance: Random) -> None:
    world.checkpoint()


def _wait(world: World, chance: Random) -> None:
    """Nothing but time."""


def _garbage(world: World, chance: Random) -> None:
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


STEPS: Final[dict[str, Callable[[World, Random], None]]] = {
    "work": _work,
    "much": _much,
    "strange": _strange,
    "copy": _copy,
    "operator": _operator,
    "race": _race,
    "pause kind": _pause_kind,
    "reload": _reload,
    "kill pipe": _kill_pipe,
    "kill unanswered": _kill_unanswered,
    "stop pipe": _stop_pipe,
    "stand still": _stand_still,
    "kill sidecar": _kill_sidecar,
    "drain sidecar": _drain_sidecar,
    "kill client": _kill_client,
    "goodbye": _goodbye,
    "cut power": _cut_power,
    "lose power": _lose_power,
    "roll": _roll,
    "break disk": _break_disk,
    "fill disk": _fill_disk,
    "disk level": _disk_level,
    "flip": _flip,
    "cut": _cut,
    "at push": _at_push,
    "slow": _slow,
    "harsh": _harsh,
    "wall": _wall,
    "night": _night,
    "garbage": _garbage,
    "checkpoint": _checkpoint,
    "wait": _wait,
    "look": _look,
}

# How often, in a run that has the step at all.
WEIGHTS: Final = {
    "work": 60, "much": 25, "strange": 20, "copy": 10, "operator": 6, "race": 6, "pause kind": 3, "reload": 2,
    "kill pipe": 3, "kill unanswered": 3, "stop pipe": 4, "stand still": 4, "kill sidecar": 3, "drain sidecar": 2,
    "kill client": 4, "goodbye": 3, "cut power": 4, "lose power": 3, "roll": 2, "break disk": 4, "fill disk": 1,
    "disk level": 4, "flip": 4, "cut": 6, "at push": 8, "slow": 3, "harsh": 3, "wall": 3, "night": 1, "garbage": 1,
    "checkpoint": 2, "wait": 4, "look": 3,
}  # fmt: skip
ALWAYS: Final = frozenset({"work", "much", "wait", "look", "strange", "copy"})
WAITS_MS: Final = (2, 10, 10, 40, 40, 150, 600, 2_500, 9_000)


def plan(seed: int, length: int) -> tuple[bool, Sequence[Step]]:
    """The steps of a seed, and whether its log syncs at intervals. Each run has some kinds of faults, not all."""
    chance = Random(seed ^ 0x5EED)
    names = [name for name in WEIGHTS if name in ALWAYS or chance.random() < 0.55]
    weights = [WEIGHTS[name] for name in names]
    interval = chance.random() < 0.2
    some = chance.choices(names, weights, k=length)
    steps = [Step(name, chance.randrange(1 << 32), chance.choice(WAITS_MS)) for name in some]
    return interval, steps
