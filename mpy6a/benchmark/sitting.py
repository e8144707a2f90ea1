"""One sitting of the benchmark: for every number of sessions in flight a fresh pipe and several runs."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from mpy6a.benchmark.api import ApiLoad
from mpy6a.benchmark.calibration import loop_ns
from mpy6a.benchmark.disk import REST_S, SyncProbe, real_disk
from mpy6a.benchmark.exchange import ExchangeLoad
from mpy6a.benchmark.figures import CpuClock, Measured, Row, Run, run_of
from mpy6a.benchmark.greeting import first_answer
from mpy6a.benchmark.place import Place, check_sidecar
from mpy6a.benchmark.processes import Child
from mpy6a.client.operator import Operator
from mpy6a.errors import Unavailable

CLIENT: Final = "client"

Told = Callable[[str], None]


class Load(Protocol):
    """What drives lifecycles from one client process."""

    def measure(self, in_flight: int, seconds: float, record: bytes, cpu: CpuClock) -> Measured: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    level: str
    through: str
    in_flight: tuple[int, ...]
    runs: int
    seconds: float
    record_bytes: int
    fsync: str
    loop: str
    disk: Path


@dataclass(frozen=True, slots=True)
class Sitting:
    """What was measured."""

    plan: Plan
    file_system: str
    rows: tuple[Row, ...]

    @property
    def durable(self) -> bool:
        """Every ack of every run said so, and the pipe was not told to sync late."""
        return self.plan.fsync == "always" and bool(self.rows) and all(row.durable for row in self.rows)


def sit(plan: Plan, told: Told) -> Sitting:
    """Measure. Raises CannotStart, Unavailable, BadRequest with one sentence; every child has ended when it returns."""
    file_system = real_disk(plan.disk)
    if plan.through == "sidecar":
        check_sidecar()
    with Place(plan.disk, plan.fsync) as place:
        probe = SyncProbe(place.data)
        try:
            rows = tuple(_row(plan, place, probe, in_flight, told) for in_flight in plan.in_flight)
        finally:
            probe.close()
    return Sitting(plan, file_system, rows)


def _row(plan: Plan, place: Place, probe: SyncProbe, in_flight: int, told: Told) -> Row:
    """A pipe of its own: a log that grew in the rows before, and its memory, are not this row's business."""
    pipe = place.start_pipe()
    first_answer(place.doors.pipe, pipe)
    children = [pipe]
    door = place.doors.pipe
    if plan.through == "sidecar":
        children.append(place.start_sidecar())
        door = place.doors.sidecar
        first_answer(door, children[-1])
    try:
        runs = []
        for number in range(1, plan.runs + 1):
            run = _run(plan, place, probe, door, in_flight, children)
            told(f"{in_flight} in flight, run {number} of {plan.runs}: {run.operations_s / 1000:.1f} k operations/s")
            runs.append(run)
    finally:
        place.end_children()
        place.empty()
    return Row(in_flight, tuple(runs))


def _run(
    plan: Plan, place: Place, probe: SyncProbe, door: str, in_flight: int, children: Sequence[Child]
) -> Run:
    gc.collect()  # the run before: not this one's to pay for
    disk_ns, rested_ns, turn_ns = probe.sample(), probe.sample(rest_s=REST_S), loop_ns()
    before = syncs(place.doors.admin)
    load: Load = ExchangeLoad(door) if plan.level == "exchange" else ApiLoad(door, plan.loop)
    try:
        measured = load.measure(in_flight, plan.seconds, os.urandom(plan.record_bytes), lambda: dict(_cpu(children)))
    except Unavailable:
        for child in children:
            child.check()  # says why, if it is that one that died
        raise
    finally:
        load.close()
    done = syncs(place.doors.admin) - before
    if not measured.operations:
        raise Unavailable(f"no operation ended in {plan.seconds:g} s: measure for longer with --seconds")
    disk_ns, rested_ns = disk_ns + probe.sample(), rested_ns + probe.sample(rest_s=REST_S)
    return run_of(measured, done, disk_ns, rested_ns, (turn_ns + loop_ns()) / 2)


def _cpu(children: Sequence[Child]) -> Iterator[tuple[str, int]]:
    for child in children:
        yield child.name, child.cpu_ns()
    yield CLIENT, time.process_time_ns()


def syncs(admin: str) -> int:
    """How many writes with a sync the pipe's log has made since it was opened."""
    with Operator(admin) as operator:
        log = operator.request("status")["log"]
    assert isinstance(log, dict)
    return int(log["syncs"])
