"""`mpy6a bench`: measure this pipe on this machine, with its own processes on its own data directory."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from mpy6a.limits import RECORD_BYTES_MAX

HANDLERS = ("attached", "python", "http")
OF_DELIVERY = {"what", "handlers", "sessions", "bursts", "kinds", "runs", "record", "fsync", "data", "as_json"}
IN_FLIGHT_MAX = 16_384  # sessions of one client whose News may be unanswered at a time (limits.CLIENT_OUTCOMES_MAX)


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part[:9]) <= IN_FLIGHT_MAX for part in parts):
        raise click.BadParameter(f"{text!r}: numbers from 1 to {IN_FLIGHT_MAX}, separated by commas, such as 1,16,64")
    return tuple(map(int, parts))


def _handlers(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= set(HANDLERS):
        raise click.BadParameter(f"{text!r}: {', '.join(HANDLERS)}, one or more of them separated by commas")
    return names


def _bursts(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    return () if text == "0" else _numbers(context, parameter, text)


@click.command()
@click.argument("what", required=False, type=click.Choice(["storage", "delivery"]))
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
    "--sessions",
    type=click.IntRange(0),
    help="Of `storage`: its long run [default: 5000000]; of `delivery`: a run, http a twentieth [default: 60000].",
)
@click.option(
    "--pair-sessions",
    type=click.IntRange(1_000, 150_000),
    default=150_000,
    show_default=True,
    help="Of `storage`: one short run, with and without checkpoints.",
)
@click.option(
    "--handler",
    "handlers",
    default=",".join(HANDLERS),
    show_default=True,
    callback=_handlers,
    help="Of `delivery`: whose rates.",
)
@click.option(
    "--burst",
    "bursts",
    default="1000,10000",
    show_default=True,
    callback=_bursts,
    help="Of `delivery`: sessions due at once; 0: leave that out.",
)
@click.option(
    "--kinds",
    type=click.IntRange(0, 1_024),
    default=64,
    show_default=True,
    help="Of `delivery`: kinds, one of which hangs; 0: leave that out.",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON, every run in it")
@click.pass_context
def bench(
    context: click.Context,
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
    sessions: int | None,
    pair_sessions: int,
    handlers: tuple[str, ...],
    bursts: tuple[int, ...],
    kinds: int,
    as_json: bool,
) -> None:
    """Measure this pipe on this machine: its own pipe process on a real disk, one client process.

    Sessions live New, three Appends, Delete; every operation is acknowledged before the next of its session is called.
    `storage` has them end in Store, and measures what stays: memory, disk, restart, the due sweep, and what
    checkpoints cost (--in-flight 256,1024 --runs 3 --sessions 5000000). `delivery` stores sessions ahead and has a
    handler delete them when they are due: a rate for each sort of handler, how late they come, and what a kind that
    hangs costs the others.
    """
    from mpy6a.benchmark import report
    from mpy6a.benchmark.idle import rest
    from mpy6a.benchmark.sitting import Plan, sit

    signal.signal(signal.SIGTERM, _end)
    if what == "storage":
        from mpy6a.benchmark import storage

        long_run = 5_000_000 if sessions is None else sessions
        figures = storage.measure(storage.StoragePlan(data, long_run, pair_sessions, in_flight, runs), _told)
        click.echo(json.dumps(figures, indent=2) if as_json else storage.text(figures))
        return
    if what == "delivery":
        from mpy6a.benchmark import delivery

        many = 60_000 if sessions is None else sessions
        _check_delivery(context, many, kinds, delivery.SESSIONS_MAX)
        plan_of_it = delivery.DeliveryPlan(data, handlers, many, bursts, kinds, runs, record, fsync)
        figures = delivery.measure(plan_of_it, _told)
        click.echo(json.dumps(figures, indent=2) if as_json else delivery.text(figures))
        return
    if level == "idle":
        idle = rest(data, through, runs, 60.0 if seconds is None else seconds, _told)
        click.echo(json.dumps(report.idle_facts(idle), indent=2) if as_json else report.idle_text(idle))
        return
    plan = Plan(level, through, in_flight, runs, 2.0 if seconds is None else seconds, record, fsync, loop, data)
    sitting = sit(plan, _told)
    click.echo(json.dumps(report.facts(sitting), indent=2) if as_json else report.table(sitting))


def _check_delivery(context: click.Context, sessions: int, kinds: int, most: int) -> None:
    """Raises UsageError for what `delivery` cannot do, or has no use for."""
    given = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        name = str(parameter.name)
        if name not in OF_DELIVERY and context.get_parameter_source(name) == given:
            raise click.UsageError(f"{parameter.opts[0]} is not for `bench delivery`")
    if not 1 <= sessions <= most:
        raise click.UsageError(f"--sessions {sessions}: `bench delivery` takes 1 to {most}")
    if kinds == 1 or kinds > sessions:
        raise click.UsageError(f"--kinds {kinds}: 0 for none, or from 2 to the number of --sessions")


def _told(line: str) -> None:
    click.echo(line, err=True)


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves through the same door as Ctrl-C, so that every child is ended."""
    sys.exit(128 + number)
