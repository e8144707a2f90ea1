"""What a sitting prints: a table for people (and for the docs), or JSON with every run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any, Final

import zmq

from mpy6a.benchmark.figures import Row, Spread
from mpy6a.benchmark.idle import Idle
from mpy6a.benchmark.sitting import CLIENT, Sitting
from mpy6a.version import __version__

NOT_DURABLE: Final = "NOT DURABLE: an acknowledged operation may be lost with the machine"
DURABLE: Final = "every operation durable before its ack"


def title(sitting: Sitting) -> str:
    """What was measured, and first of all whether an ack was a promise."""
    plan = sitting.plan
    level = plan.level if plan.level == "exchange" else f"api on {plan.loop}"
    what = "New, 3 x Append, Delete" if plan.record_bytes == 256 else f"New, 3 x Append({plan.record_bytes} B), Delete"
    promise = DURABLE if sitting.durable else f"{NOT_DURABLE} (fsync: {plan.fsync})"
    return (
        f"{promise} | {level}, {plan.through}, {what}, {plan.runs} runs of {plan.seconds:g} s on {sitting.file_system}"
    )


def table(sitting: Sitting) -> str:
    """Title and a Markdown table: medians over the runs, the rate with its lowest and highest."""
    names = ["pipe", *(["sidecar"] if sitting.plan.through == "sidecar" else []), CLIENT]
    heads = ["in flight", "k ops/s (min-max)", "p50 ms", "p99 ms", *(f"{name} CPU us/op" for name in names)]
    heads += ["syncs/op", "ops/ack", "disk sync p50 us", "p99 us", "rested p50 us", "loop ns"]
    lines = [heads, *(_cells(row, names) for row in sitting.rows)]
    return f"{title(sitting)}\n{machine_text()}\n\n{markdown(lines)}"


def _cells(row: Row, names: list[str]) -> list[str]:
    rate = row.spread(lambda run: run.operations_s / 1000)
    cpu = [f"{median(run.cpu_us[name] for run in row.runs):.2f}" for name in names]
    return [
        str(row.in_flight),
        f"{rate.median:.1f} ({rate.low:.1f}-{rate.high:.1f})",
        f"{row.spread(lambda run: run.p50_us).median / 1000:.3f}",
        f"{row.spread(lambda run: run.p99_us).median / 1000:.3f}",
        *cpu,
        f"{row.spread(lambda run: run.syncs_per_operation).median:.4f}",
        f"{row.spread(lambda run: run.operations_per_ack).median:.1f}",
        f"{row.spread(lambda run: run.disk_p50_us).median:.0f}",
        f"{row.spread(lambda run: run.disk_p99_us).median:.0f}",
        f"{row.spread(lambda run: run.disk_rested_p50_us).median:.0f}",
        f"{row.spread(lambda run: run.loop_ns).median:.0f}",
    ]


def facts(sitting: Sitting) -> dict[str, Any]:
    """Everything, every run, for machines."""
    plan = asdict(sitting.plan)
    plan["disk"] = str(sitting.plan.disk)
    return {
        "title": title(sitting),
        "durable": sitting.durable,
        "machine": machine(),
        "file_system": sitting.file_system,
        "plan": plan,
        "rows": [
            {
                "in_flight": row.in_flight,
                "durable": row.durable,
                "operations_s": asdict(row.spread(lambda run: run.operations_s)),
                "p50_us": asdict(row.spread(lambda run: run.p50_us)),
                "p99_us": asdict(row.spread(lambda run: run.p99_us)),
                "runs": [asdict(run) for run in row.runs],
            }
            for row in sitting.rows
        ],
    }


def idle_text(idle: Idle) -> str:
    """Figures at rest, a line each."""
    lines = [
        f"{machine_text()}, loop {idle.loop_ns:.0f} ns",
        f"first answer after the command: {_seconds(idle.start_s)}; of it CPU {_seconds(idle.start_cpu_s)}",
    ]
    for process in idle.resting:
        share, rss = process.cpu_share * 100, process.rss_bytes / 1e6
        lines.append(f"{process.name}, {idle.seconds:g} s at rest: {share:.2f} % of a core, {rss:.1f} MB")
    return "\n".join(lines)


def idle_facts(idle: Idle) -> dict[str, Any]:
    """The same for machines."""
    return {"machine": machine(), **asdict(idle)}


def machine() -> Mapping[str, object]:
    """What the figures were measured on. A load above 2 after a sitting says that somebody else ran too."""
    return {
        "mpy6a": __version__,
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def machine_text() -> str:
    """The same in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())


def markdown(lines: list[list[str]]) -> str:
    """A table whose columns stand under each other, the numbers to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])


def _seconds(times: Spread) -> str:
    return f"{times.median:.3f} s ({times.low:.3f}-{times.high:.3f})"
