"""`mpy6a status` and `mpy6a sessions`: operators talk to the pipe's admin door."""

from __future__ import annotations

import base64
import getpass
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from mpy6a.client.operator import TIMEOUT_S, Operator
from mpy6a.commands.completion import kinds_of
from mpy6a.commands.until import ENDS, Until
from mpy6a.config import find_pipe_config, load_pipe
from mpy6a.errors import NoSuchSession, Refused
from mpy6a.model import SessionId
from mpy6a.reasons import REASONS, sentence

Command = TypeVar("Command", bound=Callable[..., Any])
PAGE = 1_000
EXPORT_TRIES = 5


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


def with_door(command: Command) -> Command:
    """The options of every command that talks to the admin door."""
    command = click.option(
        "--config", type=click.Path(path_type=Path), help="pipe.yaml with the admin door [$MPY6A_CONFIG, ./pipe.yaml]"
    )(command)
    command = click.option("--admin", type=_Address(), help="address of the admin door, such as ipc:///run/mpy6a/admin.sock")(command)
    return click.option("--json", "as_json", is_flag=True, help="print JSON")(command)


def ask(
    config: Path | None, admin: str | None, verb: str, arguments: dict[str, Any], *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """One request to the admin door that the options or the config name."""
    address = admin or load_pipe(find_pipe_config(config, os.environ, Path.cwd())).admin
    with Operator(address, timeout=timeout_s) as operator:
        facts: dict[str, Any] = operator.request(verb, arguments)
        return facts


def show_facts(as_json: bool, facts: dict[str, Any], text: Callable[[dict[str, Any]], None]) -> None:
    """As JSON, or as `text` shows it to people."""
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        text(facts)


@click.command()
@with_door
def status(config: Path | None, admin: str | None, as_json: bool) -> None:
    """The pipe at a glance: term, log, live sessions by kind and state, sidecars."""
    show_facts(as_json, ask(config, admin, "status", {}), _status_text)


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
        f" sync p50 {log.get('sync_p50_us', 0)} us p99 {log.get('sync_p99_us', 0)} us"
    )
    console.print(_disk_line(facts))
    if facts["clock_held"]:
        console.print("[bold red]CLOCK[/]: the wall clock leapt; nothing is dispatched")
    console.print(kinds_table(facts["kinds"]))
    sidecars = Table("sidecar", "address", "connected", "held", "credit left")
    for sidecar in facts["sidecars"]:
        credit = ", ".join(f"{kind}: {left}" for kind, left in sidecar["credit"].items())
        connected = "yes" if sidecar["connected"] else "no"
        sidecars.add_row(sidecar["name"], sidecar["address"], connected, str(sidecar["held"]), credit)
    console.print(sidecars)
    if facts["dropped"]:
        console.print("not taken: " + ", ".join(f"{reason} {count}" for reason, count in facts["dropped"].items()))


def kinds_table(kinds: list[dict[str, Any]]) -> Any:
    """The kinds as a table for people; who paused one stands behind it."""
    from rich.table import Table
    from rich.text import Text

    names = ("kind", "name", "open", "stored", "repeating", "parked", "ready")
    table = Table(*names, "breaker", "oldest due", "waits for", "paused")
    for kind in kinds:
        paused, waited_ms = kind["paused"], kind["oldest_due_ms"]
        by = f"by {paused['who']}: {paused['reason']}" if paused else ""
        if paused and paused["for_ms"] is not None:
            by += f", for {paused['for_ms'] / 1000:.0f} s more"
        waited = "" if waited_ms is None else f"{waited_ms / 1000:.1f} s"
        waits = f"{kind['why']} {kind['detail']}".strip()
        columns = (str(kind[name]) for name in names)
        # What somebody typed is no markup.
        table.add_row(*columns, kind.get("breaker", ""), waited, Text(waits), Text(by))
    return table


