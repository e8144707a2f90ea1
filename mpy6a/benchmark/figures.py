"""What a run has measured, and what several runs of the same work say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

OPERATIONS: Final = 5  # of one lifecycle: New, three Appends, Delete

CpuClock = Callable[[], Mapping[str, int]]  # CPU ns that each process has used so far, by its name


@dataclass(frozen=True, slots=True)
class Measured:
    """What one client process saw in one run.

    `operations`, `elapsed_ns`, `latencies_ns` and `cpu_ns` are of the window between warm-up and the last lifecycles'
    end; `operations_all` counts every acknowledged operation of the run, as the log's own counters do.
    """

    operations: int
    elapsed_ns: int
    latencies_ns: Sequence[int]
    cpu_ns: Mapping[str, int]
    operations_all: int
    acks: int
    acks_not_durable: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run as figures. Rates per second, latencies and syncs in us, CPU in us of each process per operation."""

    operations_s: float
    p50_us: float
    p99_us: float
    cpu_us: Mapping[str, float]
    syncs_per_operation: float
    operations_per_ack: float
    disk_p50_us: float
    disk_p99_us: float
    disk_rested_p50_us: float  # of syncs with `disk.REST_S` before each; the others are back to back
    loop_ns: float  # of `calibration`, around this run
    durable: bool  # every single ack of the run said so


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of the runs."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """All runs with the same number of sessions in flight."""

    in_flight: int
    runs: tuple[Run, ...]

    @property
    def durable(self) -> bool:
        """Whether every ack of every run said that its operations are durable."""
        return all(run.durable for run in self.runs)

    def spread(self, figure: Callable[[Run], float]) -> Spread:
        """Of one figure over the runs."""
        return spread([figure(run) for run in self.runs])


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest. ValueError without values."""
    return Spread(median(values), min(values), max(values))


def percentile(ordered: Sequence[int], share: float) -> int:
    """The value below which `share` of the ordered values lie (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def run_of(
    measured: Measured, syncs: int, disk_ns: Sequence[int], rested_ns: Sequence[int], loop_ns: float
) -> Run:
    """The figures of one run; `syncs` are the log's own between its first and its last operation, `disk_ns` and
    `rested_ns` times of syncs beside it, back to back and each after a rest."""
    operations = measured.operations
    latencies, disk = sorted(measured.latencies_ns), sorted(disk_ns)
    return Run(
        operations_s=operations * 1e9 / measured.elapsed_ns,
        p50_us=percentile(latencies, 0.5) / 1000,
        p99_us=percentile(latencies, 0.99) / 1000,
        cpu_us={name: used / operations / 1000 for name, used in measured.cpu_ns.items()},
        syncs_per_operation=syncs / measured.operations_all,
        operations_per_ack=measured.operations_all / measured.acks,
        disk_p50_us=percentile(disk, 0.5) / 1000,
        disk_p99_us=percentile(disk, 0.99) / 1000,
        disk_rested_p50_us=percentile(sorted(rested_ns), 0.5) / 1000,
        loop_ns=loop_ns,
        durable=measured.acks_not_durable == 0,
    )
