"""Hold a checkpoint against its log: is it whole, of that log, and does the log go on where it ends? Read-only."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpy6a.checkpoint.damage import DamagedRow
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.verifying import Progress
from mpy6a.errors import DamagedLog
from mpy6a.files import Files
from mpy6a.framing import SegmentHeader
from mpy6a.log.directory import Identity, read_segment_header, segment_path
from mpy6a.log.reading import SegmentReader
from mpy6a.log.verify import Report


@dataclass(slots=True)
class CheckpointReport:
    """What `inspect` found. `header` is None where nothing was written yet, or it cannot be read."""

    header: CheckpointHeader | None = None
    rows: int = 0  # of sessions
    damage: list[DamagedLog] = field(default_factory=list)


def inspect(files: Files, directory: str, report: Report, progress: Progress | None = None) -> CheckpointReport:
    """Check every page and row of the checkpoint in a stopped pipe's directory, and that it joins the log.

    `report` is of that log. Damage is collected, not raised. Raises FormatVersion, DiskFailed.
    """
    found = CheckpointReport()
    try:
        file = CheckpointFile.open(directory)
    except DamagedLog as damage:
        found.damage.append(damage)
        return found
    try:
        found.damage += file.verify(progress)
        found.header = file.header()
        if found.header is not None:
            found.rows = len(file.filter())
            found.damage += check_joins(files, directory, file.path, found.header, report)
    except DamagedLog as damage:
        if all(str(damage) != str(one) for one in found.damage):
            found.damage.append(damage)
    finally:
        file.close()
    return found


def check_joins(
    files: Files, directory: str, path: str, header: CheckpointHeader, report: Report
) -> list[DamagedRow]:
    """What is wrong between the checkpoint at `path` and the log that `report` was made of."""

    def wrong(what: str) -> list[DamagedRow]:
        return [DamagedRow(path, "checkpoint", 1, what)]

    if header.log.hex() != report.log:
        return wrong(f"it belongs to log {header.log.hex()}, the log here is {report.log}")
    if header.pipe != report.pipe:
        return wrong(f"it is that of pipe {header.pipe}, the log is that of pipe {report.pipe}")
    if report.first_index > header.next_index:
        ends = f"it ends at index {header.next_index - 1}, the log begins at {report.first_index}"
        return wrong(f"{ends}: what is between is missing")
    if report.damage:
        return []  # where the log ends is not known
    if report.last_index < header.next_index - 1:
        return wrong(f"it holds everything up to index {header.next_index - 1}, the log ends at {report.last_index}")
    return wrong(what) if (what := _misplaced(files, directory, header, report)) else []


def _misplaced(files: Files, directory: str, header: CheckpointHeader, report: Report) -> str:
    """What is wrong with the log position that the checkpoint names; "" if it ends the frame before its index."""
    where = f"segment {header.segment}, byte {header.offset}"
    path = segment_path(directory, header.segment)
    if not files.exists(path):
        # Trimmed when all of it was below the index: then the log has to begin exactly there.
        if report.first_index == header.next_index:
            return ""
        return f"the log goes on at {where}, and that segment is missing"
    segment = read_segment_header(files, directory, Identity(report.pipe, header.log), header.segment)
    reader = _read_to(files, path, segment, header.offset)
    if reader.offset != header.offset:
        return f"{where} is no frame's end"
    if reader.next_index != header.next_index:
        return f"the frame that ends at {where} is followed by index {reader.next_index}, not {header.next_index}"
    return ""


def _read_to(files: Files, path: str, segment: SegmentHeader, offset: int) -> SegmentReader:
    """A reader at the first frame's end that is not before `offset`."""
    file = files.open(path, write=False)
    try:
        reader = SegmentReader(file, segment)
        headers = reader.headers()
        while reader.offset < offset and next(headers, None) is not None:
            pass
        return reader
    finally:
        file.close()
