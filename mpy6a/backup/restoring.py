"""Make a data directory of a backup: every file checked first, the whole of it replayed, a new term begun behind it.

It is built in `DIR.restoring` and gets its name when it is whole and durable. What happened after the backup is not
known to it: ids given since are LOST, and what finished since would run again. So `hold` pauses every kind until an
operator has looked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mpy6a import limits
from mpy6a.backup.manifest import DamagedBackup, Manifest, Part, hash_of, read_manifest
from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.checkpoint.tables import FORMAT_VERSION as CHECKPOINT_FORMAT
from mpy6a.entries import Admin, encode_admin, encode_proposals
from mpy6a.errors import CannotStart, DiskFailed, FormatVersion
from mpy6a.files import OsFiles
from mpy6a.framing import FORMAT_VERSION as LOG_FORMAT
from mpy6a.framing import Frame, FrameType
from mpy6a.log.directory import identity_path, segment_path, segments_dir
from mpy6a.log.segments import SegmentLog
from mpy6a.log.terms import opening_after_loss, raised_term
from mpy6a.model import NOBODY, AdminVerb, Cause, Proposal, ProposalVerb
from mpy6a.state import LEVEL, State
from mpy6a.version import __version__

Progress = Callable[[int, int], None]  # (bytes done, in all)

_COPY_BYTES: Final = 1 << 20
_MARKER: Final = "restoring"  # in a directory that is being built: it may be removed


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore came to."""

    manifest: Manifest
    term: int  # the new one
    index: int  # it begins there: ids beyond are LOST
    sessions: int  # live
    held_kinds: int  # paused
    released: int  # sessions that were REPEATING, and wait now


def restore(
    source: str, directory: str, wall_ms: int, *, hold: bool = False, node: str = "", progress: Progress | None = None
) -> Restored:
    """Make `directory` of the backup in `source`; durable when it returns.

    Raises CannotStart (no backup there, something in `directory`), DamagedBackup before anything is made, DamagedLog
    and FormatVersion when what it holds cannot be replayed, DiskFailed.
    """
    manifest = read_manifest(source)
    if manifest is None:
        raise CannotStart(f"there is no manifest.json in {source}: name the directory of a backup")
    for name, found, known in (
        ("log", manifest.log_format, LOG_FORMAT),
        ("checkpoint", manifest.checkpoint_format, CHECKPOINT_FORMAT),
    ):
        if found != known:
            raise FormatVersion(
                f"{source}: a {name} of format {found} (release {manifest.release}), this release reads {known}"
            )
    directory = os.path.abspath(directory)
    _check_empty(directory)
    work = _Restoring(source, directory, manifest, progress)
    try:
        work.verify()
        work.build()
        restored = work.begin_term(wall_ms, hold, node)
        work.finish()
    except OSError as error:
        where = error.filename or directory
        raise DiskFailed(f"the restore stopped at {where} ({error.strerror}): {directory} is not there yet") from error
    return restored


def _check_empty(directory: str) -> None:
    """Raises CannotStart if anything is there: nobody's data is written over."""
    try:
        there = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise CannotStart(f"{directory} is a file: name a directory that is not there yet") from None
    if there:
        what = "holds a pipe's log" if {"pipe.json", "log", FILE_NAME} & set(there) else f"holds {there[0]}"
        raise CannotStart(f"{directory} {what}: move it away first, or restore to another directory")


