"""The simulator's command: seeds in worker processes, progress a line, a summary, and what failed, made small."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from .histories import read, write
from .running import LENGTH, Outcome, run, run_steps, shrink
from .steps import plan


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing failed and every mark was reached (where that is asked for)."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0:20", help="first:end, end not included")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--steps", type=int, default=LENGTH, help=f"steps of a run (default {LENGTH})")
    parser.add_argument("--only", help="of --seed: numbers of the steps to make, with commas")
    parser.add_argument("--of", default="", help="kinds of steps, with commas: plans of no others")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    parser.add_argument("--operations", type=int, help="stop after so many operations")
    parser.add_argument("--every", type=int, default=20, help="a line of progress each so many seeds")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds to make a failure smaller; 0: none")
    parser.add_argument("--marks", action="store_true", help="tell every mark, and fail for one that was missed")
    parser.add_argument("--counts", action="store_true", help="of --seed: every mark with its count")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--first", action="store_true", help="stop at the first failure, and tell it in one line")
    parser.add_argument("--history", type=Path, nargs="+", help="run what is written there (histories.py)")
    parser.add_argument("--write", type=Path, help="of --seed: a file for what fails, made small, or as --only has it")
    options = parser.parse_args(arguments)
    options.of = tuple(filter(None, options.of.split(",")))
    if options.history:
        return _histories(options.history)
    if options.seed is not None:
        return _one(options)
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end))
    return _first(options, seeds) if options.first else _many(options, seeds)


def _first(options: argparse.Namespace, seeds: range) -> int:
    for done, seed in enumerate(seeds, 1):
        outcome = run(seed, options.steps, of=options.of)
        if outcome.failure:
            print(f"caught {seed} {done} {' '.join(outcome.failure.split())[:200]}")
            return 1
    print(f"clean {seeds.stop - 1} {len(seeds)} nothing")
    return 0


def _histories(paths: Sequence[Path]) -> int:
    failed = 0
    for path in paths:
        history = read(path)
        outcome = history.run()
        failed += bool(outcome.failure)
        said = f"breaks {outcome.what}: {outcome.failure}" if outcome.failure else f"holds, {outcome.seconds:.2f} s"
        print(f"{history.name} {' '.join(said.split())}", flush=True)
    return 1 if failed else 0


def _one(options: argparse.Namespace) -> int:
    only = None if options.only is None else [int(number) for number in options.only.split(",") if number]
    if options.verbose:
        interval, steps = plan(options.seed, options.steps, options.of)
        print(f"seed {options.seed}{', fsync: interval' if interval else ''}")
        for number, step in enumerate(steps):
            if only is None or number in only:
                print(f"  {number:4} {step}")
    outcome = run(options.seed, options.steps, only, options.of)
    if outcome.failure and options.verbose:
        print(outcome.trace)
    if options.counts:
        for name, times in sorted(outcome.marks.items()):
            print(f"{times:8} {name}")
        return 1 if outcome.failure else 0
    if not outcome.failure:
        print(f"seed {options.seed}: {outcome.operations} operations, nothing found, {outcome.seconds:.2f} s")
        return 0
    if options.write is not None:
        _write(outcome, only, options)
    elif only is None and options.shrink:
        _tell(outcome, options)
    else:
        print(f"seed {options.seed}: {outcome.failure}")
    return 1


def _many(options: argparse.Namespace, seeds: range) -> int:
    begun = time.monotonic()
    marks: Counter[str] = Counter()
    operations = entries = done = 0
    cpu = 0.0
    failures: list[Outcome] = []
    work = [(seed, options.steps, options.of) for seed in seeds]
    with get_context("fork").Pool(options.jobs) as pool:
        for outcome in pool.imap_unordered(_run, work):
            done += 1
            operations += outcome.operations
            entries += outcome.entries
            cpu += outcome.seconds
            marks += outcome.marks
            if outcome.failure:
                failures.append(outcome)
                print(f"seed {outcome.seed}: {outcome.failure}", flush=True)
            if done % options.every == 0:
                took = time.monotonic() - begun
                print(f"{done} seeds, {operations} operations, {operations / took:.0f}/s, {took:.0f} s", flush=True)
            if len(failures) >= 5 or (options.operations is not None and operations >= options.operations):
                pool.terminate()
                break
    took = time.monotonic() - begun
    _summary(marks, done, operations, entries, took, cpu)
    for outcome in failures[:2]:
        if options.shrink:
            _tell(outcome, options)
    if options.marks and not failures:
        from .marks import missed

        absent = missed(marks)
        for name in absent:
            print(f"never reached: {name}")
        return 1 if absent else 0
    return 1 if failures else 0


def _run(work: tuple[int, int, Sequence[str]]) -> Outcome:
    seed, length, of = work
    return run(seed, length, of=of)


def _tell(outcome: Outcome, options: argparse.Namespace) -> None:
    """The failure, how to see it again, and the shortest history that was found."""
    interval, all_steps = plan(outcome.seed, options.steps, options.of)
    kept, best = shrink(outcome, interval, all_steps, options.shrink)
    steps = "" if options.steps == LENGTH else f" --steps {options.steps}"
    only = ",".join(map(str, kept))
    print(f"\nseed {outcome.seed}: {outcome.failure}")
    steps += f' --of "{",".join(options.of)}"' if options.of else ""
    again = f"python -m tests.sim --seed {outcome.seed}{steps}"
    print(f"again: {again} --verbose")
    print(f"smaller, {len(kept)} steps: {again} --only {only or ','} --verbose")
    for number in kept:
        print(f"  {number:4} {all_steps[number]}")
    print(f"  {best.failure}", file=sys.stdout, flush=True)


def _write(outcome: Outcome, only: list[int] | None, options: argparse.Namespace) -> None:
    """The failure as a history; and at how many other seeds of the world its steps do the same, which says how much
    else may change before it has to be made anew."""
    seed = outcome.seed
    interval, steps = plan(seed, options.steps, options.of)
    if only is None:
        only, outcome = shrink(outcome, interval, steps, options.shrink)
    kept = [steps[number] for number in only]
    write(options.write, interval, kept, outcome)
    others = sum(run_steps(seed + 8 * more, interval, kept).what == outcome.what for more in range(1, 9))
    print(f"written: seed {seed}, {len(kept)} steps, {others} of 8 other worlds; {outcome.failure}")


def _summary(marks: Counter[str], done: int, operations: int, entries: int, took: float, cpu: float) -> None:
    print(
        f"{done} seeds, {operations} operations ({entries} entries of the log) in {took:.1f} s: "
        f"{operations / took:.0f}/s, {operations / max(cpu, 0.001):.0f}/s a core"
    )
    told: dict[str, list[str]] = {}
    for name, times in sorted(marks.items()):
        prefix, found, rest = name.partition(": ")
        if found:  # else a cell: --marks tells the missing ones
            told.setdefault(prefix, []).append(f"{rest} {times}")
    for prefix, rests in told.items():
        print(f"{prefix}: {', '.join(rests)}")
