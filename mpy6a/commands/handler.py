"""`mpy6a handler try KIND`: one push to the handler that the routes name for a kind, without a pipe that runs."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpy6a import limits
from mpy6a.commands.completion import kinds_of
from mpy6a.config import (
    Attached,
    ExecHandler,
    HandlerSpec,
    HttpHandler,
    PythonHandler,
    Route,
    Routes,
    find_pipe_config,
    load_pipe,
    load_routes,
)
from mpy6a.config.problems import shortened, shown
from mpy6a.config.values import parse_duration
from mpy6a.errors import ConfigError
from mpy6a.exits import EXIT_FOUND_BAD
from mpy6a.policy import Policy, nearest
from mpy6a.units import duration_text

if TYPE_CHECKING:
    from mpy6a.commands.trial import Trial


class _Timeout(click.ParamType):  # type: ignore[type-arg]  # subscripting it fails before click 8.4
    """A duration, as ms."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        for_ms = parse_duration(value)
        if for_ms is None or not 0 < for_ms <= limits.DURATION_MS_MAX:
            self.fail(f"{value!r}: allowed is a duration such as 500ms, 30s or 1m30s")
        return for_ms


@click.group()
def handler() -> None:
    """Try the handlers that the routes name."""


@handler.command("try")
@click.argument("kind", shell_complete=kinds_of)
@click.option("--record", "texts", metavar="TEXT", multiple=True, help="A record of the session; may be repeated.")
@click.option(
    "--record-file",
    "files",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A record of what is in FILE, behind those of --record; may be repeated.",
)
@click.option(
    "--routes",
    "routes_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Which routes.yaml [default: that of the pipe's config].",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Which pipe.yaml [default: $MPY6A_CONFIG, then ./pipe.yaml].",
)
@click.option(
    "--path",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where python handlers are looked for, as `path:` of sidecar.yaml [default: beside the routes].",
)
@click.option("--cancel", is_flag=True, help="As after `mpy6a sessions cancel`: the handler is to undo the work.")
@click.option("--timeout", "timeout_ms", type=_Timeout(), help="Of the run [default: that of the kind].")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def try_(
    kind: str,
    texts: tuple[str, ...],
    files: tuple[Path, ...],
    routes_file: Path | None,
    config_file: Path | None,
    path: tuple[Path, ...],
    cancel: bool,
    timeout_ms: int | None,
    as_json: bool,
) -> int:
    """Hand one session of KIND, with these records, to its handler, and tell what the handler did.

    It runs as under a sidecar: in a process of its own, as a POST or as a program, with callbacks, fence and timeout.
    No pipe is asked and nothing is stored; what it does elsewhere, it does. What it prints goes to stderr.

    Exit code 0: the session was finished, or stored or released as the handler said; 1: the handler failed, parked it
    or was not there.
    """
    routes, policy, directory = _routes(routes_file, config_file)
    route = _route(routes, kind)
    if isinstance(route.handler, Attached):
        raise ConfigError(
            f"kind {kind!r} is `attached`: the service serves it itself, with pipe.serve(...), and there is nothing to"
            " start; try its function in a test: `async with mpy6a.testing.pipe(function) as pipe`"
        )
    records = _records(texts, files, policy)
    if timeout_ms is not None:
        route = replace(route, policy=replace(route.policy, timeout_ms=timeout_ms))
    from mpy6a import journal
    from mpy6a.commands.trying import Push, run  # pipe and sidecar: not for `--help`, nor for a wrong KIND

    journal.start("text", "warning")
    os.environ["MPY6A_LOG_FORMAT"], os.environ["MPY6A_LOG_LEVEL"] = "text", "warning"  # of the python handlers' process
    with _stdout_to_stderr():
        trial = run(Push(route, policy, records, cancel, [one.absolute() for one in path] or [directory]))
    good = _is_good(trial)
    if as_json:
        click.echo(json.dumps(_facts(trial, route, len(records), cancel, good), ensure_ascii=False, indent=2))
    else:
        click.echo(_text(trial, route, len(records), cancel))
    return 0 if good else EXIT_FOUND_BAD


def _routes(routes_file: Path | None, config_file: Path | None) -> tuple[Routes, Policy, Path]:
    """The routes, the limits of the pipe, and the directory of the file in which the routes stand."""
    if routes_file is not None:
        if config_file is not None:
            raise click.UsageError("give --routes or --config, not both")
        return load_routes(routes_file), Policy(), routes_file.absolute().parent
    found = find_pipe_config(config_file, os.environ, Path())
    settings = load_pipe(found)
    return settings.routes, settings.policy, (settings.routes.path or found.absolute()).parent


