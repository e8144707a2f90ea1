"""`mpy6a config plan`: what a reload of these files would change in a pipe that runs, and whether it would be taken."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from mpy6a.changes import Counts, Setup, changes, refusals
from mpy6a.client.operator import Operator
from mpy6a.commands.operators import show_facts, with_door
from mpy6a.config import Routes, find_pipe_config, load_pipe, load_routes
from mpy6a.config.checking import file_type
from mpy6a.config.problems import Findings
from mpy6a.config.setup import load_setup
from mpy6a.config.yamlfile import read
from mpy6a.entries import decode_policy
from mpy6a.errors import ConfigError, Unavailable
from mpy6a.exits import EXIT_FOUND_BAD

TRIES: Final = 5  # a reload between two pages of what runs: begin anew


@click.command()
@click.argument("new", type=click.Path(path_type=Path))
@with_door
def plan(new: Path, config: Path | None, admin: str | None, as_json: bool) -> None:
    """What `mpy6a reload` would change if NEW were the pipe's pipe.yaml (or routes.yaml): nothing is changed by asking.

    Exit 0: it would be taken; 1: it would be refused; 2: NEW is bad; 4: the pipe cannot be reached.
    """
    findings = Findings()
    document = read(new, findings)
    findings.raise_any()
    assert document is not None, "no document and no problem"
    is_routes = file_type(document) == "routes"
    routes = load_routes(new) if is_routes else None
    setup, places = (None, {}) if is_routes else load_setup(new)
    address = admin or _door(config, setup)
    before, live, left = _running(address)
    if routes is not None:
        after = _with_routes(before, routes)
        unknown = _without_address(after, new)
    else:
        assert setup is not None
        after, unknown = setup, []

    def counts(number: int) -> Counts:
        return live.get(number, Counts())

    told = list(changes(before, after, counts))
    refused = [*refusals(before, after, counts, left, places), *unknown]
    show_facts(as_json, {"taken": not refused, "changes": told, "refused": refused}, _text)
    if refused:
        raise click.exceptions.Exit(EXIT_FOUND_BAD)


def _door(config: Path | None, setup: Setup | None) -> str:
    """As every command finds it; NEW's own where there is no other."""
    try:
        path = find_pipe_config(config, os.environ, Path())
    except ConfigError:
        if setup is None:
            raise
        return setup.fixed["admin"]
    return load_pipe(path).admin


def _running(address: str) -> tuple[Setup, dict[int, Counts], dict[int, str]]:
    """What the pipe runs with, its live sessions by kind, and the names of kinds that left."""
    with Operator(address) as operator:
        for _ in range(TRIES):
            first: dict[str, Any] = operator.request("config.show")
            body = page = base64.b64decode(first["base64"])
            while page and len(body) < first["bytes"]:
                more: dict[str, Any] = operator.request("config.show", {"from": len(body)})
                page = base64.b64decode(more["base64"]) if more["version"] == first["version"] else b""
                body += page
            if len(body) == first["bytes"]:
                live = {int(number): Counts(*counts) for number, counts in first["live"].items()}
                left = {int(number): name for number, name in first["left"].items()}
                setup = Setup(decode_policy(body), first["sidecars"], first["values"], first["fixed"])
                return setup, live, left
    raise Unavailable("the pipe is reloaded while it is asked: try again")


def _with_routes(before: Setup, routes: Routes) -> Setup:
    kinds = {route.policy.id: route.policy for route in routes.kinds.values()}
    return replace(before, policy=replace(before.policy, kinds=kinds, orphans=routes.orphans))


def _without_address(after: Setup, new: Path) -> list[str]:
    """What pipe.yaml would have to say beside new routes."""
    named = {name for kind in after.policy.kinds.values() for name in kind.sidecars}
    missing = sorted(named - after.sidecars.keys())
    return [f"{new}: sidecar {name} has no address in the pipe's `sidecars:`" for name in missing]


def _text(facts: dict[str, Any]) -> None:
    for change in facts["changes"]:
        click.echo(change)
    for why in facts["refused"]:
        click.echo(f"refused: {why}", err=True)
    if not facts["taken"]:
        click.echo("a reload would be refused, and change nothing", err=True)
    elif not facts["changes"]:
        click.echo("no change")
