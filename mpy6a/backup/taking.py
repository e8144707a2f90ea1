"""Take a backup of a data directory, whether its pipe runs or not, into a directory that may hold the one before.

The checkpoint is read at one moment; the log is copied from there as far as it goes. While that lasts the pipe uses
no segment again (it asks for the lock `backup.lock` before it does), so a backup ends however busy the pipe is; if it
is killed, the lock goes with it. Files of the backup before that say the same stay; the new manifest takes the place
of the old one at once, and only then what it does not name is removed: a backup that is killed leaves the one before.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mpy6a.backup.manifest import Manifest, Part, hash_of, read_manifest, write_manifest
from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.copying import Snapshot
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.tables import FORMAT_VERSION as CHECKPOINT_FORMAT
from mpy6a.errors import CannotStart, Corrupt, DamagedLog, DiskFailed
from mpy6a.files import Files, Lock, Locked, OsFiles
from mpy6a.framing import FORMAT_VERSION as LOG_FORMAT
from mpy6a.framing import SegmentHeader
from mpy6a.log.directory import (
    Identity,
    backup_lock_path,
    damaged,
    identity_path,
    list_log,
    lock_path,
    read_identity,
    read_segment_header,
    segment_path,
    segments_dir,
)
from mpy6a.log.reading import SegmentReader
from mpy6a.log.recovery import look_behind
from mpy6a.log.replaying import check_joins
from mpy6a.version import __version__

Progress = Callable[[int, int], None]  # (bytes done, in all)

_COPY_BYTES: Final = 1 << 20
_OURS: Final = re.compile(r"(segment-[0-9a-f-]+|checkpoint-[0-9-]+\.db(-wal|-shm|-journal)?|identity-[0-9a-f]+\.json)")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a backup came to."""

    manifest: Manifest
    copied_files: int
    copied_bytes: int
    kept_files: int  # that the backup before had
    kept_bytes: int


def take(directory: str, target: str, wall_ms: int, progress: Progress | None = None) -> Taken:
    """Back up the pipe's data in `directory` to `target`; durable when it returns.

    Everything that the pipe acknowledged before this began is in it. Raises CannotStart (no data there, a target of
    another log, another backup runs), DamagedLog and FormatVersion (nothing damaged is backed up), DiskFailed.
    """
    files = OsFiles()
    identity = read_identity(files, directory)
    if identity is None:
        raise CannotStart(f"there is no {identity_path(directory)}: name the directory that `data:` names")
    if files.exists(identity_path(target)) or files.exists(segments_dir(target)):
        raise CannotStart(f"{target} is a pipe's data directory: name another one for the backup")
    try:
        os.makedirs(target, mode=0o700, exist_ok=True)
        held = _lock_both(files, directory, target)
    except Locked as error:
        raise CannotStart(f"another backup runs (process {error.pid or 'unknown'}): wait for it") from None
    except OSError as error:
        raise CannotStart(f"cannot use {error.filename or target} ({error.strerror}): make it writable") from error
    try:
        before = _before(target, identity)
        return _Taking(files, directory, target, identity, before, progress).run(wall_ms)
    except OSError as error:
        where = error.filename or target
        raise DiskFailed(f"the backup stopped at {where} ({error.strerror}); the one before stands") from error
    finally:
        for lock in held:
            lock.release()


def _lock_both(files: Files, directory: str, target: str) -> list[Lock]:
    """Hold the pipe's segments, and keep other backups out."""
    path = backup_lock_path(directory)
    hold = files.lock(path)
    try:
        if os.geteuid() == 0:  # the pipe has to be able to look at it, whoever it runs as
            owner = os.stat(directory)
            os.chown(path, owner.st_uid, owner.st_gid)
        return [hold, files.lock(os.path.join(target, "lock"))]
    except BaseException:
        hold.release()
        raise


