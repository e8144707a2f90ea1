"""`mpy6a demo`: real services, faults inside them, SIGKILL for everything, and an audit at the end."""

from __future__ import annotations

import importlib.util
import random
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import click

from mpy6a.demo import place as places
from mpy6a.demo.orchestrator import Orchestrator, Outcome, Wanted, make_children, plan
from mpy6a.demo.people import SHIPPED, load
from mpy6a.demo.show import Progress, report
from mpy6a.demo.watch import Watch
from mpy6a.errors import BadRequest, CannotStart, Unavailable

BAD_ROWS_TOLD: Final = 10
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("demo")
@click.option("--users", default=500, show_default=True, type=click.IntRange(1), help="Users to create.")
@click.option(
    "--fail",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of requests with a fault.",
)
@click.option("--no-kill", is_flag=True, help="Kill nothing.")
@click.option("--seed", type=click.IntRange(0), help="Of faults and kills; a random one unless given.")
@click.option("--input", "input_file", type=click.Path(dir_okay=False, path_type=Path), help="Your own people, as CSV.")
@click.option(
    "--handler",
    type=click.Choice(["python", "http"]),
    default="python",
    show_default=True,
    help="Which handler.",
)
@click.option("--keep", is_flag=True, help="Keep the directory of the run.")
@click.option("--no-guard", is_flag=True, hidden=True, help="Services without the fence: the audit must fail.")
def demo(
    users: int,
    fail: float,
    no_kill: bool,
    seed: int | None,
    input_file: Path | None,
    handler: str,
    keep: bool,
    no_guard: bool,
) -> None:
    """Create users in two services that fail, kill every process again and again, and audit what is left.

    Exit 0: every user is in both services or in none, what the client saw done is there, no session is live.
    Exit 1: anything is off, or the run showed nothing.
    """
    people = _people(input_file, users)
    chosen = seed if seed is not None else random.SystemRandom().randrange(1 << 31)
    wanted = Wanted(min(users, people), fail, not no_kill, chosen, (input_file or SHIPPED).resolve(), not no_guard)
    with _orderly_end():
        outcome = _run(wanted, handler, keep)
    click.echo(report(outcome.audit, list(outcome.hits), outcome.elapsed_s, outcome.parked, again(wanted, handler)))
    if outcome.audit.findings:
        sys.exit(1)


def again(wanted: Wanted, handler: str) -> str:
    """The command of the same run: the same faults and kills, drawn in the same order."""
    command = ["mpy6a", "demo", "--users", str(wanted.users), "--fail", f"{wanted.fail:g}", "--seed", str(wanted.seed)]
    command += ["--handler", handler]
    command += [] if wanted.kill else ["--no-kill"]
    command += [] if wanted.guard else ["--no-guard"]
    command += [] if wanted.input == SHIPPED.resolve() else ["--input", str(wanted.input)]
    return shlex.join(command)


def _run(wanted: Wanted, handler: str, keep: bool) -> Outcome:
    """The run in a directory of its own; exits with one sentence when there can be none, or it broke off."""
    directory = Path(tempfile.mkdtemp(prefix="mpy6a-demo-"))
    try:
        click.echo(
            f"{wanted.users} users, --fail {wanted.fail:g}, --seed {wanted.seed}, --handler {handler}"
            + ("" if wanted.kill else ", nobody is killed")
            + ("" if wanted.guard else ", WITHOUT the guard")
            + (f", all files in {directory}" if keep else "")
        )
        if importlib.util.find_spec("httpx") is None:
            raise CannotStart("the demo's client needs httpx: pip install 'mpy6a[demo]'")
        return _run_in(directory, wanted, handler)
    except CannotStart as error:
        click.echo(f"cannot start: {error}", err=True)
        sys.exit(3)
    except Unavailable as error:
        click.echo(f"the run broke off: {error}", err=True)
        sys.exit(1)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _run_in(directory: Path, wanted: Wanted, handler: str) -> Outcome:
    with Progress() as progress:
        place = places.make(directory, handler)
        children = make_children(wanted, place)
        orchestrator = Orchestrator(wanted, place, progress, children, plan(wanted), Watch(place))
        try:
            return orchestrator.run()
        finally:
            _ignore_signals()
            orchestrator.close()


def _people(path: Path | None, users: int) -> int:
    """How many good rows there are; says which are bad among those wanted."""
    try:
        people, bad = load(path or SHIPPED)
    except BadRequest as error:
        raise click.UsageError(str(error)) from error
    last = people[min(users, len(people)) - 1].line
    wanted_bad = [row for row in bad if row.line <= last]
    for row in wanted_bad[:BAD_ROWS_TOLD]:
        click.echo(f"skipped, {row}")
    if len(wanted_bad) > BAD_ROWS_TOLD:
        click.echo(f"skipped, and {len(wanted_bad) - BAD_ROWS_TOLD} more bad rows")
    if len(people) < users:
        click.echo(f"{len(people)} good rows in the file, so {len(people)} users instead of {users}")
    return len(people)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Ctrl-C, SIGTERM and the terminal's end leave through `finally`, so that every process is ended."""
    before = {number: signal.signal(number, _end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def _end(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    sys.exit(128 + number)


def _ignore_signals() -> None:
    """While processes are ended: an impatient second Ctrl-C must not leave any of them behind."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    demo()
