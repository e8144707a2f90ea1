"""Bring a data directory to the point where its log can be used: identity, segments, tail.

Everything is checked before anything is written; and everything that has to be written (FORMAT.md,
"Opening") is durable before the log is handed out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from mpy6a.errors import CannotStart, ConfigError, DamagedLog, DiskFailed
from mpy6a.files import File, Files, Lock
from mpy6a.framing import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header
from mpy6a.limits import FIRST_SEGMENT_BYTES
from mpy6a.log.directory import (
    Identity,
    damaged,
    identity_path,
    list_log,
    read_headers,
    read_identity,
    read_segment_header,
    segment_path,
    segments_dir,
    take_lock,
    write_identity,
)
from mpy6a.log.reading import SegmentReader
from mpy6a.log.recovery import Tail, find_tail, restore_tail
from mpy6a.log.spares import Spares

Draw = Callable[[int], bytes]  # that many random bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A log that is whole up to `tail` and durable."""

    identity: Identity
    headers: list[SegmentHeader]
    file: File  # the last segment's
    tail: Tail
    spares: Spares


def open_directory(
    files: Files, directory: str, pipe: int, segment_bytes: int, draw: Draw, durable_below: int = 1
) -> tuple[Lock, Opened]:
    """Lock the directory and open its log, or make both. Raises CannotStart, DamagedLog, FormatVersion, DiskFailed."""
    try:
        _make_directory(files, directory)
    except OSError as error:
        raise _cannot_start(directory, error) from error
    lock = take_lock(files, directory)
    try:
        return lock, _open_or_create(files, directory, pipe, segment_bytes, draw, durable_below)
    except OSError as error:
        lock.release()
        raise _cannot_start(directory, error) from error
    except BaseException:
        lock.release()
        raise


def check_sizes(segment_bytes: int, frame_bytes_max: int) -> None:
    """Refuse a segment size that the biggest frame does not fit into. Raises ConfigError."""
    least = SEGMENT_HEADER_BYTES + frame_bytes_max
    if segment_bytes % SEGMENT_HEADER_BYTES or not least <= segment_bytes < 1 << 32:
        raise ConfigError(
            f"a segment of {segment_bytes} bytes: it has to be a multiple of {SEGMENT_HEADER_BYTES}, at least "
            f"{least} (the biggest frame and a header) and less than 4 GiB"
        )


def start_segment(files: Files, directory: str, spares: Spares, header: SegmentHeader) -> File:
    """Put a spare into use. Header first, then the name: a segment that has its name has its header."""
    spare, path = spares.take(), segment_path(directory, header.number)
    file = files.open(spare)
    file.write_synced(encode_segment_header(header), 0)
    files.rename(spare, path)
    files.sync_dir(os.path.dirname(path))
    return file


def draw_salt(draw: Draw, last: int) -> int:
    """A salt for the next use of a file; never that of the segment before."""
    salt = last
    while salt == last:
        salt = int.from_bytes(draw(4), "little")
    return salt


def _open_or_create(
    files: Files, directory: str, pipe: int, segment_bytes: int, draw: Draw, durable_below: int
) -> Opened:
    """The log of a locked directory. Raises DamagedLog, FormatVersion, CannotStart, OSError."""
    identity = read_identity(files, directory)
    if identity is None and durable_below > 1:
        raise DamagedLog(f"{identity_path(directory)} is missing, a checkpoint is there: restore it from a backup")
    if identity is None:
        _clear_leftovers(files, directory)
        # A small one, so that a first start waits for few zeroes; the next one is prepared while the pipe serves.
        first_bytes = min(segment_bytes, FIRST_SEGMENT_BYTES)
        identity = Identity(pipe, draw(16))
        first = SegmentHeader(identity.log, 1, draw_salt(draw, 0), 0, 1, 0, first_bytes)
        small = Spares(files, directory, first_bytes, list_log(files, directory))
        file = start_segment(files, directory, small, first)
        # Last: from here on a log without its first segment is damaged, not new.
        write_identity(files, directory, identity)
        spares = Spares(files, directory, segment_bytes, list_log(files, directory))
        return Opened(identity, [first], file, find_tail(file, first), spares)
    if identity.pipe != pipe:
        raise CannotStart(
            f"{directory} is the data of pipe {identity.pipe}, this is pipe {pipe}: correct `pipe:` or `data:` "
            "in pipe.yaml"
        )
    listing = list_log(files, directory)
    headers = read_headers(files, directory, identity, listing)
    last = headers[-1]
    file = files.open(segment_path(directory, last.number))
    try:
        tail = _settle_tail(files, directory, file, last, durable_below)
        spares = Spares(files, directory, segment_bytes, listing)
    except BaseException:
        file.close()
        raise
    return Opened(identity, headers, file, tail, spares)


def _settle_tail(files: Files, directory: str, file: File, header: SegmentHeader, durable_below: int) -> Tail:
    """Where the log ends, once that is durable. Raises DamagedLog, DiskFailed."""
    path = segment_path(directory, header.number)
    tail = find_tail(file, header)
    if tail.behind.proof is not None:
        what = f"a bad frame, and the frame at byte {tail.behind.proof[1]} shows that it was durable"
        raise damaged(path, tail.offset, tail.next_index, what)
    if tail.next_index < durable_below:
        what = f"the log ends here, and the checkpoint shows that it was durable up to index {durable_below - 1}"
        raise damaged(path, tail.offset, tail.next_index, what)
    try:
        # What was made or renamed before a kill is seen here, and has to stay.
        files.sync_dir(segments_dir(directory))
        restore_tail(file, tail, header.segment_bytes)
    except OSError as error:
        raise DiskFailed(f"writing the end of {path} again failed ({error.strerror}): check the disk") from error
    return tail


def _clear_leftovers(files: Files, directory: str) -> None:
    """Remove what a creation that did not come to its end left; a log with entries is not removed."""
    for number in list_log(files, directory).segments:
        path = segment_path(directory, number)
        if number != 1 or _holds_entries(files, directory, number):
            raise DamagedLog(f"{identity_path(directory)} is missing, {path} is there: restore it from a backup")
        files.unlink(path)
    files.sync_dir(segments_dir(directory))


def _holds_entries(files: Files, directory: str, number: int) -> bool:
    path = segment_path(directory, number)
    file = files.open(path, write=False)
    try:
        header = read_segment_header(files, directory, None, number)
        return sum(1 for _ in SegmentReader(file, header).headers()) > 0
    finally:
        file.close()


def _make_directory(files: Files, directory: str) -> None:
    """Make DIR and DIR/log if they are missing; durable when it returns."""
    if not files.exists(directory):
        files.make_dir(directory)
    files.sync_dir(os.path.dirname(os.path.abspath(directory)))
    if not files.exists(segments_dir(directory)):
        files.make_dir(segments_dir(directory))
    files.sync_dir(directory)


def _cannot_start(directory: str, error: OSError) -> CannotStart:
    path = error.filename or directory
    return CannotStart(f"cannot use {path} ({error.strerror}): make {directory} usable for this user, or name another")