def _disk_line(facts: dict[str, Any]) -> str:
    disk, level = facts["disk"], facts["disk_level"]
    if not disk:
        return f"disk: level {level}"
    sizes = {name: f"{disk[f'{name}_bytes'] / (1 << 20):,.0f} MiB" for name in ("free", "low", "very_low", "reserve")}
    line = (
        f"disk: level {level}, {sizes['free']} free ({disk['free_percent']} %), low {sizes['low']},"
        f" very low {sizes['very_low']}, reserve {sizes['reserve']}"
    )
    stopped = ("", "New is refused", "New, Append and growing Replace are refused, nothing is dispatched")[level]
    if disk["spent"]:
        stopped = "nothing can be logged: make room"
    return f"[bold red]{line}: {disk['cause']}; {stopped}[/]" if level else line


@click.group()
def clock() -> None:
    """The pipe's clock after a leap of the machine's."""


@clock.command()
@with_door
def accept(config: Path | None, admin: str | None, as_json: bool) -> None:
    """The wall clock is right, however far it leapt: log time follows it, and dispatch goes on."""
    facts = ask(config, admin, "clock.accept", {"who": getpass.getuser()})
    show_facts(as_json, facts, lambda _: click.echo("accepted: log time follows the wall clock, what is due goes on"))


@click.group()
def sessions() -> None:
    """Live sessions: list, show, why, export, kick, park, cancel, pause, resume, delete."""


@sessions.command("list")
@with_door
@click.option("--state", type=click.Choice(["open", "stored", "repeating", "parked"]))
@click.option("--kind", help="name or number", shell_complete=kinds_of)
@click.option("--why", type=click.Choice(list(REASONS), case_sensitive=False), help="only what waits for this reason")
@click.option("--group-by", type=click.Choice(["error"]), help="count those whose last run failed, by kind and error")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="without --group-by")
def list_(
    config: Path | None,
    admin: str | None,
    as_json: bool,
    state: str | None,
    kind: str | None,
    why: str | None,
    group_by: str | None,
    limit: int,
) -> None:
    """Live sessions by index, each with the one reason why it is not running."""
    asked = (("state", state), ("kind", kind), ("why", why), ("failed", group_by == "error"))
    arguments: dict[str, Any] = {name: value for name, value in asked if value}
    if group_by:
        groups = _by_error(_pages(config, admin, arguments))
        show_facts(as_json, {"groups": groups}, _groups_text)
        return
    found: list[dict[str, Any]] = []
    while True:
        page = ask(config, admin, "sessions.list", arguments | {"limit": min(PAGE, limit - len(found))})
        found.extend(page["sessions"])
        if not page["more"] or len(found) >= limit:
            break
        arguments["after"] = page["after"]
    show_facts(as_json, {"sessions": found, "more": page["more"], "live": page["live"]}, _list_text)


