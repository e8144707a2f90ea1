"""`mpy6a init`, `mpy6a config` and `mpy6a version`: what needs no running pipe."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mpy6a.errors import CannotStart
from mpy6a.exits import EXIT_USAGE
from mpy6a.resources import config as config_file
from mpy6a.version import __version__

if TYPE_CHECKING:
    from mpy6a.config.checking import FileType

INIT_FILES = ("pipe.yaml", "routes.yaml", "sidecar.yaml", "handlers.py")
SCHEMAS = Path(".mpy6a")  # where the first line of init's files has an editor look
FILE_TYPES: Final[tuple[FileType, ...]] = ("pipe", "routes", "sidecar")


@click.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path))
def init(directory: Path) -> None:
    """Write three commented config files and a handler that works into DIRECTORY; nothing is overwritten."""
    there = [name for name in INIT_FILES if (directory / name).exists()]
    if there:
        raise CannotStart(f"{directory}: {', '.join(there)} there already; choose an empty directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in INIT_FILES:
            (directory / name).write_bytes(config_file(f"init/{name}").read_bytes())
        _write_schemas(directory / SCHEMAS, FILE_TYPES)
    except OSError as problem:
        raise CannotStart(f"{directory}: {problem.strerror}; choose a directory you may write to") from None
    click.echo(f"wrote {', '.join(INIT_FILES)} to {directory}")
    click.echo("next, each in a terminal there: mpy6a serve · mpy6a-sidecar · python handlers.py Ada")


class _Config(click.Group):
    """`plan` asks the pipe: what that takes is imported only then."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "plan"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "plan":
            return super().get_command(ctx, cmd_name)
        from mpy6a.commands.plan import plan

        return plan


@click.group(cls=_Config)
def config() -> None:
    """Check config files, say what they would change, and have an editor check them."""


@config.command()
@click.argument("file", required=False, type=click.Choice(FILE_TYPES))
@click.option(
    "--write",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write FILE.schema.json into DIR, of all three files if none is named.",
)
def schema(file: FileType | None, directory: Path | None) -> None:
    """Print the JSON Schema of pipe.yaml, routes.yaml or sidecar.yaml, for an editor.

    An editor that speaks with yaml-language-server takes it from the first line of the file:
    # yaml-language-server: $schema=pipe.schema.json
    """
    if directory is not None:
        try:
            written = _write_schemas(directory, FILE_TYPES if file is None else (file,))
        except OSError as problem:
            raise CannotStart(f"{directory}: {problem.strerror}; name a directory you may write to") from None
        click.echo(f"wrote {', '.join(map(str, written))}")
    elif file is None:
        raise click.UsageError(f"name one of {', '.join(FILE_TYPES)}, or a directory with --write")
    else:
        click.echo(_schema_text(file), nl=False)


def _write_schemas(directory: Path, files: tuple[FileType, ...]) -> list[Path]:
    """Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{file}.schema.json" for file in files]
    for file, path in zip(files, paths, strict=True):
        path.write_text(_schema_text(file), encoding="utf-8")
    return paths


def _schema_text(file: FileType) -> str:
    from mpy6a.config.jsonschema import schema_of

    return json.dumps(schema_of(file), ensure_ascii=False, indent=2) + "\n"


@config.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Check pipe.yaml, routes.yaml or sidecar.yaml: all errors at once, each with file, line and key."""
    from mpy6a.config import check as check_files

    problems = check_files(files)
    if as_json:
        facts = [{name: getattr(p, name) for name in ("file", "line", "key", "found", "allowed")} for p in problems]
        click.echo(json.dumps({"problems": facts}, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            click.echo(str(problem), err=True)
    if problems:
        raise click.exceptions.Exit(EXIT_USAGE)
    if not as_json:
        click.echo(f"{', '.join(map(str, files))}: fine")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def version(as_json: bool) -> None:
    """Releases, formats and protocol versions."""
    import capnp
    import zmq

    from mpy6a.framing import FORMAT_VERSION
    from mpy6a.welcome import PROTOCOL_VERSION

    facts = {
        "mpy6a": __version__,
        "protocol": PROTOCOL_VERSION,
        "log_format": FORMAT_VERSION,
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "pycapnp": capnp.__version__,
    }
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{n} {v}" for n, v in facts.items()))
