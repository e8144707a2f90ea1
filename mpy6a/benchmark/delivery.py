"""`mpy6a bench delivery`: how fast, and how late, due sessions reach a handler and are durably finished by it.

Every run has a pipe, a sidecar and a handler of its own on an empty directory. A client stores all sessions ahead, each
with one record; the handler deletes its session and does nothing else. Three questions: a rate for each sort of
handler; how late sessions are handed over when many are due at once; what a kind whose handler hangs costs the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mpy6a.benchmark.disk import real_disk
from mpy6a.benchmark.figures import spread
from mpy6a.benchmark.handed import Delivered, Work, deliver
from mpy6a.benchmark.place import check_sidecar
from mpy6a.benchmark.report import DURABLE, NOT_DURABLE, machine, machine_text, markdown
from mpy6a.benchmark.sitting import Told

SESSIONS_MAX: Final = 1_000_000
KINDS_MAX: Final = 1_024
CONCURRENCY: Final = 1_024  # of the services and their kind: what is asked is asked with a credit of 1,024
HTTP_CONCURRENCY: Final = 64  # the default of a kind: a connection each
KIND_CONCURRENCY: Final = 64  # the default, of each of many kinds
HTTP_SHARE: Final = 20  # an http handler is asked a twentieth of the rate, and gets so much of the sessions
ASKED_S: Final = {"attached": 30_000, "python": 20_000, "http": 1_500}
ASKED_LATE_MS: Final = {1_000: (10.0, 25.0)}  # sessions at once -> p50, p99 of their lateness
ASKED_FINISHED_MS: Final = {10_000: 500.0}
ASKED_KEPT: Final = 0.9


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """What to measure. `bursts`: sessions due at once; `kinds` 0: nothing about a kind that hangs."""

    disk: Path
    handlers: tuple[str, ...]
    sessions: int
    bursts: tuple[int, ...]
    kinds: int
    runs: int
    record_bytes: int
    fsync: str


def measure(plan: DeliveryPlan, told: Told) -> dict[str, Any]:
    """All figures, as plain data. Raises CannotStart, Unavailable; every child has ended when it returns."""
    facts: dict[str, Any] = {"file_system": real_disk(plan.disk), "plan": {**asdict(plan), "disk": str(plan.disk)}}
    check_sidecar()
    record = os.urandom(plan.record_bytes)

    def runs(what: str, *works: Work) -> list[list[Delivered]]:
        """Each of the works as often as the plan says, by turns: the machine's speed changes within minutes."""
        found: list[list[Delivered]] = [[] for _ in works]
        for number in range(1, plan.runs + 1):
            for work, done in zip(works, found, strict=True):
                done.append(deliver(plan.disk, plan.fsync, work, record))
                told(f"{what}, run {number} of {plan.runs}: {line(done[-1])}")
        return found

    facts["rates"] = []
    for handler in plan.handlers:
        share = HTTP_SHARE if handler == "http" else 1
        concurrency = HTTP_CONCURRENCY if handler == "http" else CONCURRENCY
        [done] = runs(handler, Work(handler, max(1, plan.sessions // share), concurrency))
        facts["rates"].append({"handler": handler, "asked_s": ASKED_S[handler], **_told(done)})
    facts["bursts"] = []
    for burst in plan.bursts:
        [done] = runs(f"{burst} at once", Work("attached", burst, CONCURRENCY))
        p50_ms, p99_ms = ASKED_LATE_MS.get(burst, (None, None))
        asked = {"late_p50_ms": p50_ms, "late_p99_ms": p99_ms, "finished_ms": ASKED_FINISHED_MS.get(burst)}
        facts["bursts"].append({"at_once": burst, "asked": asked, **_told(done)})
    if plan.kinds:
        works = [
            Work("attached", plan.sessions, CONCURRENCY, plan.kinds, hanging, KIND_CONCURRENCY) for hanging in (0, 1)
        ]
        without, with_one = runs(f"{plan.kinds} kinds", *works)
        kept = [one.repeats_s / other.repeats_s for one, other in zip(with_one, without, strict=True)]
        facts["kinds"] = {
            "kinds": plan.kinds,
            "asked": ASKED_KEPT,
            "kept": asdict(spread(kept)),
            "without": _told(without),
            "with": _told(with_one),
        }
    everything = [run for part in _parts(facts) for run in part["runs"]]
    durable = plan.fsync == "always" and all(run["durable"] for run in everything)
    return {"title": _title(plan, durable, facts["file_system"]), "durable": durable, "machine": machine(), **facts}


def line(run: Delivered) -> str:
    """A run in short."""
    return (
        f"{run.repeats_s / 1000:.1f} k repeats/s, late p50 {run.late_p50_ms:.1f} ms, p99 {run.late_p99_ms:.1f} ms,"
        f" all {run.sessions} finished after {run.finished_ms:.0f} ms"
    )


def _told(runs: Sequence[Delivered]) -> dict[str, Any]:
    """Runs of the same work, and what they say together."""

    def over(figure: Callable[[Delivered], float]) -> dict[str, float]:
        return asdict(spread([figure(run) for run in runs]))

    return {
        "repeats_s": over(lambda run: run.repeats_s),
        "late_p50_ms": over(lambda run: run.late_p50_ms),
        "late_p99_ms": over(lambda run: run.late_p99_ms),
        "finished_ms": over(lambda run: run.finished_ms),
        "cpu_us": {name: over(lambda run, name=name: run.cpu_us[name]) for name in runs[0].cpu_us},  # type: ignore[misc]
        "syncs_per_repeat": over(lambda run: run.syncs_per_repeat),
        "disk_p50_us": over(lambda run: run.disk_p50_us),
        "loop_ns": over(lambda run: run.loop_ns),
        "runs": [asdict(run) for run in runs],
    }


def _parts(facts: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = facts.get("kinds")
    return [*facts["rates"], *facts["bursts"], *([kinds["without"], kinds["with"]] if kinds else [])]


def _title(plan: DeliveryPlan, durable: bool, file_system: str) -> str:
    promise = DURABLE if durable else f"{NOT_DURABLE} (fsync: {plan.fsync})"
    return (
        f"{promise} | delivery of sessions with one record of {plan.record_bytes} B, each finished by Delete,"
        f" {plan.runs} runs on {file_system}"
    )


# ---------------------------------------------------------------------- for people


def text(facts: dict[str, Any]) -> str:
    """The figures as Markdown: medians over the runs, some with lowest and highest, and what is asked."""
    parts = [facts["title"], machine_text()]
    tables = [_rates(facts["rates"]), _bursts(facts["bursts"]), _kinds(facts.get("kinds"))]
    return "\n".join([*parts, *(f"\n{markdown(table)}" for table in tables if table)])


def _rates(rates: Sequence[dict[str, Any]]) -> list[list[str]]:
    heads = ["handler", "sessions", "credit", "k repeats/s (min-max)", "asked", *_PROCESSES, *_MACHINE]
    lines = [
        [
            rate["handler"],
            str(rate["runs"][0]["sessions"]),
            str(rate["runs"][0]["credit"]),
            _range(rate["repeats_s"], 1e3),
            f"{rate['asked_s'] / 1e3:g}",
            *_machine(rate),
        ]
        for rate in rates
    ]
    return [heads, *lines] if lines else []


def _bursts(bursts: Sequence[dict[str, Any]]) -> list[list[str]]:
    names = {"late_p50_ms": "late p50 ms (min-max)", "late_p99_ms": "p99 ms", "finished_ms": "all finished ms"}
    asked = [cell for name in names.values() for cell in (name, "asked")]
    heads = ["at once", "credit", *asked, *_PROCESSES, *_MACHINE]
    lines = [
        [
            str(burst["at_once"]),
            str(burst["runs"][0]["credit"]),
            *(cell for name in names for cell in (_range(burst[name]), _asked(burst["asked"][name]))),
            *_machine(burst),
        ]
        for burst in bursts
    ]
    return [heads, *lines] if lines else []


def _kinds(found: dict[str, Any] | None) -> list[list[str]]:
    if not found:
        return []
    heads = ["kinds", "one of them", "credit of each", "others, k repeats/s (min-max)", "kept (min-max)", "asked"]
    kept = found["kept"]
    share = f"{kept['median']:.0%} ({kept['low']:.0%}-{kept['high']:.0%})"
    lines = [
        [
            str(found["kinds"]),
            "hangs" if name == "with" else "does not",
            str(found[name]["runs"][0]["credit"]),
            _range(found[name]["repeats_s"], 1e3),
            *((share, f"{found['asked']:.0%}") if name == "with" else ("", "")),
            *_machine(found[name]),
        ]
        for name in ("without", "with")
    ]
    return [[*heads, *_PROCESSES, *_MACHINE], *lines]


_PROCESSES: Final = ["pipe CPU us/repeat", "sidecar", "handler"]
_MACHINE: Final = ["syncs/repeat", "disk sync p50 us", "loop ns"]


def _machine(part: dict[str, Any]) -> list[str]:
    cpu = [f"{part['cpu_us'][name]['median']:.1f}" for name in ("pipe", "sidecar", "handler")]
    return [
        *cpu,
        f"{part['syncs_per_repeat']['median']:.4f}",
        f"{part['disk_p50_us']['median']:.0f}",
        f"{part['loop_ns']['median']:.0f}",
    ]


def _range(figure: dict[str, float], scale: float = 1) -> str:
    median, low, high = (figure[name] / scale for name in ("median", "low", "high"))
    return f"{median:.1f} ({low:.1f}-{high:.1f})"


def _asked(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"