def _before(target: str, identity: Identity) -> Manifest | None:
    """The backup that is there. One that is damaged is made anew; that of another log is not touched."""
    try:
        found = read_manifest(target)
    except Corrupt:
        return None
    if found is not None and (found.pipe, found.log) != (identity.pipe, identity.log.hex()):
        raise CannotStart(f"{target} holds the backup of pipe {found.pipe}, log {found.log}: name another directory")
    return found


class _Taking:
    def __init__(
        self,
        files: Files,
        directory: str,
        target: str,
        identity: Identity,
        before: Manifest | None,
        progress: Progress | None,
    ) -> None:
        self._files = files
        self._directory = directory
        self._target = target
        self._identity = identity
        self._before = {part.name: part for part in before.parts} if before is not None else {}
        self._progress = progress
        self._kept: list[Part] = []
        self._copied: list[Part] = []
        self._done = 0
        self._total = 0

    def run(self, wall_ms: int) -> Taken:
        with Snapshot(self._directory) as snapshot:
            header = snapshot.header
            base = 1 if header is None else header.next_index
            self._check(header)
            segments = self._segments(base)
            path = os.path.join(self._directory, FILE_NAME)
            self._total = sum(one.segment_bytes for one in segments) + (os.path.getsize(path) if header else 0)
            parts = [self._identity_part(), *self._copy_log(segments, base)]
            last = parts[-1]
            if header is not None:
                parts.append(self._copy_checkpoint(snapshot, header))
        manifest = Manifest(
            pipe=self._identity.pipe,
            log=self._identity.log.hex(),
            first_index=segments[0].first_index,
            checkpoint_index=base,
            last_index=last.next_index - 1,
            term=max(last.term, header.term if header else 0),
            log_ms=max(last.log_ms, header.log_ms if header else 0),
            wall_ms=wall_ms,
            release=__version__,
            log_format=LOG_FORMAT,
            checkpoint_format=CHECKPOINT_FORMAT,
            parts=tuple(parts),
        )
        self._files.sync_dir(self._target)
        write_manifest(self._target, manifest)
        self._clear({part.name for part in parts})
        return Taken(
            manifest,
            len(self._copied),
            sum(part.bytes for part in self._copied),
            len(self._kept),
            sum(part.bytes for part in self._kept),
        )

    def _check(self, header: CheckpointHeader | None) -> None:
        if header is not None and (header.pipe, header.log) != (self._identity.pipe, self._identity.log):
            raise DamagedLog(f"{self._directory}/{FILE_NAME} belongs to another log: run `mpy6a log verify`")

    # ------------------------------------------------------------------ the log

    def _segments(self, base: int) -> list[SegmentHeader]:
        """The headers from the segment that holds index `base` on, as they are named now."""
        found: list[SegmentHeader] = []
        for number in reversed(list_log(self._files, self._directory).segments):
            if found and number != found[0].number - 1:
                missing, there = (segment_path(self._directory, one) for one in (found[0].number - 1, number))
                raise damaged(missing, 0, None, f"the segment is missing, {there} is there")
            found.insert(0, read_segment_header(self._files, self._directory, self._identity, number))
            if found[0].first_index <= base:
                return found
        what = f"the log does not reach down to index {base}"
        raise damaged(segments_dir(self._directory), 0, base, what)

    def _copy_log(self, segments: list[SegmentHeader], base: int) -> list[Part]:
        parts = []
        for header, after in zip(segments, [*segments[1:], None], strict=True):
            part = self._copy_segment(header, after)
            parts.append(part)
            self._advance(header.segment_bytes)
        if parts[-1].next_index < base:
            path = segment_path(self._directory, segments[-1].number)
            raise damaged(path, parts[-1].bytes, parts[-1].next_index, "the log ends before its checkpoint does")
        return parts

    def _copy_segment(self, header: SegmentHeader, after: SegmentHeader | None) -> Part:
        if after is not None:
            for part in self._before.values():  # it ends where it ended: nothing of it is even read
                same = (part.number, part.salt, part.size) == (header.number, header.salt, header.segment_bytes)
                if same and (part.next_index, part.chain) == (after.first_index, after.chain) and self._is_there(part):
                    self._kept.append(part)
                    return part
        path = segment_path(self._directory, header.number)
        runs = self._files.locked_by(lock_path(self._directory)) is not None
        file = self._files.open(path, write=False)
        try:
            reader = SegmentReader(file, header)
            for _ in reader.headers():
                pass
            if after is not None:
                check_joins(path, reader, after)
            elif not runs and look_behind(file, reader).proof is not None:  # else the end is being written
                what = "a bad frame, and one behind it shows that it was durable"
                raise damaged(path, reader.offset, reader.next_index, what)
            name = f"segment-{header.number:016x}-{header.salt:08x}-{reader.offset:08x}-{reader.chain:08x}"
            known = self._before.get(name)
            if known is not None and self._is_there(known):
                self._kept.append(known)
                return known
            digest = hashlib.sha256()
            with self._new(name) as target:
                for at in range(0, reader.offset, _COPY_BYTES):
                    data = file.read(min(_COPY_BYTES, reader.offset - at), at)
                    target.write(data)
                    digest.update(data)
        finally:
            file.close()
        last = reader.last
        part = Part(
            name, "segment", reader.offset, digest.hexdigest(), number=header.number, salt=header.salt,
            first_index=header.first_index, next_index=reader.next_index, chain=reader.chain, term=reader.term,
            log_ms=last.log_ms if last is not None else 0, size=header.segment_bytes,
        )  # fmt: skip
        self._copied.append(part)
        return part

    # ------------------------------------------------------------------ the rest

    def _identity_part(self) -> Part:
        with open(identity_path(self._directory), "rb") as file:
            text = file.read()
        digest = hashlib.sha256(text).hexdigest()
        part = Part(f"identity-{digest[:16]}.json", "identity", len(text), digest)
        known = self._before.get(part.name)
        if known is not None and self._is_there(known):
            self._kept.append(known)
            return known
        with self._new(part.name) as target:
            target.write(text)
        self._copied.append(part)
        return part

    def _copy_checkpoint(self, snapshot: Snapshot, header: CheckpointHeader) -> Part:
        name = f"checkpoint-{header.next_index}-{header.wall_ms}.db"
        known = self._before.get(name)
        if known is not None and self._is_there(known):
            self._kept.append(known)
            return known
        path = os.path.join(self._target, name)
        self._remove(name)
        done = self._done
        snapshot.copy(path, lambda part, _: self._show(done + part))
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        size, digest = hash_of(path)
        part = Part(
            name, "checkpoint", size, digest, next_index=header.next_index, term=header.term, log_ms=header.log_ms,
            wall_ms=header.wall_ms,
        )  # fmt: skip
        self._copied.append(part)
        return part

    def _is_there(self, part: Part) -> bool:
        """Whether a file of the backup before can stay. Its bytes are checked when it is restored."""
        try:
            return os.path.getsize(os.path.join(self._target, part.name)) == part.bytes
        except FileNotFoundError:
            return False

    def _new(self, name: str) -> _NewFile:
        self._remove(name)  # of a backup that was killed
        return _NewFile(os.path.join(self._target, name))

    def _remove(self, name: str) -> None:
        for ending in ("", "-wal", "-shm", "-journal"):
            try:
                os.unlink(os.path.join(self._target, name + ending))
            except FileNotFoundError:
                pass

    def _clear(self, named: set[str]) -> None:
        """Remove what this backup does not name, of what backups are made of."""
        for name in os.listdir(self._target):
            if name not in named and _OURS.fullmatch(name):
                os.unlink(os.path.join(self._target, name))
        self._files.sync_dir(self._target)

    def _advance(self, size: int) -> None:
        self._done += size
        self._show(self._done)

    def _show(self, done: int) -> None:
        if self._progress is not None:
            self._progress(min(done, self._total), self._total)


class _NewFile:
    """A file that is synced when the block is left."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> _NewFile:
        return self

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def __exit__(self, *_: object) -> None:
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
