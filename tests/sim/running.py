"""Runs seeds: a seed is a plan, the plan is a run, a run fails or does not; and what fails is made smaller."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .bounds import small
from .oracle import Violation
from .steps import Step, do, plan
from .world import COMPARED, World

LENGTH = 50  # steps of a run


@dataclass
class Outcome:
    """What came of one run."""

    seed: int
    failure: str = ""
    what: str = ""  # the rule that is broken: a smaller run has to break the same one
    step: int = 0  # at which it happened; len(steps): at the end
    operations: int = 0
    entries: int = 0
    seconds: float = 0.0
    trace: str = ""
    marks: Counter[str] = field(default_factory=Counter)


def run(seed: int, length: int = LENGTH, only: Iterable[int] | None = None, of: Sequence[str] = ()) -> Outcome:
    """One run of a seed, all of its steps or some of them."""
    interval, steps = plan(seed, length, of)
    chosen = list(range(length)) if only is None else [number for number in only if number < length]
    return run_steps(seed, interval, [steps[number] for number in chosen])


def run_steps(seed: int, interval: bool, steps: Sequence[Step]) -> Outcome:
    """These steps, then the end."""
    with small(seed):
        return _run(seed, interval, steps)


def _run(seed: int, interval: bool, steps: Sequence[Step]) -> Outcome:
    outcome = Outcome(seed)
    begun = time.process_time()
    world: World | None = None
    try:
        world = World(seed, interval=interval, marks=outcome.marks)
        for number, step in enumerate(steps):
            outcome.step = number
            outcome.marks[f"step: {step.name}"] += 1
            do(world, step)
            if number % COMPARED == COMPARED - 1:
                world.look()
        outcome.step = len(steps)
        world.settle()
    except Violation as problem:
        outcome.failure, outcome.what = str(problem), problem.what
        outcome.trace = traceback.format_exc()
    except Exception as problem:  # noqa: BLE001 -- whatever the code raises in such a world is a failure to be told
        outcome.failure = f"{type(problem).__name__}: {problem}"
        outcome.trace = traceback.format_exc()
        place = traceback.extract_tb(problem.__traceback__)[-1]
        outcome.what = f"{type(problem).__name__} in {place.name}"
    if world is not None:
        _count(world, outcome)
    outcome.seconds = time.process_time() - begun
    return outcome


def _count(world: World, outcome: Outcome) -> None:
    oracle, marks = world.oracle, outcome.marks
    outcome.operations, outcome.entries = oracle.operations, oracle.entries
    for (state, event, verdict), times in oracle.notes.items():
        marks[f"{state} {event} {verdict}".strip()] += times
    for name, times in world.network.faults.items():
        marks[f"network: {name}"] += times
    world.count_lives()
    marks["network: lives of the pipe"] += world.pipe.lives


def shrink(
    outcome: Outcome, interval: bool, steps: Sequence[Step], seconds: float = 60.0
) -> tuple[list[int], Outcome]:
    """Which steps are left, the fewest that were found in bounded time to break the same rule, and what they do."""
    seed, length = outcome.seed, len(steps)
    kept = list(range(min(outcome.step + 1, length)))
    best = outcome
    until = time.monotonic() + seconds

    def fails(some: Sequence[int]) -> Outcome | None:
        found = run_steps(seed, interval, [steps[number] for number in some])
        return found if found.what == outcome.what else None

    first = fails(kept)
    if first is None:
        kept = list(range(length))
    else:
        best = first
    size = max(1, len(kept) // 2)
    while time.monotonic() < until:
        start, smaller = 0, False
        while start < len(kept) and time.monotonic() < until:
            some = kept[:start] + kept[start + size :]
            found = fails(some)
            if found is not None:
                kept, best, smaller = some, found, True
            else:
                start += size
        if not smaller and size == 1:
            break
        size = max(1, size // 2) if not smaller or size > 1 else 1
    return kept, best
