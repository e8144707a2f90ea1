"""The commands `mpy6a log verify` and `mpy6a log dump`: what is in a data directory, and is it whole?

Exit codes (interfaces.md): 0 fine, 1 the finding is bad, 3 cannot start, 5 damaged data. Facts go to stdout,
progress and warnings to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import iter_unpack
from typing import TYPE_CHECKING, Any, Literal

import click

from mpy6a.errors import CannotStart, Corrupt, DamagedLog
from mpy6a.exits import EXIT_CANNOT_START, EXIT_DAMAGED, EXIT_FOUND_BAD
from mpy6a.files import Files, OsFiles
from mpy6a.framing import Frame, FrameType
from mpy6a.log import Progress
from mpy6a.log.directory import damaged, segments_dir
from mpy6a.log.verify import Report, dump, running_pipe, verify

if TYPE_CHECKING:
    from mpy6a.checkpoint.joining import CheckpointReport

Describe = Callable[[Frame], dict[str, object]]


def describe_frame(frame: Frame) -> dict[str, object]:
    """A frame's header as JSON values, its verdicts, and the length of its body."""
    return {
        "index": frame.first_index,
        "count": frame.count,
        "type": FrameType(frame.type).name,
        "flags": frame.flags,
        "level": frame.level,
        "term": frame.term,
        "log_ms": frame.log_ms,
        "principal": f"{frame.principal:016x}",
        "origin": frame.origin.hex(),
        "batch_bytes": len(frame.batch),
        "verdicts": [[position, code] for position, code, _ in iter_unpack("<IHH", frame.verdicts)],
    }


def log_commands(describe: Describe = describe_frame, files: Files | None = None) -> click.Group:
    """The group `log`. `describe` says what `dump --json` prints of a frame."""
    disk: Files = files or OsFiles()

    @click.group("log")
    def group() -> None:
        """Look into a pipe's log."""

    @group.command("verify")
    @click.argument("directory", metavar="DIR")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object.")
    def verify_command(directory: str, as_json: bool) -> None:
        """Check every frame of the log and every row of the checkpoint under DIR (a pipe's `data:`).

        And that the two join. The pipe has to be stopped.
        """
        with exit_codes():
            with show_progress("verifying the log", "bytes") as progress:
                report = verify(disk, directory, progress)
            checkpoint = _inspect(disk, directory, report)
        if as_json:
            click.echo(json.dumps(_report_values(report, checkpoint)))
        else:
            click.echo(_report_text(report, checkpoint))
        if report.damage or (checkpoint is not None and checkpoint.damage):
            sys.exit(EXIT_DAMAGED)

    @group.command("dump")
    @click.argument("directory", metavar="DIR")
    @click.option("--from", "from_index", type=click.IntRange(min=1), default=1, help="First index shown.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a frame, a line each.")
    def dump_command(directory: str, from_index: int, as_json: bool) -> None:
        """Print the committed frames of the log under DIR, in order. Changes nothing.

        What lies below a checkpoint may be trimmed: then it begins at the first index there is.
        """
        shown = 0
        with exit_codes():
            if (pid := running_pipe(disk, directory)) is not None:
                click.echo(f"process {pid or 'unknown'} runs on {directory}: this is the log up to now", err=True)
            for frame in dump(disk, directory, from_index):
                if not shown and frame.first_index > from_index:
                    click.echo(f"the log begins at index {frame.first_index}: what was before is trimmed", err=True)
                click.echo(json.dumps(describe(frame)) if as_json else _frame_text(frame))
                shown += 1
        if not shown and from_index > 1:
            click.echo(f"the log has no entry at index {from_index} or above", err=True)
            sys.exit(EXIT_FOUND_BAD)

    return group


@contextmanager
def exit_codes() -> Iterator[None]:
    """Errors as one sentence on stderr and an exit code."""
    try:
        yield
    except CannotStart as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CANNOT_START)
    except Corrupt as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_DAMAGED)
    except OSError as error:
        click.echo(f"cannot read {error.filename or 'the log'}: {error.strerror}", err=True)
        sys.exit(EXIT_CANNOT_START)