def _pages(config: Path | None, admin: str | None, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All sessions of a list, however many."""
    while True:
        page = ask(config, admin, "sessions.list", arguments | {"limit": PAGE})
        yield from page["sessions"]
        if not page["more"]:
            return
        arguments = arguments | {"after": page["after"]}


def _by_error(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sessions counted by kind and fingerprint of their last error, the most first; each group with one of them."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for session in found:
        group = groups.setdefault(
            (session["kind"], session["fingerprint"]),
            {name: session[name] for name in ("kind", "fingerprint", "error", "message")}
            | {"sessions": 0, "oldest_age_ms": 0, "example": session["id"]},
        )
        group["sessions"] += 1
        group["oldest_age_ms"] = max(group["oldest_age_ms"], session["age_ms"])
    return sorted(groups.values(), key=lambda group: -group["sessions"])


def _groups_text(facts: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("sessions", "kind", "fingerprint", "oldest", "for example", "error", box=SIMPLE, padding=(0, 1, 0, 0))
    for group in facts["groups"]:
        age = f"{group['oldest_age_ms'] / 1000:.1f} s"
        columns = (str(group["sessions"]), group["kind"], group["fingerprint"], age, group["example"])
        table.add_row(*columns, Text(group["message"]))  # what somebody's handler said is no markup
    Console().print(table)


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
@with_door
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

    show_facts(as_json, facts, text)


@sessions.command("why")
@with_door
@click.argument("session", type=_Id())
def why_(config: Path | None, admin: str | None, as_json: bool, session: str) -> None:
    """Why a session is not running: one sentence, and what to do."""
    facts = ask(config, admin, "sessions.show", {"id": session})
    said, todo = sentence(facts)
    told = {name: facts[name] for name in ("id", "kind", "state", "why", "detail")} | {"sentence": said, "todo": todo}
    show_facts(as_json, told, lambda _: click.echo(f"{said}\n{todo}"))


@sessions.command()
@with_door
@click.argument("session", type=_Id())
@click.option("--records", is_flag=True, help="the records too, in base64: they are your users' data")
@click.option("--data", type=click.Path(path_type=Path), help="data directory of a pipe that is stopped")
def export(
    config: Path | None, admin: str | None, as_json: bool, session: str, records: bool, data: Path | None
) -> None:
    """Everything known of one session as one JSON document, for a bug report."""
    if data is not None:
        facts = _export_stopped(str(data), session, records)
    else:
        facts = _export_running(config, admin, session, records)
    facts["as_of"]["wall_time"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    click.echo(json.dumps(facts, ensure_ascii=False, indent=2))


def _export_running(config: Path | None, admin: str | None, session: str, records: bool) -> dict[str, Any]:
    from mpy6a.export import put_records

    address = admin or load_pipe(find_pipe_config(config, os.environ, Path.cwd())).admin
    with Operator(address) as operator:
        for _ in range(EXPORT_TRIES):
            facts: dict[str, Any] = operator.request("sessions.export", {"id": session})
            if not records:
                return facts
            image, data = facts["session"], b""
            while len(data) < image["bytes"]:
                page: dict[str, Any] = operator.request("sessions.export", {"id": session, "from": len(data)})
                if page["change"] != image["change"]:
                    break  # it went on meanwhile: a document is of one moment
                data += base64.b64decode(page["base64"])
            else:
                put_records(facts, data)
                return facts
    raise Refused(f"{session} changes while it is read: try again, or without --records")


def _export_stopped(directory: str, session: str, records: bool) -> dict[str, Any]:
    from mpy6a.checkpoint.stopped import stopped_pipe
    from mpy6a.export import document, put_records
    from mpy6a.files import OsFiles

    wanted = SessionId.parse(session)
    with stopped_pipe(OsFiles(), directory) as (state, read):
        found = state.session(wanted.term, wanted.index) if wanted.pipe == state.pipe else None
        if found is None:
            raise NoSuchSession(f"no live session {session} in {directory}: it is finished, or never was")
        facts = document(state, found, "directory", None)
        if records:
            put_records(facts, b"".join(state.sessions.records(found, read)))
        return facts


def _word(name: str, sentence: str) -> click.Command:
    @with_door
    @click.argument("session", type=_Id())
    @click.option("--reason", default="", help="why; logged with your name")
    def word(
        config: Path | None, admin: str | None, as_json: bool, session: str, reason: str, until: int = 0
    ) -> None:
        arguments: dict[str, Any] = {"id": session, "who": getpass.getuser(), "reason": reason}
        if until:
            arguments["for_ms"] = until
        facts = ask(config, admin, f"sessions.{name}", arguments)
        show_facts(as_json, facts, lambda facts: click.echo(f"{facts['id']}: {name} is logged"))

    if name == "pause":
        word = click.option("--until", type=Until(), help=f"of one that is stored: {ENDS}")(word)
    return click.command(name, help=sentence)(word)


sessions.add_command(_word("pause", "Do not repeat a session until it is resumed; what runs goes on."))
sessions.add_command(_word("resume", "Repeat a paused session again when it is due."))
sessions.add_command(_word("kick", "Have a stored or parked session repeated now; its charges are forgotten."))
sessions.add_command(_word("delete", "Delete a session for good; whoever writes it is fenced."))
sessions.add_command(_word("park", "Park a session until it is kicked; whoever writes it is fenced."))
sessions.add_command(_word("cancel", "Have the handler roll a session back: repeated now with `cancel` set."))
