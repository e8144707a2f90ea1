"""`mpy6a serve`: the pipe's process, from its config to its last sync."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from mpy6a import collecting, journal
from mpy6a.checkpoint.driver import Checkpointer
from mpy6a.checkpoint.file import CheckpointFile  # SQLite with it: no turn of the loop is to pay for that
from mpy6a.clock import OsClock
from mpy6a.config import PipeSettings, find_pipe_config, load_pipe
from mpy6a.config.reader import ConfigReader
from mpy6a.config.setup import setup_of
from mpy6a.errors import CannotStart, DiskFailed
from mpy6a.files import OsFiles
from mpy6a.log import Progress
from mpy6a.log.segments import SegmentLog
from mpy6a.server import Server
from mpy6a.state import State

logger = logging.getLogger(__name__)


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(config: Path | None, log_format: str, log_level: str) -> None:
    """Run the pipe of CONFIG (default: $MPY6A_CONFIG, then ./pipe.yaml) until SIGTERM."""
    journal.start(log_format, log_level)
    path = find_pipe_config(config, os.environ, Path.cwd())
    run(load_pipe(path), path)


def run(settings: PipeSettings, path: Path | None = None) -> None:
    """Open the log, replay it, serve. A failed write or sync ends the process: nothing after it is acknowledged.
    `path`: the pipe.yaml that a reload reads anew."""
    collecting.leave_the_old()
    interval_ms = settings.log.interval_ms if settings.log.fsync == "interval" else None
    try:
        settings.data.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CannotStart(f"{settings.data}: {problem.strerror}; name a directory this user may make") from None
    directory = str(settings.data)
    file = CheckpointFile.open(directory)  # also where there is none: SQLite's layers are loaded here, not in the loop
    header = file.header()
    file.close()
    log = SegmentLog.open(
        OsFiles(),
        directory,
        settings.pipe,
        segment_bytes=settings.log.segment_bytes,
        durable_below=1 if header is None else header.next_index,
        sync_interval_ms=interval_ms,
        progress=_progress(),
    )
    try:
        server = Server(
            log,
            settings.pipe,
            settings.policy,
            OsClock(),
            listen=settings.listen,
            admin=settings.admin,
            sidecars=settings.sidecars,
            state=None if header is None else _state(directory, settings.pipe, log),
            checkpoints=Checkpointer(directory),
            open_file=lambda: _open_file(directory),
            disk=settings.disk,
            checkpoint_bytes=settings.log.checkpoint_bytes,
            keep_bytes=settings.log.keep_bytes,
            setup=setup_of(settings),
            reader=None if path is None else ConfigReader(str(path)),
        )
    except BaseException:
        log.close()
        raise
    server.handle_signals()
    try:
        server.replay()
        if log.stats.cut_bytes:
            logger.warning("torn tail cut", extra={"facts": {"bytes": log.stats.cut_bytes}})
        if interval_ms is not None:
            logger.warning("fsync: interval: an ack does not mean durable", extra={"facts": {"ms": interval_ms}})
        collecting.leave_the_old()  # what was replayed is
        server.run()
    except DiskFailed:
        logger.error("the disk failed: stopping; nothing after the failure was acknowledged")
        raise
    finally:
        server.close()
    logger.info("stopped", extra={"facts": {"pipe": settings.pipe}})


def _open_file(directory: str) -> CheckpointFile:
    return CheckpointFile.open(directory)


def _state(directory: str, pipe: int, log: SegmentLog) -> State:
    """The state of the last checkpoint. Raises DamagedLog, FormatVersion."""
    from mpy6a.checkpoint.loading import load_state

    return load_state(_open_file(directory), pipe, log.uuid)


def _progress() -> Progress | None:
    """A progress bar for a long replay, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if total > 64 * 1024 * 1024:
            end = "\n" if done >= total else ""
            click.echo(f"\rreading the log: {done * 100 // max(total, 1)} %{end}", err=True, nl=False)

    return show
