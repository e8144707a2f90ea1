"""Finds the pipe.yaml that a command means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mpy6a.errors import ConfigError

CONFIG_VARIABLE: Final = "MPY6A_CONFIG"
PIPE_FILE: Final = "pipe.yaml"


def find_pipe_config(argument: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The pipe.yaml to use: the argument, else $MPY6A_CONFIG, else pipe.yaml in `cwd`.

    Raises ConfigError, saying how to get one, if there is none. A file that was named is not looked for
    elsewhere, and that it exists shows when it is loaded. With `cwd` as Path() the result, and so every
    problem, stays short.
    """
    if argument is not None:
        return cwd / argument
    if named := environ.get(CONFIG_VARIABLE):
        return cwd / named
    if (beside := cwd / PIPE_FILE).exists():
        return beside
    raise ConfigError(
        f"there is no {PIPE_FILE} here, no file was named, and ${CONFIG_VARIABLE} is not set: "
        "`mpy6a init` writes a configuration to begin with, `mpy6a dev HANDLERS.py` runs without one"
    )
