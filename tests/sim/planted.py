"""Tests the tester: faults planted in a copy of the shipped source, each to be found within a budget of seeds.

    python -m tests.sim.planted                 all of them; writes the table that docs/SIMULATION.md shows
    python -m tests.sim.planted NAME ...        some of them

A fault is a file of `faults/`: what it is (`summary`), and edits of one place each (`file`, `old`, `new`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mpy6a
import sidecar

FAULTS: Final = Path(__file__).parent / "faults"
BUDGET: Final = 60  # seeds
SECONDS: Final = 240.0  # for one fault, on a machine that is busy with others


@dataclass(frozen=True)
class Found:
    """What became of one planted fault."""

    name: str
    summary: str
    seed: int  # that found it; -1: none did
    seeds: int  # that were run
    seconds: float
    said: str


def names() -> list[str]:
    """Every fault there is."""
    return sorted(path.stem for path in FAULTS.glob("*.toml"))


def edited(name: str) -> tuple[str, dict[str, str]]:
    """A fault's summary, and what becomes of each file that it changes, by its name below the packages' parent.

    Raises ValueError for a text that is not there exactly once: the code moved on, and the fault has to follow.
    """
    fault = tomllib.loads((FAULTS / f"{name}.toml").read_text(encoding="utf-8"))
    return str(fault["summary"]), texts_of(name, fault["edit"])


def texts_of(name: str, edits: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What becomes of each file that these edits change. Raises ValueError, as `edited` does."""
    texts: dict[str, str] = {}
    for edit in edits:
        file = edit["file"]
        text = texts.get(file) or (parent(file.partition("/")[0]) / file).read_text(encoding="utf-8")
        if text.count(edit["old"]) != 1:
            raise ValueError(f"{name}: {text.count(edit['old'])} places in {file}: {edit['old']!r}")
        texts[file] = text.replace(edit["old"], edit["new"])
    return texts


def parent(package: str) -> Path:
    """Where the shipped package is: the checkout, or where it is installed."""
    found = {"mpy6a": mpy6a, "sidecar": sidecar}[package].__file__
    assert found is not None
    return Path(found).parent.parent


def plant(name: str, place: Path) -> str:
    """Copy the shipped source to `place` and make the fault's edits there; its summary. Raises ValueError."""
    summary, texts = edited(name)
    copy_source(place, texts)
    return summary


def copy_source(place: Path, texts: Mapping[str, str]) -> None:
    """Copy the shipped source to `place`, with these texts instead of its own."""
    for package in ("mpy6a", "sidecar"):
        here = parent(package)
        shutil.copytree(here / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
        for beside in ("schemas", "configs"):
            if (here / beside).is_dir() and not (place / beside).exists():
                shutil.copytree(here / beside, place / beside)
    for file, text in texts.items():
        (place / file).write_text(text, encoding="utf-8")


def simulate(place: Path, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Run the simulator on the source at `place`, in a process of its own. Raises TimeoutExpired."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ, "PYTHONPATH": f"{place}{os.pathsep}{root}", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.sim", *arguments]
    # From there: whatever is found first on the path is what is tested.
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


def hunt(name: str, budget: int = BUDGET) -> Found:
    """Run seeds on the planted source, in a process of their own, until one fails."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        place = Path(folder)
        summary = plant(name, place)
        begun = time.monotonic()
        try:
            ended = simulate(place, "--seeds", f"0:{budget}", "--first")
        except subprocess.TimeoutExpired:
            return Found(name, summary, -1, budget, time.monotonic() - begun, "out of time")
        took = time.monotonic() - begun
    lines = ended.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith(("caught ", "clean ")):
        raise RuntimeError(f"{name}: the simulator did not end well: {ended.stderr[-2_000:]}")
    word, seed, seeds, said = lines[-1].split(" ", 3)
    return Found(name, summary, int(seed) if word == "caught" else -1, int(seeds), took, said)


def table(found: Sequence[Found]) -> str:
    """As docs/SIMULATION.md has it."""
    lines = ["| fault | what is wrong | seeds until found | s | first said |", "| --- | --- | ---: | ---: | --- |"]
    for one in found:
        seeds = str(one.seeds) if one.seed >= 0 else f"not in {one.seeds}"
        said = one.said.replace("|", "/")[:90]
        lines.append(f"| `{one.name}` | {one.summary} | {seeds} | {one.seconds:.1f} | {said} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every fault was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.planted", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    found: list[Found] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for one in pool.map(lambda name: hunt(name, options.budget), options.names or names()):
            found.append(one)
            where = f"seed {one.seed}" if one.seed >= 0 else "NOT FOUND"
            print(f"{one.name}: {where}, {one.seconds:.0f} s", flush=True)
    print(table(found))
    missed = [one.name for one in found if one.seed < 0]
    print(f"\n{len(found) - len(missed)} of {len(found)} found" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
