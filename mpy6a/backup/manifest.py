"""What a backup consists of: `manifest.json`, written last and at once, names every file with its size and checksum.

A file that it does not name is no part of the backup; a directory without it holds none (FORMAT.md).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Final

from mpy6a.errors import CannotStart, Corrupt, FormatVersion
from mpy6a.files import OsFiles, write_atomically

MANIFEST_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
_SUM: Final = "manifest_sha256"
_HASH_BYTES: Final = 1 << 20


class DamagedBackup(Corrupt):
    """A file of the backup is not what its manifest says: use another backup."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the backup."""

    name: str
    role: str  # "identity", "segment" or "checkpoint"
    bytes: int
    sha256: str
    # Of a segment: what stands in it. The file is as long as its frames; the segment is `size` bytes, the rest zeroes.
    number: int = 0
    salt: int = 0
    first_index: int = 0
    next_index: int = 0  # behind its last frame
    chain: int = 0  # of its last frame
    term: int = 0
    log_ms: int = 0
    size: int = 0
    # Of the checkpoint.
    wall_ms: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup."""

    pipe: int
    log: str  # uuid as hex
    first_index: int  # that of the first entry in its segments
    checkpoint_index: int  # the checkpoint holds everything below it; 1: there is none
    last_index: int  # everything up to it is in the backup
    term: int
    log_ms: int
    wall_ms: int  # when it was made
    release: str
    log_format: int
    checkpoint_format: int
    parts: tuple[Part, ...]

    def role(self, role: str) -> list[Part]:
        """The files of a role, in order."""
        return [part for part in self.parts if part.role == role]


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Make this the backup; durable when it returns."""
    values: dict[str, Any] = {"mpy6a_backup": MANIFEST_VERSION, **asdict(manifest)}
    values[_SUM] = _sum_of(values)
    text = json.dumps(values, indent=1) + "\n"
    write_atomically(OsFiles(), os.path.join(directory, MANIFEST_NAME), text.encode())


def read_manifest(directory: str) -> Manifest | None:
    """The backup that is there; None if there is none. Raises DamagedBackup, FormatVersion."""
    path = os.path.join(directory, MANIFEST_NAME)
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotStart(f"cannot read {path} ({error.strerror}): make it readable for this user") from None
    try:
        values = json.loads(text)
        version = values.pop("mpy6a_backup")
        if version == MANIFEST_VERSION:
            said = values.pop(_SUM)
            if said == _sum_of({"mpy6a_backup": version, **values}):
                parts = tuple(Part(**part) for part in values.pop("parts"))
                return Manifest(**values, parts=parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        version = MANIFEST_VERSION
    if isinstance(version, int) and version != MANIFEST_VERSION:
        raise FormatVersion(
            f"{path} has format {version}, this release reads {MANIFEST_VERSION}: use a release that reads it"
        )
    raise DamagedBackup(f"{path} is damaged: use another backup")


def hash_of(path: str) -> tuple[int, str]:
    """(bytes, SHA-256 as hex) of a file."""
    total, digest = 0, hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_HASH_BYTES):
            total += len(data)
            digest.update(data)
    return total, digest.hexdigest()


def _sum_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
