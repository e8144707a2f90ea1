"""`mpy6a log repair`: make a damaged data directory whole by giving up what cannot be trusted, and say what that is.

Without `--accept-loss` it only says so. Exit codes: 0 whole (or made whole), 1 damaged and not repaired, 3 cannot start
(a pipe runs, no room), 5 only a backup helps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Final

import click

from mpy6a.commands.log import exit_codes, show_progress
from mpy6a.errors import CannotStart, DamagedLog
from mpy6a.exits import EXIT_FOUND_BAD
from mpy6a.files import Files, OsFiles
from mpy6a.log.directory import identity_path, take_lock
from mpy6a.log.losing import Lost, measure, sentences, values
from mpy6a.log.repair import Repaired, repair
from mpy6a.log.surveying import CheckpointFound, Survey, survey
from mpy6a.version import __version__

_CHECKPOINT: Final = "checkpoint.db"


def repair_command(files: Files | None = None) -> click.Command:
    """The command `repair` of the group `log`."""
    disk: Files = files or OsFiles()

    @click.command("repair")
    @click.argument("directory", metavar="DIR")
    @click.option("--accept-loss", is_flag=True, help="Do it; without this it only says what it would do.")
    @click.option("--dropped", metavar="FILE", help="Where what goes is written first [DIR/dropped-<index>].")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object.")
    def command(directory: str, accept_loss: bool, dropped: str | None, as_json: bool) -> None:
        """Make the damaged log under DIR (a pipe's `data:`) whole again. The pipe has to be stopped.

        The log is cut at the first place that is damaged, what goes is written to a file, and a new term begins, so
        that no id is given twice. What is damaged and held by the checkpoint is not lost. A newer backup is better:
        restore it.
        """
        with exit_codes():
            if not disk.exists(identity_path(directory)):
                raise CannotStart(f"there is no {identity_path(directory)}: name the directory that `data:` names")
            lock = take_lock(disk, directory)
            try:
                code = _run(disk, directory, accept_loss, dropped, as_json)
            finally:
                lock.release()
        sys.exit(code)

    return command


def _run(files: Files, directory: str, accept_loss: bool, dropped: str | None, as_json: bool) -> int:
    checkpoint = _checkpoint(files, directory)
    with show_progress("reading the log", "bytes") as progress:
        found = survey(files, directory, checkpoint, progress)
    lost = measure(files, found)
    done: Repaired | None = None
    if not found.whole and accept_loss:
        done = repair(
            files, directory, found, lost, dropped_path=dropped or _free_name(files, directory, found),
            wall_ms=time.time_ns() // 1_000_000, draw=os.urandom, release=__version__, node=os.uname().nodename,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(values(found, lost) | {"repaired": _done_values(done)}))
    else:
        click.echo("\n".join(_text(found, lost, done)))
    return 0 if found.whole or done is not None else EXIT_FOUND_BAD


def _text(found: Survey, lost: Lost, done: Repaired | None) -> list[str]:
    if found.whole:
        torn = "; the torn tail is cut by the next start" if found.torn else ""
        return [f"whole up to index {found.next_index - 1}: nothing to repair{torn}"]
    lines = sentences(found, lost)
    if done is None:
        return [*lines, "nothing was changed: to go on with this, say --accept-loss; a newer backup is better"]
    lines.append(f"what went is in {done.dropped_path} ({done.dropped_bytes:,} bytes)")
    if done.checkpoint_path:
        lines.append(f"the checkpoint that was given up is {done.checkpoint_path}")
    if done.term:
        lines.append(f"term {done.term} began at index {found.next_index}: ids beyond are LOST, and never given again")
    return [*lines, "repaired: the pipe can be started"]


def _done_values(done: Repaired | None) -> dict[str, Any] | None:
    if done is None:
        return None
    return {
        "dropped": done.dropped_path,
        "dropped_bytes": done.dropped_bytes,
        "term": done.term or None,
        "checkpoint": done.checkpoint_path or None,
    }


def _free_name(files: Files, directory: str, found: Survey) -> str:
    path = f"{directory}/dropped-{found.next_index}"
    count = 1
    while files.exists(path if count == 1 else f"{path}-{count}"):
        count += 1
    return path if count == 1 else f"{path}-{count}"


def _checkpoint(files: Files, directory: str) -> CheckpointFound | None:
    """What stands beside the log. Raises FormatVersion."""
    path = f"{directory}/{_CHECKPOINT}"
    if not files.exists(path):
        return None
    from mpy6a.checkpoint.file import CheckpointFile  # SQLite, for those who have a checkpoint
    from mpy6a.log.directory import read_identity

    try:
        file = CheckpointFile.open(directory)
    except DamagedLog as problem:
        return CheckpointFound(path, problems=(str(problem),))
    try:
        with show_progress("reading the checkpoint", "rows") as progress:
            problems = tuple(str(problem) for problem in file.verify(progress))
        if problems:
            return CheckpointFound(path, problems=problems)
        header = file.header()
    finally:
        file.close()
    if header is None:
        return None  # made, and nothing written yet
    identity = read_identity(files, directory)
    if identity is not None and header.log == identity.log and header.pipe != identity.pipe:
        raise DamagedLog(
            f"{identity_path(directory)} names pipe {identity.pipe}, the checkpoint of the same log pipe {header.pipe}:"
            " it is damaged; write that number there, or restore it from a backup"
        )
    if identity is not None and header.log != identity.log:
        return CheckpointFound(path, problems=(f"{path} is that of log {header.log.hex()}",))
    return CheckpointFound(
        path, header.next_index, header.segment, header.offset, header.term, header.level, header.log_ms
    )