class _Restoring:
    def __init__(self, source: str, directory: str, manifest: Manifest, progress: Progress | None) -> None:
        self._source = source
        self._directory = directory
        self._building = directory + ".restoring"
        self._manifest = manifest
        self._progress = progress
        self._done = 0
        self._total = sum(3 * part.bytes for part in manifest.parts)  # read, copied, replayed

    def verify(self) -> None:
        """Every byte of every file against its checksum."""
        for part in self._manifest.parts:
            path = os.path.join(self._source, part.name)
            try:
                size, digest = hash_of(path)
            except FileNotFoundError:
                raise DamagedBackup(f"{path} is missing: use another backup") from None
            if (size, digest) != (part.bytes, part.sha256):
                raise DamagedBackup(f"{path} is damaged ({size} bytes of {part.bytes}): use another backup")
            self._advance(part.bytes)

    def build(self) -> None:
        """A directory like the one that was backed up."""
        if os.path.isdir(self._building):
            if _MARKER not in os.listdir(self._building):
                raise CannotStart(f"{self._building} is in the way: move it, a restore builds there")
            shutil.rmtree(self._building)  # of one that was killed
        os.makedirs(self._building, mode=0o700)
        self._write(_MARKER, b"")
        os.mkdir(segments_dir(self._building), 0o700)
        for part in self._manifest.parts:
            match part.role:
                case "segment":
                    self._copy(part, segment_path(self._building, part.number), part.size)
                case "checkpoint":
                    self._copy(part, os.path.join(self._building, FILE_NAME), part.bytes)
                case "identity":
                    self._copy(part, identity_path(self._building), part.bytes)
                case _:
                    raise FormatVersion(f"{self._source}: a file of role {part.role!r}: use the release that wrote it")
        for path in (segments_dir(self._building), self._building):
            OsFiles().sync_dir(path)

    def begin_term(self, wall_ms: int, hold: bool, node: str) -> Restored:
        """Replay all of it, as a start would; then a new term, and with `hold` a pause of every kind."""
        manifest = self._manifest
        log = SegmentLog.open(
            OsFiles(), self._building, manifest.pipe, durable_below=manifest.checkpoint_index, progress=self._replayed
        )
        try:
            state, close = self._state(log)
            try:
                for frame in log.replay(state.next_index):
                    if frame.first_index >= state.next_index:
                        state.apply(frame)
                        frame.decoded = None
                if state.next_index != manifest.last_index + 1:
                    ends = f"its log ends at index {state.next_index - 1}, its manifest at {manifest.last_index}"
                    raise DamagedBackup(f"{self._source}: {ends}: use another backup")
                term, index = raised_term(max(log.term, state.term), wall_ms), log.next_index
                frames = _frames(state, term, wall_ms, manifest, hold, node)
                for frame in frames:
                    log.append([frame])
                    for committed in log.committed():
                        state.apply(committed)
                released = sum(one.count for one in frames if one.type == FrameType.PROPOSALS)
                kinds = sum(one.type == FrameType.ADMIN for one in frames)
                return Restored(manifest, term, index, state.sessions.live(), kinds, released)
            finally:
                close()
        finally:
            log.close()

    def finish(self) -> None:
        """Give it its name."""
        os.rename(self._building, self._directory)
        OsFiles().sync_dir(os.path.dirname(self._directory))
        os.unlink(os.path.join(self._directory, _MARKER))

    def _state(self, log: SegmentLog) -> tuple[State, Callable[[], None]]:
        """The state of the checkpoint, and what lets go of it."""
        if not os.path.exists(os.path.join(self._building, FILE_NAME)):
            return State(self._manifest.pipe), lambda: None
        file = CheckpointFile.open(self._building)
        try:
            return load_state(file, self._manifest.pipe, log.uuid), file.close
        except BaseException:
            file.close()
            raise

    def _write(self, name: str, data: bytes) -> None:
        with open(os.path.join(self._building, name), "xb") as file:
            file.write(data)

    def _copy(self, part: Part, path: str, size: int) -> None:
        """A file of the backup, and zeroes up to its size; durable."""
        target = OsFiles().open(path, create=True)
        try:
            with open(os.path.join(self._source, part.name), "rb") as file:
                at = 0
                while data := file.read(_COPY_BYTES):
                    target.write(data, at)
                    at += len(data)
            target.zero(at, size - at)
            target.sync()
        finally:
            target.close()
        self._advance(part.bytes)

    def _replayed(self, done: int, total: int) -> None:
        if self._progress is not None and total:
            self._progress(self._done + (self._total - self._done) * done // total, self._total)

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


def _frames(state: State, term: int, wall_ms: int, manifest: Manifest, hold: bool, node: str) -> list[Frame]:
    """What a restore says in the log: a new term; and with `hold` that nothing is to run."""
    index, log_ms = state.next_index, max(state.log_ms, 1)
    frames = [
        opening_after_loss(
            pipe=state.pipe, term=term, index=index, log_ms=log_ms, wall_ms=wall_ms, release=__version__, node=node
        )
    ]
    if not hold:
        return frames
    made = datetime.fromtimestamp(manifest.wall_ms / 1000, UTC).isoformat(timespec="seconds")
    reason = f"restored from a backup of {made}: what finished since would run again; `mpy6a kinds resume` lets it"

    def add(kind: FrameType, body: bytes, count: int) -> None:
        at = frames[-1].first_index + frames[-1].count
        frames.append(Frame(kind, 0, LEVEL, term, at, count, log_ms, 0, NOBODY, body, b""))

    for kind in sorted({*state.policy.kinds, *(count >> 3 for count, live in state.sessions.counts.items() if live)}):
        add(FrameType.ADMIN, encode_admin(Admin(AdminVerb.PAUSE, "mpy6a restore", reason, kind=kind)), 1)
    # A sidecar that is still there would be handed again what it no longer holds.
    sessions = state.sessions
    running = [sessions.at(index) for target in sessions.targets() for index in sorted(sessions.held(target))]
    releases = [
        Proposal(
            ProposalVerb.RELEASE, one.term, one.index, one.epoch, one.change, Cause.SIDECAR_LOST,
            target=one.delivery.target, reason="restored",
        )
        for one in running
        if one is not None and one.delivery is not None
    ]  # fmt: skip
    for at in range(0, len(releases), limits.PROPOSALS_MAX):
        part = releases[at : at + limits.PROPOSALS_MAX]
        add(FrameType.PROPOSALS, encode_proposals(part), len(part))
    return frames
