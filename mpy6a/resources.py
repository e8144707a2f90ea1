"""Where the files that ship beside the code are: schemas and example configs.

In a wheel they lie inside the package (`mpy6a/_schemas`, `mpy6a/_configs`), in a checkout at its top level.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def schema(name: str) -> Path:
    """The path of a file of `schemas/`, such as `wire.capnp`; FileNotFoundError says what is there."""
    return _find("schemas", name)


def config(name: str) -> Path:
    """The path of a file of `configs/`, such as `pipe.yaml`; FileNotFoundError says what is there."""
    return _find("configs", name)


def _find(folder: str, name: str) -> Path:
    # pip always unpacks wheels, and Cap'n Proto wants a real path to resolve the imports of a schema: a
    # package inside a zip archive is not supported.
    root = _PACKAGE / f"_{folder}"
    if not root.is_dir():
        root = _PACKAGE.parent / folder
    path = root / name
    if not path.is_file():
        there = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
        raise FileNotFoundError(
            f"{path} is missing; there is {', '.join(there) or 'nothing'} beside it: install mpy6a again"
        )
    return path