def _route(routes: Routes, kind: str) -> Route:
    if (route := routes.kinds.get(kind)) is not None:
        return route
    near = nearest(kind, routes.kinds)
    meant = f"did you mean {near[0]!r}?" if near else f"there is {shortened(routes.kinds)}"
    raise ConfigError(f"no kind {shown(kind)} in the routes; {meant}")


def _records(texts: tuple[str, ...], files: tuple[Path, ...], policy: Policy) -> list[bytes]:
    """Those of a session that a pipe with these limits takes."""
    records = [text.encode(errors="surrogateescape") for text in texts]  # as the shell gave it
    for file in files:
        try:
            with open(file, "rb") as opened:
                records.append(opened.read(policy.record_bytes_max + 1))
        except OSError as problem:
            raise click.BadParameter(f"{file}: {problem.strerror}", param_hint="--record-file") from None
    if len(records) > policy.session_records_max:
        raise click.UsageError(f"{len(records)} records: a session has at most {policy.session_records_max}")
    for number, record in enumerate(records, 1):
        if len(record) > policy.record_bytes_max:
            raise click.UsageError(f"record {number}: a record has at most {policy.record_bytes_max} bytes")
    if sum(map(len, records)) > policy.session_bytes_max:
        raise click.UsageError(f"all records of a session have at most {policy.session_bytes_max} bytes")
    return records


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What handlers print does not come between the facts: their processes inherit this one's stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _is_good(trial: Trial) -> bool:
    from sidecar.outcomes import EXEC_FAILURES, HTTP_FAILURES

    if trial.outcome != "release":
        return trial.outcome in ("delete", "store")
    # What a sidecar says of a handler that said nothing itself.
    absent = [message for _, message, unreachable in (*HTTP_FAILURES.values(), *EXEC_FAILURES.values()) if unreachable]
    return not trial.message.startswith((*absent, EXEC_FAILURES["lost"][1]))


# ---------------------------------------------------------------------- what is told


def _facts(trial: Trial, route: Route, records: int, cancel: bool, good: bool) -> dict[str, Any]:
    return {
        "kind": route.policy.name,
        "handler": dict([_named(route.handler)]),
        "session": str(trial.session),
        "epoch": trial.epoch,
        "fence": str(trial.fence),
        "records": records,
        "cancel": cancel,
        "operations": [
            {"verb": one.verb, "record": _record(one.record), "at_ms": one.at_ms, "refused": one.refused or None}
            for one in trial.operations
        ],
        "outcome": trial.outcome,
        "message": trial.message,
        "after_ms": trial.after_ms,
        "charged": trial.charged,
        "took_ms": trial.took_ms,
        "good": good,
    }


def _record(record: bytes | None) -> Mapping[str, str] | None:
    if record is None:
        return None
    try:
        return {"text": record.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(record).decode()}


def _text(trial: Trial, route: Route, records: int, cancel: bool) -> str:
    handler = ": ".join(map(str, _named(route.handler)))
    given = f"{records} record{'' if records == 1 else 's'}{', to be cancelled' if cancel else ''}"
    lines = [f"{route.policy.name}, {handler}; session {trial.session}, fence {trial.fence}, {given}"]
    for one in trial.operations:
        written = "" if one.record is None else f" {_shown(one.record)}"
        refused = f", refused: {one.refused}" if one.refused else ""
        lines.append(f"  {one.verb}{written} (after {_seconds(one.at_ms)}{refused})")
    lines.append(f"{_outcome(trial)} ({_seconds(trial.took_ms)})")
    return "\n".join(lines)


def _outcome(trial: Trial) -> str:
    again = "" if trial.after_ms is None else f", again after {duration_text(trial.after_ms)}"
    said = f": {trial.message}" if trial.message else ""
    match trial.outcome:
        case "delete":
            return "delete: the session is finished"
        case "store":
            return f"store{again}"
        case "park":
            return f"park, an operator has to look{said}"
        case "release":
            return f"release, not charged{again}{said}"
        case _:
            return f"fail, charged{again}{said}"


def _named(spec: HandlerSpec) -> tuple[str, object]:
    match spec:
        case PythonHandler():
            return "python", spec.target
        case HttpHandler():
            return "http", spec.url
        case ExecHandler():
            return "exec", list(spec.argv)
        case Attached():
            return "attached", True


def _shown(record: bytes) -> str:
    try:
        return shown(record.decode())
    except UnicodeDecodeError:
        return f"{len(record)} bytes"


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f} s"
