"""`mpy6a bench`: measure this pipe on this machine, with its own processes on its own data directory."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from mpy6a.limits import RECORD_BYTES_MAX

IN_FLIGHT_MAX = 16_384  # sessions of one client whose News may be unanswered at a time (limits.CLIENT_OUTCOMES_MAX)


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part[:9]) <= IN_FLIGHT_MAX for part in parts):
        raise click.BadParameter(f"{text!r}: numbers from 1 to {IN_FLIGHT_MAX}, separated by commas, such as 1,16,64")
    return tuple(map(int, parts))


@click.command()
@click.argument("what", required=False, type=click.Choice(["storage"]))
@click.option(
    "--level",
    type=click.Choice(["exchange", "api", "idle"]),
    default="exchange",
    show_default=True,
    help="The library without futures, with futures on an event loop, or start and rest of the processes.",
)
@click.option("--through", type=click.Choice(["direct", "sidecar"]), default="direct", show_default=True)
@click.option(
    "--in-flight", default="1,16,64,256,1024", show_default=True, callback=_numbers, help="Sessions at a time."
)
@click.option("--runs", type=click.IntRange(1, 1_000), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0.05, 3_600), help="Of one run [default: 2]; at rest [default: 60]."
)
@click.option(
    "--record", type=click.IntRange(0, RECORD_BYTES_MAX), default=256, show_default=True, help="Bytes of an Append."
)
@click.option(
    "--fsync",
    type=click.Choice(["always", "interval"]),
    default="always",
    show_default=True,
    help="Of the pipe's log; `interval` makes no operation durable before its ack, and the report says so.",
)
@click.option(
    "--loop", type=click.Choice(["asyncio", "uvloop"]), default="asyncio", show_default=True, help="Of level api."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=".",
    help="Directory on the disk to be measured [default: here]; nothing is left in it.",
)
@click.option(
    "--sessions", type=click.IntRange(0), default=5_000_000, show_default=True, help="Of `storage`: its long run."
)
@click.option(
    "--pair-sessions",
    type=click.IntRange(1_000, 150_000),
    default=150_000,
    show_default=True,
    help="Of `storage`: one short run, with and without checkpoints.",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON, every run in it")
def bench(
    what: str | None,
    level: str,
    through: str,
    in_flight: tuple[int, ...],
    runs: int,
    seconds: float | None,
    record: int,
    fsync: str,
    loop: str,
    data: Path,
    sessions: int,
    pair_sessions: int,
    as_json: bool,
) -> None:
    """Measure this pipe on this machine: its own pipe process on a real disk, one client process.

    Sessions live New, three Appends, Delete; every operation is acknowledged before the next of its session is called.
    `storage` has them end in Store, and measures what stays: memory, disk, restart, the due sweep, and what
    checkpoints cost (--in-flight 256,1024 --runs 3 --sessions 5000000).
    """
    from mpy6a.benchmark import report
    from mpy6a.benchmark.idle import rest
    from mpy6a.benchmark.sitting import Plan, sit

    signal.signal(signal.SIGTERM, _end)
    if what == "storage":
        from mpy6a.benchmark import storage

        figures = storage.measure(storage.StoragePlan(data, sessions, pair_sessions, in_flight, runs), _told)
        click.echo(json.dumps(figures, indent=2) if as_json else storage.text(figures))
        return
    if level == "idle":
        idle = rest(data, through, runs, 60.0 if seconds is None else seconds, _told)
        click.echo(json.dumps(report.idle_facts(idle), indent=2) if as_json else report.idle_text(idle))
        return
    plan = Plan(level, through, in_flight, runs, 2.0 if seconds is None else seconds, record, fsync, loop, data)
    sitting = sit(plan, _told)
    click.echo(json.dumps(report.facts(sitting), indent=2) if as_json else report.table(sitting))


def _told(line: str) -> None:
    click.echo(line, err=True)


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves through the same door as Ctrl-C, so that every child is ended."""
    sys.exit(128 + number)
