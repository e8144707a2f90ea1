"""`mpy6a bench storage`: what it costs that sessions live on - writing, memory, disk, restart and the due sweep.

Each session is New, three Appends, Store: it stays. Pairs of short runs with and without checkpoints say what writing
them costs; then one long run fills the pipe, and memory, disk, restart and sweep are measured on what it left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mpy6a.benchmark.calibration import loop_ns
from mpy6a.benchmark.disk import real_disk
from mpy6a.benchmark.exchange import ExchangeLoad
from mpy6a.benchmark.figures import percentile, spread
from mpy6a.benchmark.greeting import first_answer
from mpy6a.benchmark.place import Place
from mpy6a.benchmark.processes import Child, children_of
from mpy6a.client.operator import Operator
from mpy6a.collecting import leave_the_old
from mpy6a.errors import Unavailable

Told = Callable[[str], None]
RECORD: Final = bytes(range(256))
WITHOUT: Final = "256MiB"  # of log before a checkpoint: more than a short run writes
STORE_MS: Final = 600_000  # due times are spread over so much
SETTLE_S: Final = 120.0  # for the last checkpoint of a filled pipe
SWEEP: Final = 200_000  # sessions taken by a sweep


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """What to measure."""

    disk: Path
    sessions: int  # of the long run
    pair_sessions: int  # of each short one: below WITHOUT of log, 1.4 KB a session
    in_flight: tuple[int, ...]
    runs: int  # pairs


@dataclass(frozen=True, slots=True)
class Filled:
    """One run that stores sessions."""

    in_flight: int
    checkpoints: int
    operations_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    stall_ms: float  # the longest time that one turn of the pipe's loop spent for the checkpoint
    stall_cpu_ms: float  # and the most of the processor's: the rest went to other processes
    loop_ns: float


@dataclass(frozen=True, slots=True)
class Stored:
    """The long run, and what it left."""

    sessions: int
    run: Filled
    resident_bytes: int  # of all processes of the pipe, after the checkpoint
    rss_bytes: int  # the same with the libraries' pages, which they share, counted once for each process
    log_bytes: int
    file_bytes: int
    restart_s: float
    sweep_warm_s: float  # sessions a second
    sweep_cold_s: float


def measure(plan: StoragePlan, told: Told) -> dict[str, Any]:
    """All figures, as plain data. Raises CannotStart, Unavailable; every child has ended when it returns."""
    facts: dict[str, Any] = {"file_system": real_disk(plan.disk), "pairs": [], "plan": asdict(plan)}
    facts["plan"]["disk"] = str(plan.disk)
    for in_flight in plan.in_flight:
        with_s: list[Filled] = []
        without: list[Filled] = []
        for number in range(1, plan.runs + 1):
            for checkpoint, runs in (("64MiB", with_s), (WITHOUT, without)):
                with Place(plan.disk, checkpoint=checkpoint) as place:
                    pipe = _started(place)
                    runs.append(_fill(place, pipe, in_flight, plan.pair_sessions))
                told(f"{in_flight} in flight, pair {number} of {plan.runs}: {_line(runs[-1])}")
        facts["pairs"].append(_pair(in_flight, with_s, without))
    if plan.sessions:
        facts["stored"] = asdict(_stored(plan, told))
    return facts


def _pair(in_flight: int, with_s: Sequence[Filled], without: Sequence[Filled]) -> dict[str, Any]:
    kept = [one.operations_s / other.operations_s for one, other in zip(with_s, without, strict=True)]
    slower = [one.p99_ms / other.p99_ms for one, other in zip(with_s, without, strict=True)]
    return {
        "in_flight": in_flight,
        "kept": asdict(spread(kept)),
        "p99_ratio": asdict(spread(slower)),
        "with": [asdict(run) for run in with_s],
        "without": [asdict(run) for run in without],
    }


def _stored(plan: StoragePlan, told: Told) -> Stored:
    with Place(plan.disk) as place:
        pipe = _started(place)
        run = _fill(place, pipe, plan.in_flight[0], plan.sessions)
        told(f"{plan.sessions} sessions: {_line(run)}")
        _await_checkpoint(place, told)
        family = _family(pipe.pid)
        maps = [_mappings(pid) for pid in family]
        data = place.data / "data"
        log_bytes = sum(path.stat().st_size for path in (data / "log").iterdir())
        file_bytes = sum(path.stat().st_size for path in data.glob("checkpoint.db*"))
        place.end_children()
        begun = time.perf_counter_ns()
        pipe = place.start_pipe()
        restart_s = (first_answer(place.doors.pipe, pipe) - begun) / 1e9
        place.end_children()
        warm = _sweep(data, told)
        _forget_cache(data / "checkpoint.db")
        cold = _sweep(data, told)
    return Stored(
        plan.sessions, run, _resident(maps), sum(map(_rss, maps)), log_bytes, file_bytes, restart_s, warm, cold
    )


def _started(place: Place) -> Child:
    pipe = place.start_pipe()
    first_answer(place.doors.pipe, pipe)
    return pipe


def _fill(place: Place, pipe: Child, in_flight: int, sessions: int) -> Filled:
    """Store so many sessions, as fast as they are acknowledged."""
    load = ExchangeLoad(place.doors.pipe)
    before_ns = loop_ns()
    try:
        elapsed_s, latencies = load.fill(in_flight, sessions, RECORD, STORE_MS)
        pipe.check()
    finally:
        load.close()
    status = _status(place)
    ordered = sorted(latencies)
    return Filled(
        in_flight,
        int(status["checkpoint"]["checkpoints"]),
        len(ordered) / elapsed_s,
        percentile(ordered, 0.5) / 1e6,
        percentile(ordered, 0.99) / 1e6,
        ordered[-1] / 1e6,
        status["checkpoint"]["stall_us_max"] / 1e3,
        status["checkpoint"]["stall_cpu_us_max"] / 1e3,
        (before_ns + loop_ns()) / 2,
    )


def _status(place: Place) -> dict[str, Any]:
    with Operator(place.doors.admin) as operator:
        return operator.request("status")


def _await_checkpoint(place: Place, told: Told) -> None:
    """Until what was stored is filed, but for less than a MiB of log. Raises Unavailable."""
    give_up_at = time.monotonic() + SETTLE_S
    while time.monotonic() < give_up_at:
        found = _status(place)["checkpoint"]
        if found["in_memory"] * 1_400 < 1 << 20:
            return
        told(f"{found['in_memory']} sessions in memory")
        time.sleep(5)
    raise Unavailable(f"the checkpoint was not finished in {SETTLE_S:g} s")


def _family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *(one for child in children_of(pid) for one in _family(child))]


def _mappings(pid: int) -> dict[str, tuple[int, int]]:
    """Of each file that a process has mapped ("": no file), bytes of its own and bytes of the file's in memory."""
    found: dict[str, tuple[int, int]] = {}
    path, rss = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape").splitlines():
        name, _, value = line.partition(":")
        if "-" in name.partition(" ")[0]:  # "7f..-7f.. r-xp 00000000 fe:00 1234    /usr/lib/libc.so.6"
            path = line.split(maxsplit=5)[5] if line.count("/") else ""
        elif name == "Rss":
            rss = int(value.split()[0]) * 1024
        elif name == "Anonymous":
            own = int(value.split()[0]) * 1024
            before = found.get(path, (0, 0))
            found[path] = before[0] + own, before[1] + rss - own
    return found


