"""`mpy6a backup` and `mpy6a restore`: a pipe's data, running or not, to another directory and back."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from mpy6a.backup.manifest import Manifest
from mpy6a.backup.restoring import Restored
from mpy6a.backup.restoring import restore as do_restore
from mpy6a.backup.taking import Taken, take
from mpy6a.commands.log import show_progress


@click.command()
@click.argument("directory", metavar="DIR")
@click.argument("target", metavar="DEST")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def backup(directory: str, target: str, as_json: bool) -> None:
    """Back up the pipe's data in DIR (its `data:`) to the directory DEST, while the pipe runs or not.

    Everything that was acknowledged before it began is in it. Into the same DEST again, only what changed is copied; a
    backup that is interrupted leaves the one before.
    """
    with show_progress("backing up", "bytes") as progress:
        taken = take(directory, target, _wall_ms(), progress)
    click.echo(json.dumps(_taken_values(taken)) if as_json else _taken_text(taken, target))


@click.command()
@click.argument("source", metavar="DEST")
@click.argument("directory", metavar="DIR")
@click.option("--hold", is_flag=True, help="Pause every kind: nothing is repeated before `mpy6a kinds resume`.")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def restore(source: str, directory: str, hold: bool, as_json: bool) -> None:
    """Make the data directory DIR of the backup in DEST. Every checksum is verified first.

    What was acknowledged after the backup is lost: ids given since are answered LOST and never given again. What
    finished since would run again: with --hold the pipe starts with all kinds paused, so that you can look first.
    """
    with show_progress("restoring", "bytes") as progress:
        restored = do_restore(
            source, directory, _wall_ms(), hold=hold, node=os.uname().nodename, progress=progress
        )
    click.echo(json.dumps(_restored_values(restored)) if as_json else _restored_text(restored, directory))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _when(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="seconds")


def _manifest_values(manifest: Manifest) -> dict[str, Any]:
    return {name: value for name, value in asdict(manifest).items() if name != "parts"}


def _taken_values(taken: Taken) -> dict[str, Any]:
    counts = ("copied_files", "copied_bytes", "kept_files", "kept_bytes")
    return _manifest_values(taken.manifest) | {name: getattr(taken, name) for name in counts}


def _taken_text(taken: Taken, target: str) -> str:
    manifest = taken.manifest
    of = f"checkpoint up to {manifest.checkpoint_index - 1:,}, log" if manifest.checkpoint_index > 1 else "log"
    return (
        f"backed up pipe {manifest.pipe}, log {manifest.log}, to {target}: {of} up to index {manifest.last_index:,},"
        f" term {manifest.term}\n"
        f"copied {taken.copied_files} files, {taken.copied_bytes:,} bytes; kept {taken.kept_files} files,"
        f" {taken.kept_bytes:,} bytes"
    )


def _restored_values(restored: Restored) -> dict[str, Any]:
    names = ("term", "index", "sessions", "held_kinds", "released")
    made = {f"backup_{name}": getattr(restored.manifest, name) for name in ("wall_ms", "release", "last_index")}
    return {"pipe": restored.manifest.pipe, "log": restored.manifest.log, **made} | {
        name: getattr(restored, name) for name in names
    }


def _restored_text(restored: Restored, directory: str) -> str:
    manifest = restored.manifest
    lines = [
        f"restored pipe {manifest.pipe} to {directory}, as of {_when(manifest.wall_ms)}, index {manifest.last_index:,}:"
        f" {restored.sessions:,} live sessions",
        f"term {restored.term} began at index {restored.index:,}: ids given after the backup are LOST",
    ]
    if restored.held_kinds:
        lines.append(
            f"{restored.held_kinds} kinds are paused: start the pipe, look at `mpy6a sessions list`, then"
            " `mpy6a kinds resume KIND ...` or --all"
        )
    else:
        lines.append("what finished after the backup runs again once the pipe is started (--hold would have paused it)")
    return "\n".join(lines)
