"""`mpy6a sql`: one read-only question to the checkpoint of a pipe, as a table or as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpy6a import limits
from mpy6a.errors import CannotStart
from mpy6a.exits import EXIT_FOUND_BAD, EXIT_USAGE

if TYPE_CHECKING:
    from mpy6a.checkpoint.asking import Answer, Cell
    from mpy6a.checkpoint.header import CheckpointHeader

EXAMPLES = (
    "SELECT id, kind, state, due, repeats FROM live LIMIT 20",
    "SELECT kind, state, count(*) AS sessions, sum(bytes) AS bytes FROM live GROUP BY kind, state",
    "SELECT id, park_reason FROM live WHERE state = 'PARKED'",
)
_HALF_WAY = "timed out and did not end by itself: the command ended, and the file is free again"


@click.command()
@click.argument("statement", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="the pipe's data directory, instead of a config")
@click.option("--config", type=click.Path(path_type=Path), help="pipe.yaml that names it [$MPY6A_CONFIG, ./pipe.yaml]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--limit", type=click.IntRange(1, limits.SQL_ROWS_MAX), default=limits.SQL_ROWS, show_default=True)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.01, limits.SQL_TIMEOUT_MAX_MS / 1000),
    default=limits.SQL_TIMEOUT_MS / 1000,
    show_default=True,
    help="seconds; while it runs the checkpoint's journal cannot be emptied",
)
def sql(
    statement: str | None, data: Path | None, config: Path | None, as_json: bool, limit: int, timeout_s: float
) -> None:
    """Ask the checkpoint of a pipe, running or stopped, with one SELECT.

    It answers as of the last checkpoint, and says as of when: what changed since is in the pipe's memory and its log.
    Without a statement: the tables, and some examples.
    """
    from mpy6a.checkpoint.asking import StatementRefused, ask, tables

    if statement is None:
        _show_tables(tables(), as_json)
        return
    if data is None:
        from mpy6a.config import find_pipe_config, load_pipe

        data = load_pipe(find_pipe_config(config, os.environ, Path.cwd())).data
    if not (data / "pipe.json").exists():
        raise CannotStart(f"there is no {data / 'pipe.json'}: name the directory that `data:` names")
    try:
        answer = ask(str(data), statement, limit, int(timeout_s * 1000), _leave)
    except StatementRefused as problem:
        click.echo(f"mpy6a: {problem}", err=True)
        raise click.exceptions.Exit(EXIT_USAGE) from None
    if as_json:
        click.echo(json.dumps(_values(answer), ensure_ascii=False))
    elif sys.stdout.isatty():
        _print_table(answer)
    else:
        _print_plain(answer)


def _leave() -> None:
    """SQLite does not come back: without this process its transaction is over. Called from a thread."""
    print(f"mpy6a: {_HALF_WAY}", file=sys.stderr, flush=True)
    os._exit(EXIT_FOUND_BAD)


def _show_tables(tables: dict[str, list[str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"tables": tables, "examples": EXAMPLES}, indent=2))
        return
    for name, columns in tables.items():
        click.echo(click.wrap_text(f"{name}: {', '.join(columns)}", width=100, subsequent_indent="    "))
    click.echo("\n`live` is made for reading; what all columns mean: mpy6a/checkpoint/FORMAT.md\n")
    for example in EXAMPLES:
        click.echo(f'mpy6a sql "{example}"')


# ---------------------------------------------------------------------- as JSON


def _values(answer: Answer) -> dict[str, Any]:
    header, names = answer.header, _names(answer.columns)
    return {
        "as_of": {
            "pipe": header.pipe,
            "term": header.term,
            "next_index": header.next_index,
            "log_ms": header.log_ms,
            "log_time": _time(header.log_ms),
            "wall_ms": header.wall_ms,
            "wall_time": _time(header.wall_ms),
            "release": header.release,
        },
        "columns": names,
        "rows": [dict(zip(names, map(_json_value, row), strict=True)) for row in answer.rows],
        "more": answer.more,
        "took_ms": answer.took_ms,
    }


def _names(columns: Sequence[str]) -> list[str]:
    """Names that differ: `id`, `id_2`."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


def _json_value(cell: Cell) -> object:
    if isinstance(cell, bytes):
        return {"hex": cell[: limits.SQL_BLOB_BYTES].hex(), "bytes": len(cell)}
    if isinstance(cell, float) and (cell != cell or cell in (float("inf"), float("-inf"))):
        return str(cell)
    return cell


# ---------------------------------------------------------------------- as a table


def _print_table(answer: Answer) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name, numbers in zip(answer.columns, _numeric(answer), strict=True):
        table.add_column(Text(_visible(name)), justify="right" if numbers else "left", overflow="fold")
    for row in answer.rows:
        table.add_row(*(Text(_text(cell)) for cell in row))
    if answer.columns:
        Console().print(table)
    click.echo(_footer(answer))


def _print_plain(answer: Answer) -> None:
    """Columns as wide as their longest value, a line a row: for pipes and files."""
    numeric = _numeric(answer)
    lines = [[_visible(name) for name in answer.columns], *([_text(cell) for cell in row] for row in answer.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if answer.columns else []:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
    click.echo(_footer(answer))


def _numeric(answer: Answer) -> list[bool]:
    """Which columns hold numbers."""
    return [
        all(isinstance(row[place], (int, float, type(None))) for row in answer.rows)
        for place in range(len(answer.columns))
    ]


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bytes):
        if len(cell) <= limits.SQL_BLOB_BYTES:
            return f"x'{cell.hex()}'"
        return f"x'{cell[: limits.SQL_BLOB_BYTES].hex()}…' ({len(cell)} B)"
    text = str(cell)
    cut = "" if len(text) <= limits.SQL_TEXT_CHARACTERS else f"… ({len(text)} characters)"
    return _visible(text[: limits.SQL_TEXT_CHARACTERS]) + cut


def _visible(text: str) -> str:
    """Whatever clients put into keys and reasons, it moves no cursor and breaks no line."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _footer(answer: Answer) -> str:
    rows = f"{len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'}"
    cut = ", and there are more (--limit)" if answer.more else ""
    return f"{rows}{cut} in {answer.took_ms} ms\n{_as_of(answer.header)}"


def _as_of(header: CheckpointHeader) -> str:
    age_s = time.time() - header.wall_ms / 1000
    return (
        f"pipe {header.pipe} as of log index {header.next_index - 1}, log time {_time(header.log_ms)}; written"
        f" {_time(header.wall_ms)} ({_age(age_s)} ago). Sessions that changed since are in the pipe's memory, and newer"
    )


def _age(seconds: float) -> str:
    for length, unit, until in ((1, "s", 600), (60, "min", 36_000)):
        if abs(seconds) < until:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 3600:.0f} h"


def _time(ms: int) -> str:
    """ISO, UTC, with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
