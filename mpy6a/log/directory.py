"""Know a data directory: whose log it is, which segments it holds, and that nobody else is at it.

DIR/pipe.json               identity: {"format": 1, "pipe": 1, "log": "<uuid as 32 hex>"}
DIR/lock                    flock of the one pipe that runs here; its pid inside
DIR/backup.lock             flock of a backup that is being taken: no segment is used again meanwhile
DIR/log/<16 hex>.seg        segment of that number
DIR/log/spare-<16 hex>.seg  a file to become a segment; its content means nothing
DIR/log/spare-<16 hex>.tmp  one being filled; removed at opening
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Final

from mpy6a.errors import CannotStart, DamagedLog, FormatVersion
from mpy6a.files import Files, Lock, Locked, write_atomically
from mpy6a.framing import (
    FORMAT_VERSION,
    SEGMENT_HEADER_BYTES,
    OtherVersion,
    SegmentHeader,
    decode_segment_header,
)

_SEGMENT: Final = re.compile(r"([0-9a-f]{16})\.seg")
_SPARE: Final = re.compile(r"spare-([0-9a-f]{16})\.(seg|tmp)")
_IDENTITY_BYTES_MAX: Final = 4096


class DamagedAt(DamagedLog):
    """Damage, and where: segment, byte offset in it, index of the first entry in doubt (None: not known)."""

    def __init__(self, path: str, offset: int, index: int | None, what: str) -> None:
        where = f"{path} at byte {offset}" + (f" (index {index})" if index is not None else "")
        super().__init__(f"{where}: {what}; run `mpy6a log verify`, then restore a backup or repair")
        self.path, self.offset, self.index, self.what = path, offset, index, what


@dataclass(frozen=True, slots=True)
class Identity:
    """What pipe.json says."""

    pipe: int
    log: bytes  # 16 B uuid


@dataclass(frozen=True, slots=True)
class Listing:
    """What the log directory holds, each ascending."""

    segments: tuple[int, ...]
    spares: tuple[int, ...]
    unfinished: tuple[int, ...]  # spares being filled when the process ended


def segments_dir(directory: str) -> str:
    return os.path.join(directory, "log")


def segment_path(directory: str, number: int) -> str:
    return os.path.join(directory, "log", f"{number:016x}.seg")


def spare_path(directory: str, number: int, *, unfinished: bool = False) -> str:
    return os.path.join(directory, "log", f"spare-{number:016x}.{'tmp' if unfinished else 'seg'}")


def identity_path(directory: str) -> str:
    return os.path.join(directory, "pipe.json")


def lock_path(directory: str) -> str:
    return os.path.join(directory, "lock")


def backup_lock_path(directory: str) -> str:
    return os.path.join(directory, "backup.lock")


def take_lock(files: Files, directory: str) -> Lock:
    """Keep every other pipe out of the directory. Raises CannotStart, naming who is in."""
    try:
        return files.lock(lock_path(directory))
    except Locked as error:
        who = f"process {error.pid}" if error.pid else "another process"
        raise CannotStart(f"{directory} is in use by {who}: stop that pipe, or give this one its own `data:`") from None
    except OSError as error:
        raise CannotStart(
            f"cannot lock {lock_path(directory)} ({error.strerror}): make {directory} writable for this user"
        ) from error


def read_identity(files: Files, directory: str) -> Identity | None:
    """What pipe.json says; None if there is none. Raises FormatVersion, DamagedLog."""
    path = identity_path(directory)
    if not files.exists(path):
        return None
    file = files.open(path, write=False)
    try:
        text = file.read(_IDENTITY_BYTES_MAX, 0)
    finally:
        file.close()
    try:
        found = json.loads(text)
        version = found["format"]
        if version == FORMAT_VERSION:
            identity = Identity(int(found["pipe"]), bytes.fromhex(found["log"]))
            if len(identity.log) == 16:
                return identity
    except (ValueError, KeyError, TypeError):
        version = None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise FormatVersion(
            f"{path} has format {version}, this release reads format {FORMAT_VERSION}: use a release that reads it"
        )
    raise DamagedLog(f"{path} is damaged: restore it from a backup")


def write_identity(files: Files, directory: str, identity: Identity) -> None:
    """Make the directory this pipe's; durable when it returns."""
    text = json.dumps({"format": FORMAT_VERSION, "pipe": identity.pipe, "log": identity.log.hex()}) + "\n"
    write_atomically(files, identity_path(directory), text.encode())


def list_log(files: Files, directory: str) -> Listing:
    """The files of the log directory; other names are left alone."""
    segments: list[int] = []
    spares: list[int] = []
    unfinished: list[int] = []
    path = segments_dir(directory)
    for name in files.list(path) if files.exists(path) else []:
        if match := _SEGMENT.fullmatch(name):
            segments.append(int(match[1], 16))
        elif match := _SPARE.fullmatch(name):
            (spares if match[2] == "seg" else unfinished).append(int(match[1], 16))
    return Listing(tuple(sorted(segments)), tuple(sorted(spares)), tuple(sorted(unfinished)))


def read_segment_header(files: Files, directory: str, identity: Identity | None, number: int) -> SegmentHeader:
    """The header of a segment, held against its name, its size and its log (if known).

    Raises DamagedLog, FormatVersion.
    """
    path = segment_path(directory, number)
    file = files.open(path, write=False)
    try:
        block, size = file.read(SEGMENT_HEADER_BYTES, 0), file.size()
    finally:
        file.close()
    try:
        header = decode_segment_header(block)
    except OtherVersion as error:
        raise FormatVersion(
            f"{path} has {error}, this release reads {FORMAT_VERSION}: use a release that reads it"
        ) from None
    if header is None:
        raise damaged(path, 0, None, "no valid segment header")
    if identity is not None and header.log != identity.log:
        raise damaged(path, 0, header.first_index, f"it belongs to another log ({header.log.hex()})")
    if header.number != number:
        raise damaged(path, 0, header.first_index, f"its header is that of segment {header.number}")
    if header.segment_bytes != size:
        raise damaged(path, size, header.first_index, f"it has {size} of {header.segment_bytes} bytes")
    return header


def read_headers(files: Files, directory: str, identity: Identity, listing: Listing) -> list[SegmentHeader]:
    """The headers of all segments, ascending and without a gap. Raises DamagedLog naming what is missing."""
    if not listing.segments:
        raise damaged(segments_dir(directory), 0, None, "the log has no segment left")
    headers: list[SegmentHeader] = []
    for number in listing.segments:
        header = read_segment_header(files, directory, identity, number)
        if headers and number != headers[-1].number + 1:
            missing = segment_path(directory, headers[-1].number + 1)
            raise damaged(missing, 0, None, f"the segment is missing, {segment_path(directory, number)} is there")
        if headers and header.first_index < headers[-1].first_index:
            raise damaged(segment_path(directory, number), 0, header.first_index, "its indexes go back")
        headers.append(header)
    return headers


def damaged(path: str, offset: int, index: int | None, what: str) -> DamagedAt:
    """The error for a place in the log that cannot be a tear."""
    return DamagedAt(path, offset, index, what)
