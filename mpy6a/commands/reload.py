"""`mpy6a reload`: have the pipe read its files anew, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from mpy6a.commands.operators import ask, show_facts, with_door
from mpy6a.exits import EXIT_FOUND_BAD, EXIT_USAGE

TIMEOUT_S: Final = 60.0  # more than the pipe gives to the reading
SIDECARS: Final = "sidecars read their own files: send each SIGHUP whose kinds or handlers have changed"


@click.command()
@with_door
def reload(config: Path | None, admin: str | None, as_json: bool) -> None:
    """Have the pipe read its pipe.yaml and routes.yaml anew: they are taken whole, or nothing changes."""
    facts = ask(config, admin, "config.reload", {}, timeout_s=TIMEOUT_S)
    show_facts(as_json, facts, _text)
    if facts.get("problems"):
        raise click.exceptions.Exit(EXIT_USAGE)
    if not facts["taken"]:
        raise click.exceptions.Exit(EXIT_FOUND_BAD)


def _text(facts: dict[str, Any]) -> None:
    for problem in facts.get("problems", ()):
        click.echo(problem["text"], err=True)
    for why in facts.get("refused", ()):
        click.echo(f"refused: {why}", err=True)
    if not facts["taken"]:
        click.echo("nothing has changed", err=True)
        return
    for change in facts["changes"]:
        click.echo(change)
    if facts["more"]:
        click.echo("and more")
    click.echo(f"reloaded; {SIDECARS}" if facts["changes"] else f"no change; {SIDECARS}")
