"""`mpy6a status` and `mpy6a sessions`: operators talk to the pipe's admin door."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mpy6a.client.operator import Operator
from mpy6a.config import find_pipe_config, load_pipe
from mpy6a.model import SessionId

Command = TypeVar("Command", bound=Callable[..., Any])
PAGE = 1_000


class _Id(click.ParamType):  # type: ignore[type-arg]  # subscripting it fails before click 8.4
    """The text of a session's id."""

    name = "session"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(SessionId.parse(str(value)))
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


class _Address(click.ParamType):  # type: ignore[type-arg]  # as above
    """An address that ZeroMQ can reach."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).startswith(("ipc://", "tcp://")):
            self.fail(f"{value!r}: an address begins with ipc:// or tcp://, such as ipc://./admin.sock", param, ctx)
        return str(value)


def _door(command: Command) -> Command:
    command = click.option(
        "--config", type=click.Path(path_type=Path), help="pipe.yaml with the admin door [$MPY6A_CONFIG, ./pipe.yaml]"
    )(command)
    command = click.option("--admin", type=_Address(), help="address of the admin door, such as ipc:///run/mpy6a/admin.sock")(command)
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(command)


def ask(config: Path | None, admin: str | None, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One request to the admin door that the options or the config name."""
    address = admin or load_pipe(find_pipe_config(config, os.environ, Path.cwd())).admin
    with Operator(address) as operator:
        facts: dict[str, Any] = operator.request(verb, arguments)
        return facts


def _show(as_json: bool, facts: dict[str, Any], text: Callable[[dict[str, Any]], None]) -> None:
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        text(facts)


@click.command()
@_door
def status(config: Path | None, admin: str | None, as_json: bool) -> None:
    """The pipe at a glance: term, log, live sessions by kind and state, sidecars."""
    _show(as_json, ask(config, admin, "status", {}), _status_text)


def _status_text(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    log, process = facts["log"], facts["process"]
    durable = "" if facts["durable"] else "  [bold red]NOT DURABLE: fsync: interval[/]"
    console.print(
        f"pipe {facts['pipe']}  release {facts['release']}  term {facts['term']}  pid {process['pid']}"
        f"  live {facts['live']}{durable}"
    )
    console.print(
        f"log: next index {facts['next_index']}, {log.get('segments', 0)} segments, {log.get('syncs', 0)} syncs,"
        f" sync p50 {log.get('sync_p50_us', 0)} us p99 {log.get('sync_p99_us', 0)} us; disk level {facts['disk_level']}"
    )
    if facts["clock_held"]:
        console.print("[bold red]CLOCK[/]: the wall clock leapt; nothing is dispatched")
    kinds = Table("kind", "name", "open", "stored", "repeating", "parked", "ready")
    for kind in facts["kinds"]:
        kinds.add_row(*(str(kind[name]) for name in ("kind", "name", "open", "stored", "repeating", "parked", "ready")))
    console.print(kinds)
    sidecars = Table("sidecar", "address", "connected", "held", "credit left")
    for sidecar in facts["sidecars"]:
        credit = ", ".join(f"{kind}: {left}" for kind, left in sidecar["credit"].items())
        connected = "yes" if sidecar["connected"] else "no"
        sidecars.add_row(sidecar["name"], sidecar["address"], connected, str(sidecar["held"]), credit)
    console.print(sidecars)
    if facts["dropped"]:
        console.print("not taken: " + ", ".join(f"{reason} {count}" for reason, count in facts["dropped"].items()))


@click.group()
def clock() -> None:
    """The pipe's clock after a leap of the machine's."""


@clock.command()
@_door
def accept(config: Path | None, admin: str | None, as_json: bool) -> None:
    """The wall clock is right, however far it leapt: log time follows it, and dispatch goes on."""
    facts = ask(config, admin, "clock.accept", {"who": getpass.getuser()})
    _show(as_json, facts, lambda _: click.echo("accepted: log time follows the wall clock, what is due goes on"))


@click.group()
def sessions() -> None:
    """Live sessions: list, show, kick, delete."""


@sessions.command("list")
@_door
@click.option("--state", type=click.Choice(["open", "stored", "repeating", "parked"]))
@click.option("--kind", help="name or number")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
def list_(
    config: Path | None, admin: str | None, as_json: bool, state: str | None, kind: str | None, limit: int
) -> None:
    """Live sessions by index, each with the one reason why it is not running."""
    arguments: dict[str, Any] = {name: value for name, value in (("state", state), ("kind", kind)) if value}
    found: list[dict[str, Any]] = []
    while True:
        page = ask(config, admin, "sessions.list", arguments | {"limit": min(PAGE, limit - len(found))})
        found.extend(page["sessions"])
        if not page["more"] or len(found) >= limit:
            break
        arguments["after"] = page["after"]
    _show(as_json, {"sessions": found, "more": page["more"], "live": page["live"]}, _list_text)


def _list_text(facts: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    names = ("id", "kind", "state", "epoch", "recs", "reps", "charges", "age", "why")
    table = Table(*names, box=SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns[:-1]:
        column.no_wrap = True
    for session in facts["sessions"]:
        age = f"{session['age_ms'] / 1000:.1f} s"
        why = f"{session['why']} {session['detail']}".strip()
        columns = [str(session[name]) for name in ("id", "kind", "state", "epoch", "records", "repeats", "charges")]
        table.add_row(*columns, age, why)
    Console().print(table)
    shown = len(facts["sessions"])
    click.echo(f"{shown} of {facts['live']} live sessions" + ("; more: --limit" if facts["more"] else ""))


@sessions.command()
@_door
@click.argument("session", type=_Id())
@click.option("--records", is_flag=True, help="the records too, in base64")
def show(config: Path | None, admin: str | None, as_json: bool, session: str, records: bool) -> None:
    """All that the pipe knows of one session."""
    facts = ask(config, admin, "sessions.show", {"id": session, "records": records})

    def text(facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            if isinstance(value, list):
                click.echo(f"{name}:")
                for one in value:
                    click.echo(f"  {one}")
            else:
                click.echo(f"{name}: {value}")

    _show(as_json, facts, text)


def _word(name: str, sentence: str) -> click.Command:
    @_door
    @click.argument("session", type=_Id())
    @click.option("--reason", default="", help="why; logged with your name")
    def word(config: Path | None, admin: str | None, as_json: bool, session: str, reason: str) -> None:
        arguments = {"id": session, "who": getpass.getuser(), "reason": reason}
        facts = ask(config, admin, f"sessions.{name}", arguments)
        _show(as_json, facts, lambda facts: click.echo(f"{facts['id']}: {name} is logged"))

    return click.command(name, help=sentence)(word)


sessions.add_command(_word("kick", "Have a stored or parked session repeated now; its charges are forgotten."))
sessions.add_command(_word("delete", "Delete a session for good; whoever writes it is fenced."))
sessions.add_command(_word("park", "Park a session until it is kicked; whoever writes it is fenced."))
sessions.add_command(_word("cancel", "Have the handler roll a session back: repeated now with `cancel` set."))
