"""Level `idle`: how soon a pipe answers after its command, and what pipe and sidecar cost while nobody asks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mpy6a.benchmark.calibration import loop_ns
from mpy6a.benchmark.disk import real_disk
from mpy6a.benchmark.figures import Spread, spread
from mpy6a.benchmark.greeting import first_answer
from mpy6a.benchmark.place import Place, check_sidecar
from mpy6a.benchmark.processes import Child
from mpy6a.benchmark.sitting import Told


@dataclass(frozen=True, slots=True)
class Resting:
    """A process at rest."""

    name: str
    cpu_share: float  # of one core
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Idle:
    """`start_s`: from the command to the first answer, each time on an empty directory; `start_cpu_s`: of it, CPU."""

    file_system: str
    start_s: Spread
    start_cpu_s: Spread
    seconds: float
    loop_ns: float
    resting: tuple[Resting, ...]


def rest(disk: Path, through: str, runs: int, seconds: float, told: Told) -> Idle:
    """Start the pipe `runs` times, then leave it (and the sidecar beside it) alone for `seconds`.

    Raises CannotStart, Unavailable; every child has ended when it returns.
    """
    file_system = real_disk(disk)
    if through == "sidecar":
        check_sidecar()
    with Place(disk) as place:
        starts: list[float] = []
        cpus: list[float] = []
        turns_ns: list[float] = []
        for number in range(1, runs + 1):
            place.end_children()
            place.empty()
            turns_ns.append(loop_ns())
            pipe = place.start_pipe()
            starts.append((first_answer(place.doors.pipe, pipe) - pipe.started_ns) / 1e9)
            cpus.append(pipe.cpu_ns() / 1e9)
            told(f"start {number} of {runs}: first answer after {starts[-1]:.3f} s, {cpus[-1]:.3f} s of CPU")
        children = [pipe]
        if through == "sidecar":
            children.append(place.start_sidecar())
            first_answer(place.doors.sidecar, children[-1])
        told(f"at rest for {seconds:g} s")
        resting = tuple(_at_rest(children, seconds))
    return Idle(file_system, spread(starts), spread(cpus), seconds, median(turns_ns), resting)


def _at_rest(children: list[Child], seconds: float) -> list[Resting]:
    time.sleep(1.0)  # what a start leaves to do: marks, the next segment, a dial
    before, begun = [child.cpu_ns() for child in children], time.monotonic()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - begun
    return [
        Resting(child.name, (child.cpu_ns() - used) / 1e9 / elapsed_s, child.rss_bytes())
        for child, used in zip(children, before, strict=True)
    ]
