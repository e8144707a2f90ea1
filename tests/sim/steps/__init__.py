"""What can be done to the world, one step at a time: work, operators' words, strangers, and faults of every kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from ..world import World
from . import checkpointing, disks, operators, processes, surroundings, working


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


STEPS: Final[dict[str, Callable[[World, Random], None]]] = {
    "work": working.work,
    "much": working.much,
    "strange": working.strange,
    "copy": working.copy,
    "operator": operators.operator,
    "race": operators.race,
    "pause kind": operators.pause_kind,
    "reload": operators.reload,
    "kill pipe": processes.kill_pipe,
    "kill unanswered": processes.kill_unanswered,
    "stop pipe": processes.stop_pipe,
    "stand still": processes.stand_still,
    "kill sidecar": processes.kill_sidecar,
    "drain sidecar": processes.drain_sidecar,
    "kill client": processes.kill_client,
    "goodbye": processes.goodbye,
    "cut power": disks.cut_power,
    "lose power": disks.lose_power,
    "roll": disks.roll,
    "break disk": disks.break_disk,
    "fill disk": disks.fill_disk,
    "disk level": disks.disk_level,
    "flip": disks.flip,
    "repair": disks.mend,
    "cut": surroundings.cut,
    "at push": surroundings.at_push,
    "slow": surroundings.slow,
    "harsh": surroundings.harsh,
    "wall": surroundings.wall,
    "night": surroundings.night,
    "garbage": working.garbage,
    "checkpoint": checkpointing.checkpoint,
    "crash in checkpoint": checkpointing.crash_in_checkpoint,
    "crash in trim": checkpointing.crash_in_trim,
    "kill writer": checkpointing.kill_writer,
    "slow writer": checkpointing.slow_writer,
    "full writer": checkpointing.full_writer,
    "backup": checkpointing.backup,
    "wait": working.wait,
    "look": working.look,
}

# How often, in a run that has the step at all.
WEIGHTS: Final = {
    "work": 60, "much": 25, "strange": 20, "copy": 10, "operator": 6, "race": 6, "pause kind": 3, "reload": 2,
    "kill pipe": 3, "kill unanswered": 3, "stop pipe": 4, "stand still": 4, "kill sidecar": 3, "drain sidecar": 2,
    "kill client": 4, "goodbye": 3, "cut power": 4, "lose power": 3, "roll": 2, "break disk": 6, "fill disk": 1,
    "disk level": 4, "flip": 3, "repair": 2, "cut": 6, "at push": 8, "slow": 3, "harsh": 3, "wall": 5, "night": 1,
    "garbage": 1, "checkpoint": 6, "crash in checkpoint": 4, "crash in trim": 3, "kill writer": 4, "slow writer": 4,
    "full writer": 3, "backup": 2, "wait": 4, "look": 3,
}  # fmt: skip
ALWAYS: Final = frozenset({"work", "much", "wait", "look", "strange", "copy"})
POWER: Final = frozenset({"lose power", "cut power"})  # what a log that syncs at intervals is about
WAITS_MS: Final = (2, 10, 10, 40, 40, 150, 600, 2_500, 9_000)


def plan(seed: int, length: int, of: Sequence[str] = ()) -> tuple[bool, Sequence[Step]]:
    """The steps of a seed, and whether its log syncs at intervals. Each run has some kinds of faults, not all: `of`
    says which, where something rare is looked for."""
    chance = Random(seed ^ 0x5EED)
    interval = chance.random() < 0.25
    always = ALWAYS | POWER if interval else ALWAYS
    names = [name for name in WEIGHTS if name in always or chance.random() < 0.55]
    weights = [WEIGHTS[name] * (3 if interval and name in POWER else 1) for name in names]
    some = chance.choices(of, k=length) if of else chance.choices(names, weights, k=length)
    steps = [Step(name, chance.randrange(1 << 32), chance.choice(WAITS_MS)) for name in some]
    return interval, steps
