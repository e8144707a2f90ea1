"""A backup of the running pipe, taken by the shipped code from a real directory, restored there, and held against the
whole history.

The world itself does not go on from it: a restore gives up what was acknowledged after the backup, which is what the
oracle forbids everybody else.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from mpy6a.backup.restoring import restore
from mpy6a.backup.taking import take
from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.stopped import stopped_pipe
from mpy6a.files import OsFiles
from mpy6a.log.verify import dump
from tests.fakes.files import Directory

from .oracle import Violation
from .pipes import DIRECTORY
from .shadow import same

if TYPE_CHECKING:
    from .world import World

_IN_MEMORY: Final = "/dev/shm"


def back_up_copy(world: World, chance: Random) -> None:
    """Everything that was acknowledged is in it, and nothing else but a new term."""
    pipe = world.pipe
    if not pipe.alive:
        return
    where = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sim-", dir=where) as place:
        data, target, restored = (os.path.join(place, name) for name in ("data", "backup", "restored"))
        node = world.files._node(DIRECTORY)
        assert isinstance(node, Directory)
        _write(node, Path(data))
        header = pipe.writer.disk.header()
        if header is not None:
            pipe.writer.disk.copy(os.path.join(data, FILE_NAME))
        wall_ms = world.agenda.wall_ms
        manifest = take(data, target, wall_ms).manifest
        if manifest.last_index + 1 != pipe.pipe.state.next_index:
            raise Violation("backup", f"it ends at {manifest.last_index}, before {pipe.pipe.state.next_index}")
        done = restore(target, restored, wall_ms, hold=chance.random() < 0.5)
        world.note("backup", "restored and held" if done.held_kinds else "restored")
        own = pipe.shadow.until(done.index)
        files = OsFiles()
        for frame in dump(files, restored, done.index):
            if frame.first_index >= done.index:
                own.apply(replace(frame, decoded=None))
        with stopped_pipe(files, restored) as (state, read):
            same(state, own)
            for session in state.sessions.all():
                found = state.sessions.records(session, read)
                model = world.oracle.model.sessions[session.term, session.index]
                if found != model.records:
                    raise Violation("backup", f"session {model.id} has other records")


def _write(directory: Directory, path: Path) -> None:
    path.mkdir()
    for name, node in directory.shown.items():
        if isinstance(node, Directory):
            _write(node, path / name)
        else:
            (path / name).write_bytes(node.shown)
