"""`mpy6a kinds`: what each kind has to do, and pausing and resuming it."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mpy6a import limits
from mpy6a.commands.operators import ask, kinds_table, show_facts, with_door
from mpy6a.config.values import parse_duration


class _Until(click.ParamType):  # type: ignore[type-arg]  # subscripting it fails before click 8.4
    """A duration from now or a time, as ms from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        for_ms = parse_duration(value)
        if for_ms is None:
            try:
                at = datetime.fromisoformat(value)
            except ValueError:
                self.fail(f"{value!r}: allowed is a duration such as 90s or 2h30m, or a time such as 2026-12-01T06:00Z")
            if at.tzinfo is None:
                self.fail(f"{value!r}: say its zone too, as in {value}Z")
            for_ms = int((at - datetime.now(UTC)).total_seconds() * 1000)
        if not 0 < for_ms <= limits.DURATION_MS_MAX:
            self.fail(f"{value!r}: it has to lie ahead, by {limits.DURATION_MS_MAX // 86_400_000} days at most")
        return for_ms


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
    @click.argument("kind", nargs=-1)
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
        ends = "when it ends by itself: from now (90s, 2h30m), or a time with its zone (2026-12-01T06:00+01:00)"
        word = click.option("--until", type=_Until(), help=ends)(word)
    return click.command(name, help=sentence)(word)


kinds.add_command(
    _word("pause", "Dispatch no session of these kinds until they are resumed; what runs goes on.", "every kind")
)
kinds.add_command(_word("resume", "Dispatch these kinds again; what is due goes first.", "every kind that is paused"))
