"""Look at a log without touching it: is it whole, and what is in it? Read-only, for operators and tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mpy6a.errors import CannotStart
from mpy6a.files import File, Files
from mpy6a.framing import Frame, FrameType, SegmentHeader
from mpy6a.log import Progress
from mpy6a.log.directory import (
    DamagedAt,
    Identity,
    damaged,
    identity_path,
    list_log,
    lock_path,
    read_headers,
    read_identity,
    read_segment_header,
    segment_path,
    segments_dir,
)
from mpy6a.log.reading import SegmentReader
from mpy6a.log.recovery import find_tail, look_behind
from mpy6a.log.replaying import check_joins, replay_segments


@dataclass(frozen=True, slots=True)
class Torn:
    """A torn tail: what a crash left of a group that nobody was told of. The next start cuts it."""

    path: str
    offset: int
    index: int
    frames: int  # of it that are recognised


@dataclass(slots=True)
class Report:
    """What `verify` found. The log is whole if `damage` is empty, torn or not."""

    pipe: int
    log: str  # uuid as hex
    segments: int = 0
    frames: int = 0  # marks not counted
    marks: int = 0
    entries: int = 0
    bytes: int = 0  # of frames, headers and padding included
    first_index: int = 0  # of the first entry here, or the next one if there is none
    last_index: int = 0
    terms: list[tuple[int, int]] = field(default_factory=list)  # (term, first index seen in it)
    damage: list[DamagedAt] = field(default_factory=list)
    torn: Torn | None = None


def running_pipe(files: Files, directory: str) -> int | None:
    """The pid of the pipe that runs on the directory (0: not known), None if none does."""
    return files.locked_by(lock_path(directory))


def verify(files: Files, directory: str, progress: Progress | None = None) -> Report:
    """Check every byte of a stopped pipe's log. Raises CannotStart (no log, or a pipe runs), FormatVersion.

    Damage is collected, not raised: after a damaged place the next segment begins anew from its own header.
    """
    pid = running_pipe(files, directory)
    if pid is not None:
        raise CannotStart(f"process {pid or 'unknown'} runs on {directory}: stop that pipe, then verify its log")
    identity = _identity(files, directory)
    report = Report(identity.pipe, identity.log.hex())
    headers = _collect_headers(files, directory, identity, report)
    total = sum(header.segment_bytes for header in headers)
    done = 0
    for place, header in enumerate(headers):
        after = headers[place + 1] if place + 1 < len(headers) else None
        file = files.open(segment_path(directory, header.number), write=False)
        try:
            _verify_segment(file, segment_path(directory, header.number), header, after, report)
        finally:
            file.close()
        done += header.segment_bytes
        if progress is not None:
            progress(done, total)
    report.damage.sort(key=lambda found: (found.path, found.offset))
    return report


def dump(files: Files, directory: str, from_index: int = 1, progress: Progress | None = None) -> Iterator[Frame]:
    """The committed frames from the one that holds `from_index` on, as a start would replay them, marks left out.

    Nothing is written: a torn tail is left out and stays. Beside a running pipe it ends where the log ended
    when it began. Raises CannotStart (also when a running pipe trims what is being read), FormatVersion, and DamagedLog
    where the log is damaged.
    """
    identity = _identity(files, directory)
    begins = list_log(files, directory).segments[:1]
    try:
        yield from _dump(files, directory, identity, from_index, progress)
    except (DamagedAt, OSError):
        segments = list_log(files, directory).segments
        if segments[:1] <= begins or running_pipe(files, directory) is None:
            raise
        first = read_segment_header(files, directory, identity, segments[0]).first_index
        raise CannotStart(
            f"the pipe trimmed its log while it was read: it begins at index {first} now; read it again from there"
        ) from None


def _dump(
    files: Files, directory: str, identity: Identity, from_index: int, progress: Progress | None
) -> Iterator[Frame]:
    headers = read_headers(files, directory, identity, list_log(files, directory))
    while len(headers) > 1 and headers[1].first_index <= from_index:
        del headers[0]
    last = headers[-1]
    path = segment_path(directory, last.number)
    file = files.open(path, write=False)
    try:
        tail = find_tail(file, last)
    finally:
        file.close()
    # A running pipe may have written on between the two looks that this takes.
    if tail.behind.proof is not None and running_pipe(files, directory) is None:
        raise damaged(path, tail.offset, tail.next_index, "a bad frame, and one behind it shows that it was durable")
    for frame in replay_segments(files, directory, headers, tail.offset, progress):
        if frame.first_index + frame.count > from_index:
            yield frame


def _identity(files: Files, directory: str) -> Identity:
    identity = read_identity(files, directory)
    if identity is None:
        raise CannotStart(f"there is no {identity_path(directory)}: name the directory that `data:` names")
    return identity


def _collect_headers(files: Files, directory: str, identity: Identity, report: Report) -> list[SegmentHeader]:
    headers: list[SegmentHeader] = []
    numbers = list_log(files, directory).segments
    report.segments = len(numbers)
    if not numbers:
        report.damage.append(damaged(segments_dir(directory), 0, None, "the log has no segment left"))
    for before, number in zip((None, *numbers), numbers, strict=False):
        if before is not None and number != before + 1:
            report.damage.append(damaged(segment_path(directory, before + 1), 0, None, "the segment is missing"))
        try:
            headers.append(read_segment_header(files, directory, identity, number))
        except DamagedAt as found:
            report.damage.append(found)
    return headers


def _verify_segment(file: File, path: str, header: SegmentHeader, after: SegmentHeader | None, report: Report) -> None:
    reader = SegmentReader(file, header)
    report.first_index = report.first_index or header.first_index
    for frame, at in reader.headers():
        if frame.type == FrameType.MARK:
            report.marks += 1
        else:
            report.frames += 1
            report.entries += frame.entries
            if not report.terms or report.terms[-1][0] != frame.term:
                report.terms.append((frame.term, frame.first_index))
        report.bytes += reader.offset - at
    report.last_index = reader.next_index - 1
    if after is not None:
        try:
            if after.number == header.number + 1:
                check_joins(path, reader, after)
        except DamagedAt as found:
            report.damage.append(found)
        return
    behind = look_behind(file, reader)
    if behind.proof is not None:
        what = f"a bad frame, and the frame at byte {behind.proof[1]} shows that it was durable"
        report.damage.append(damaged(path, reader.offset, reader.next_index, what))
    elif behind.frames:
        report.torn = Torn(path, reader.offset, reader.next_index, behind.frames)
