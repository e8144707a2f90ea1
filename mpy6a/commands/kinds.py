"""`mpy6a kinds`: what each kind has to do, and pausing and resuming it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click

from mpy6a.commands.completion import kinds_of
from mpy6a.commands.operators import ask, kinds_table, show_facts, with_door
from mpy6a.commands.until import ENDS, Until


@click.group()
def kinds() -> None:
    """Kinds of sessions: list, pause, resume."""


@kinds.command("list")
@with_door
def list_(config: Path | None, admin: str | None, as_json: bool) -> None:
    """Every kind: live sessions by state, what is ready, and who paused it."""

    def text(facts: dict[str, Any]) -> None:
        from rich.console import Console

        Console().print(kinds_table(facts["kinds"]))

    show_facts(as_json, ask(config, admin, "kinds.list", {}), text)


def _word(name: str, sentence: str, all_: str) -> click.Command:
    @with_door
    @click.argument("kind", nargs=-1, shell_complete=kinds_of)
    @click.option("--all", "everything", is_flag=True, help=all_)
    @click.option("--reason", default="", help="why; logged with your name")
    def word(
        config: Path | None,
        admin: str | None,
        as_json: bool,
        kind: tuple[str, ...],
        everything: bool,
        reason: str,
        until: int = 0,
    ) -> None:
        if bool(kind) is everything:
            raise click.UsageError("name kinds, or say --all")
        named = kind
        if everything:
            known = ask(config, admin, "kinds.list", {})["kinds"]
            named = tuple(str(one["kind"]) for one in known if (one["paused"] is None) is (name == "pause"))
        arguments: dict[str, Any] = {"who": getpass.getuser(), "reason": reason}
        if until:
            arguments["for_ms"] = until
        done = [ask(config, admin, f"kinds.{name}", {"kind": one, **arguments}) for one in named]

        def text(_: dict[str, Any]) -> None:
            click.echo(f"{name} is logged: {', '.join(named)}" if named else f"nothing to {name}")

        show_facts(as_json, {"kinds": done}, text)

    if name == "pause":
        word = click.option("--until", type=Until(), help=ENDS)(word)
    return click.command(name, help=sentence)(word)


kinds.add_command(
    _word("pause", "Dispatch no session of these kinds until they are resumed; what runs goes on.", "every kind")
)
kinds.add_command(_word("resume", "Dispatch these kinds again; what is due goes first.", "every kind that is paused"))
