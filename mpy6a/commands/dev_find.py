"""Finds the functions marked with @mpy6a.handler in a file, in a process of its own: `mpy6a dev` runs no user's code.

`find` asks; `python -m mpy6a.commands.dev_find FILE DESCRIPTOR` is what it starts.
"""

from __future__ import annotations

import importlib
import json
import keyword
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from mpy6a.errors import BadRequest, ConfigError

TIMEOUT_S: Final = 30  # to import the file


class Found(NamedTuple):
    """A marked function: its kind (name or number) and its name in the file."""

    kind: str | int
    function: str


def find(path: Path, environment: Mapping[str, str]) -> tuple[Found, ...]:
    """The marked functions of the file, in its order. Raises ConfigError with one sentence that says what to do."""
    if not path.is_file():
        raise ConfigError(f"{path} is not there: give the Python file with your handlers; `mpy6a init` writes one")
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise ConfigError(f"{path}: Python cannot import a file of that name; one like handlers.py it can")
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as answer:
        try:
            command = [sys.executable, "-m", __name__, str(path.resolve()), str(write_end)]
            subprocess.run(
                command,
                env=environment,
                pass_fds=[write_end],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"{path}: importing it takes more than {TIMEOUT_S} s; what it does beyond its definitions belongs under"
                ' `if __name__ == "__main__":`'
            ) from None
        finally:
            os.close(write_end)
        text = answer.read()
    told = json.loads(text) if text else {"problem": "importing it ended the process"}
    if "problem" in told:
        raise ConfigError(f"{path}: {told['problem']}")
    return _checked(path, [Found(*one) for one in told["found"]])


def _checked(path: Path, found: list[Found]) -> tuple[Found, ...]:
    if not found:
        raise ConfigError(f"{path}: no handler in it; put @mpy6a.handler(kind) above the function that finishes a kind")
    first: dict[str | int, str] = {}
    for kind, function in found:
        if kind in first:
            raise ConfigError(
                f"{path}: {first[kind]} and {function} are both marked for the kind {kind!r}; a kind has one handler"
            )
        first[kind] = function
    return tuple(found)


def main() -> None:
    """In the child: imports the file, and writes what is marked in it, or what is wrong, as JSON."""
    path, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    with open(descriptor, "w") as answer:
        json.dump(_told(path), answer)


def _told(path: Path) -> dict[str, object]:
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except SyntaxError as error:
        return {"problem": f"line {error.lineno} of {Path(error.filename or path).name}: {error.msg}"}
    except BaseException as error:  # noqa: BLE001 -- whatever the file raises, SystemExit too, is the answer
        return {"problem": _sentence(path, error)}
    if Path(module.__file__ or "").resolve() != path:
        return {"problem": f"there is another module {path.stem!r} ({module.__file__}): rename the file"}
    return {"found": _marked(vars(module))}


def _sentence(path: Path, error: BaseException) -> str:
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}importing it raised {type(error).__name__}: {str(error)[:300]}"


def _marked(names: Mapping[str, object]) -> list[Found]:
    from mpy6a.client.handlers import read

    found: list[Found] = []
    seen: set[int] = set()
    for name, value in names.items():
        if not callable(value) or id(value) in seen:  # a second name for the same function
            continue
        try:
            kind = read(value).kind
        except BadRequest:
            continue  # not marked
        seen.add(id(value))
        found.append(Found(kind, name))
    return found


if __name__ == "__main__":
    main()
