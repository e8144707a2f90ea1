"""Histories: what the simulator once found, as steps written out, so that no seed has to make a plan of them.

    python -m tests.sim --history FILE ...            what is said of them, by the source as it stands
    python -m tests.sim.histories NAME                put that bug back, find it, make it small, write it

A history is a file of `tests/golden/histories/`. Written by hand: what the bug was (`what`), the test that held it
first (`held`), and what puts it back, edits as in `faults/`. Made, behind `[history]`: the world's seed, whether its
log syncs at intervals, the rule that is broken, and the steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .planted import copy_source, parent, simulate, texts_of
from .running import Outcome, run_steps
from .steps import Step

HISTORIES: Final = Path(__file__).parents[1] / "golden" / "histories"
MADE: Final = "[history]\n"  # from this line on
SECONDS: Final = 3_600.0  # to find one
STEPS: Final = 12  # short runs are many in the same time, and soon made small


@dataclass(frozen=True)
class History:
    """One of them."""

    name: str
    what: str
    held: str
    edits: list[dict[str, str]]
    seed: int  # of the world: its chance, its bounds, its policy
    interval: bool
    rule: str
    steps: list[Step]

    def run(self) -> Outcome:
        """What becomes of it on this source."""
        return run_steps(self.seed, self.interval, self.steps)

    def texts(self) -> dict[str, str]:
        """What becomes of each file that the bug is in. Raises ValueError when the code moved on."""
        return texts_of(self.name, self.edits)


def histories() -> list[Path]:
    """Every history there is."""
    return sorted(HISTORIES.glob("*.toml"))


def read(path: Path) -> History:
    """The history of a file."""
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    made = table["history"]
    steps = [Step(str(name), int(seed), int(wait_ms)) for name, seed, wait_ms in made["steps"]]
    edits = table.get("edit", [])  # none: a new finding, on the source that has it
    return History(
        path.stem, table["what"], table["held"], edits, made["seed"], made["interval"], made["rule"], steps
    )


def write(path: Path, interval: bool, steps: Sequence[Step], outcome: Outcome) -> None:
    """What was made of a failure, in place of what was made before; what is written by hand stays."""
    by_hand = path.read_text(encoding="utf-8").partition(MADE)[0] if path.exists() else 'what = ""\nheld = ""\n\n'
    said = " ".join(outcome.failure.split())[:110]
    lines = [
        f"# {said}",
        f"seed = {outcome.seed}",
        f"interval = {'true' if interval else 'false'}",
        f'rule = "{outcome.what}"',
        "steps = [",
        *(f'    ["{step.name}", {step.seed}, {step.wait_ms}],' for step in steps),
        "]",
    ]
    path.write_text(by_hand + MADE + "\n".join(lines) + "\n", encoding="utf-8")


def make(name: str, seeds: str, steps: int, seconds: float, of: str = "") -> str:
    """Put the bug of a history back, find it, write the shortest way to it; what the simulator said at the end."""
    path = HISTORIES / f"{name}.toml"
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        place = Path(folder)
        copy_source(place, texts_of(name, tomllib.loads(path.read_text(encoding="utf-8"))["edit"]))
        runs = ("--steps", str(steps), "--of", of)
        first = simulate(place, "--seeds", seeds, *runs, "--first", seconds=SECONDS).stdout.split()
        if not first or first[0] != "caught":
            return f"{name}: not found in seeds {seeds}"
        wanted = ("--seed", first[1], *runs, "--shrink", str(seconds), "--write", str(path))
        said = simulate(place, *wanted, seconds=SECONDS).stdout.strip()
    shipped = simulate(parent("mpy6a"), "--history", str(path))
    return said if not shipped.returncode else f"broken without the bug, too: {shipped.stdout.strip()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if it was made."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.histories", description=__doc__)
    parser.add_argument("name", help="of a file that says what puts the bug back")
    parser.add_argument("--seeds", default="0:300", help="first:end, end not included")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the runs it is looked for in (default {STEPS})")
    parser.add_argument("--of", default="", help="kinds of steps, with commas, for what is rare: runs of no others")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds to make it smaller")
    options = parser.parse_args(arguments)
    said = make(options.name, options.seeds, options.steps, options.shrink, options.of)
    print(said)
    return 0 if said.startswith("written") else 1


if __name__ == "__main__":
    sys.exit(main())
