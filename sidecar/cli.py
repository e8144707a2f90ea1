"""The command `mpy6a-sidecar [CONFIG]`: runs one sidecar until SIGTERM.

Exit codes (interfaces): 0 stopped, 2 usage or config, 3 cannot start. Every error is one sentence on stderr.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

import sidecar
from mpy6a import journal
from mpy6a.errors import CannotStart, ConfigError
from mpy6a.exits import EXIT_CANNOT_START, EXIT_USAGE
from mpy6a.version import __version__

VARIABLE: Final = "MPY6A_SIDECAR_CONFIG"
LOCAL: Final = "sidecar.yaml"
LEVELS: Final = ["debug", "info", "warning", "error"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.version_option(__version__, prog_name="mpy6a-sidecar")
def command(config: Path | None, log_format: str, log_level: str) -> None:
    """Run the sidecar of CONFIG (default: $MPY6A_SIDECAR_CONFIG, then ./sidecar.yaml) until SIGTERM."""
    from mpy6a.config import load_sidecar  # late: --help and --version need none of it
    from sidecar.runner import serve

    journal.start(log_format, log_level)
    os.environ["MPY6A_LOG_FORMAT"], os.environ["MPY6A_LOG_LEVEL"] = log_format, log_level  # for the child
    path = find_config(config, os.environ, Path())
    settings = load_sidecar(path)
    gc.collect()
    gc.freeze()
    serve(settings, path)


def find_config(argument: Path | None, environ: Mapping[str, str], here: Path) -> Path:
    """Which sidecar.yaml is meant: the argument, the variable, or the one here. Raises ConfigError."""
    if argument is not None:
        return here / argument
    if environ.get(VARIABLE):
        return here / environ[VARIABLE]
    if (here / LOCAL).is_file():
        return here / LOCAL
    raise ConfigError(
        f"no config: give a file, set ${VARIABLE}, or run this where {LOCAL} is; `mpy6a init` writes one, and"
        " `mpy6a dev HANDLERS.py` needs none"
    )


def main() -> None:
    """Entry point of `mpy6a-sidecar`."""
    if getattr(sidecar, "MPY6A", False) is not True:
        click.echo(
            f"mpy6a-sidecar: {sidecar.__file__} belongs to another package that is also called `sidecar`: uninstall it"
            " (`pip uninstall sidecar`), then install mpy6a again",
            err=True,
        )
        sys.exit(EXIT_CANNOT_START)
    try:
        command(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        sys.exit(EXIT_USAGE)
    except click.Abort:
        sys.exit(130)
    except ConfigError as problem:
        click.echo(f"mpy6a-sidecar: {problem}", err=True)
        sys.exit(EXIT_USAGE)
    except CannotStart as problem:
        click.echo(f"mpy6a-sidecar: {problem}", err=True)
        sys.exit(EXIT_CANNOT_START)