def _rss(mappings: dict[str, tuple[int, int]]) -> int:
    return sum(map(sum, mappings.values()))


def _resident(family: Sequence[dict[str, tuple[int, int]]]) -> int:
    """What they have in memory together: a file's page is there once, whoever has mapped it."""
    files = {path for one in family for path in one}
    shared = sum(max(one.get(path, (0, 0))[1] for one in family) for path in files)
    return shared + sum(own for one in family for own, _ in one.values())


def _sweep(data: Path, told: Told) -> float:
    """Sessions a second that the due sweep hands out of the file, records read as for a push."""
    from mpy6a.checkpoint.file import CheckpointFile
    from mpy6a.checkpoint.loading import load_state
    from mpy6a.due import Due
    from mpy6a.limits import PROPOSALS_MAX

    leave_the_old()  # as the pipe does
    file = CheckpointFile.open(str(data))
    state = load_state(file, 1)
    due = Due(state)
    far_ms = state.log_ms + STORE_MS
    due.open(far_ms)
    taken, begun = 0, time.perf_counter()
    while taken < SWEEP:
        sessions = [one for kind in due.ready_kinds() for one in due.take(kind, PROPOSALS_MAX)]
        if not sessions:
            break
        for session in sessions:
            state.sessions.records(session, _no_log)
        taken += len(sessions)
    rate = taken / (time.perf_counter() - begun)
    file.close()
    told(f"sweep: {taken} sessions, {rate:.0f} a second")
    return rate


