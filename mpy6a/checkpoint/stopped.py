"""What a stopped pipe knew: its checkpoint and the log behind it, read as a start would, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.errors import CannotStart, DamagedLog
from mpy6a.files import Files
from mpy6a.log import Progress
from mpy6a.log.directory import identity_path, read_identity
from mpy6a.log.following import LogFollower
from mpy6a.log.verify import dump, running_pipe
from mpy6a.state import State

Read = Callable[[int, int], bytes]  # (position, length) -> bytes of the log


@contextmanager
def stopped_pipe(files: Files, directory: str, progress: Progress | None = None) -> Iterator[tuple[State, Read]]:
    """The state at the log's end, and what reads records out of the log; a torn tail is left out, as at a start.

    Raises CannotStart (no data there, or a pipe runs on it), DamagedLog, FormatVersion.
    """
    pid = running_pipe(files, directory)
    if pid is not None:
        raise CannotStart(f"process {pid or 'unknown'} runs on {directory}: ask that pipe, over its admin door")
    identity = read_identity(files, directory)
    if identity is None:
        raise CannotStart(f"there is no {identity_path(directory)}: name the directory that `data:` names")
    checkpoint = CheckpointFile.open(directory)
    try:
        state = load_state(checkpoint, identity.pipe, identity.log)
        _replay(state, files, directory, progress)
        follower = LogFollower(files, directory, state.next_index)
        try:
            yield state, follower.read
        finally:
            follower.close()
    finally:
        checkpoint.close()


def _replay(state: State, files: Files, directory: str, progress: Progress | None) -> None:
    for frame in dump(files, directory, state.next_index, progress):
        if frame.first_index != state.next_index:
            raise DamagedLog(
                f"the log goes on at index {frame.first_index}, the checkpoint ends before {state.next_index}: run"
                f" `mpy6a log verify {directory}`"
            )
        state.apply(frame)
        frame.decoded = None
        state.sessions.loaded.clear()
        state.sessions.orders.moved.clear()