def _inspect(files: Files, directory: str, report: Report) -> CheckpointReport | None:
    """The checkpoint beside the log; None where there is none, which a log that was trimmed must not lack."""
    if files.exists(f"{directory}/checkpoint.db"):
        from mpy6a.checkpoint.joining import inspect  # SQLite, for those who have a checkpoint

        with show_progress("verifying the checkpoint", "rows") as progress:
            return inspect(files, directory, report, progress)
    if report.first_index > 1 and report.segments:
        what = f"the log begins at index {report.first_index}, and no checkpoint holds what was before"
        report.damage.append(damaged(segments_dir(directory), 0, 1, what))
    return None


@contextmanager
def show_progress(doing: str, unit: Literal["bytes", "rows"]) -> Iterator[Progress | None]:
    """A bar on stderr if that is a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    # Imported late: 50 ms that a pipeline does not need.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn(doing), BarColumn(), amount, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report_values(report: Report, checkpoint: CheckpointReport | None) -> dict[str, object]:
    torn = report.torn
    return {
        "ok": not report.damage and (checkpoint is None or not checkpoint.damage),
        "pipe": report.pipe,
        "log": report.log,
        "segments": report.segments,
        "frames": report.frames,
        "marks": report.marks,
        "entries": report.entries,
        "bytes": report.bytes,
        "first_index": report.first_index,
        "last_index": report.last_index,
        "terms": [{"term": term, "first_index": index} for term, index in report.terms],
        "torn": torn and {"path": torn.path, "offset": torn.offset, "index": torn.index, "frames": torn.frames},
        "damage": [
            {"path": found.path, "offset": found.offset, "index": found.index, "what": found.what}
            for found in report.damage
        ],
        "checkpoint": checkpoint and _checkpoint_values(checkpoint),
    }


def _checkpoint_values(checkpoint: CheckpointReport) -> dict[str, object]:
    header = checkpoint.header
    values: dict[str, object] = {"rows": checkpoint.rows, "damage": [_row_values(one) for one in checkpoint.damage]}
    if header is None:
        return values
    names = ("next_index", "segment", "offset", "term", "log_ms", "wall_ms", "release")
    return {name: getattr(header, name) for name in names} | values


def _row_values(found: DamagedLog) -> dict[str, Any]:
    """Where a row is damaged, or only the sentence where more is not known."""
    names = {"path": "path", "table": "table", "row": "index", "what": "what"}
    return {name: getattr(found, slot, None) for name, slot in names.items()} | {"message": str(found)}


def _report_text(report: Report, checkpoint: CheckpointReport | None) -> str:
    lines = [
        f"pipe {report.pipe}, log {report.log}",
        f"{report.segments} segments, {report.frames} frames, {report.marks} marks, {report.entries} entries, "
        f"{report.bytes} bytes",
        f"indexes {report.first_index} to {report.last_index}, terms "
        + (", ".join(f"{term} (from {index})" for term, index in report.terms) or "none"),
    ]
    if report.torn is not None:
        torn = report.torn
        lines.append(
            f"torn tail in {torn.path} at byte {torn.offset} (index {torn.index}): {torn.frames} frames of a group "
            "that was never acknowledged; the next start cuts it"
        )
    for found in report.damage:
        index = f" (index {found.index})" if found.index is not None else ""
        lines.append(f"DAMAGED {found.path} at byte {found.offset}{index}: {found.what}")
    if checkpoint is not None:
        lines += _checkpoint_lines(checkpoint)
    whole = not report.damage and (checkpoint is None or not checkpoint.damage)
    lines.append("whole" if whole else "damaged: restore a backup, or repair")
    return "\n".join(lines)


def _checkpoint_lines(checkpoint: CheckpointReport) -> list[str]:
    header = checkpoint.header
    lines = [f"DAMAGED {found}" for found in checkpoint.damage]
    if header is None:
        return ["checkpoint: nothing written yet" if not lines else "checkpoint: it cannot be read", *lines]
    return [
        f"checkpoint up to index {header.next_index - 1}, {checkpoint.rows} sessions; the log goes on in segment "
        f"{header.segment} at byte {header.offset}",
        *lines,
    ]


def _frame_text(frame: Frame) -> str:
    last = frame.first_index + frame.count - 1
    indexes = str(frame.first_index) if frame.count == 1 else f"{frame.first_index}-{last}"
    return (
        f"{indexes} {FrameType(frame.type).name} term {frame.term} at {frame.log_ms} ms, {len(frame.batch)} bytes, "
        f"{len(frame.verdicts) // 8} verdicts, origin {frame.origin.hex()}"
    )