def _no_log(position: int, length: int) -> bytes:
    raise AssertionError(f"a filed session's record is in its row, not in the log at {position}, {length}")


def _forget_cache(path: Path) -> None:
    """Have the system read the file from the disk again."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _line(run: Filled) -> str:
    return (
        f"{run.operations_s / 1000:.1f} k operations/s, p50 {run.p50_ms:.2f} ms, p99 {run.p99_ms:.2f} ms,"
        f" {run.checkpoints} checkpoints, longest stall {run.stall_ms:.2f} ms, {run.stall_cpu_ms:.2f} of CPU"
    )


def text(facts: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| in flight | with, k ops/s | without | kept (min-max) | p99 with ms | without | ratio | stall ms, CPU |"
        " loop ns |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pair in facts["pairs"]:
        with_s, without = pair["with"], pair["without"]

        def middle(runs: Sequence[dict[str, float]], name: str, scale: float = 1) -> str:
            return f"{spread([run[name] / scale for run in runs]).median:.2f}"

        kept, ratio = pair["kept"], pair["p99_ratio"]
        lines.append(
            f"| {pair['in_flight']} | {middle(with_s, 'operations_s', 1e3)} | {middle(without, 'operations_s', 1e3)} |"
            f" {kept['median']:.0%} ({kept['low']:.0%}-{kept['high']:.0%}) | {middle(with_s, 'p99_ms')} |"
            f" {middle(without, 'p99_ms')} | {ratio['median']:.2f} | {max(run['stall_ms'] for run in with_s):.2f}, "
            f"{max(run['stall_cpu_ms'] for run in with_s):.2f} |"
            f" {middle([*with_s, *without], 'loop_ns')} |"
        )
    stored = facts.get("stored")
    if stored:
        mib = 1 << 20
        sizes = {
            name: f"{stored[name] / mib:.0f} MiB" for name in ("resident_bytes", "rss_bytes", "log_bytes", "file_bytes")
        }
        run = stored["run"]
        lines += [
            "",
            f"{stored['sessions']} stored sessions of 3 x {len(RECORD)} B, filled at {run['operations_s'] / 1e3:.1f} k"
            f" operations/s with {run['checkpoints']} checkpoints, longest stall {run['stall_ms']:.2f} ms,"
            f" {run['stall_cpu_ms']:.2f} of CPU:",
            "",
            f"- resident, all processes of the pipe: {sizes['resident_bytes']} ="
            f" {stored['resident_bytes'] / 1e6:.0f} MB ({sizes['rss_bytes']} with shared libraries counted for each)",
            f"- log {sizes['log_bytes']}, checkpoint {sizes['file_bytes']}",
            f"- restart to first answer {stored['restart_s']:.2f} s",
            f"- due sweep {stored['sweep_warm_s']:.0f} sessions/s, from a cold cache {stored['sweep_cold_s']:.0f}",
        ]
    return "\n".join(lines)
