"""Files in memory that forget, at a crash, whatever was not synced, and fail when they are told to.

Harsher than a disk, never kinder than one: at `crash` any subset of the 512-byte sectors written and not
synced is kept, any subset of the names made, renamed or removed and not synced, and the size anywhere
between; a failed sync drops any subset of the sectors for good *while reads go on showing them* (the page
cache of Linux).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mpy6a.files import Buffer, Locked, Space

SECTOR = 512
POWER_CUT = 0


@dataclass(eq=False)
class Inode:
    """A file: what reads show, and what is on the disk."""

    shown: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)  # sectors shown and not on the disk, which a sync will write
    lost: set[int] = field(default_factory=set)  # sectors shown and not on the disk, which no sync will write

    def put(self, data: Buffer, offset: int) -> None:
        end = offset + len(data)
        if end > len(self.shown):
            self.shown.extend(bytes(end - len(self.shown)))
        self.shown[offset:end] = data
        touched = range(offset // SECTOR, -(-end // SECTOR))
        self.dirty.update(touched)
        self.lost.difference_update(touched)

    def sync(self, sectors: set[int]) -> None:
        if len(self.disk) < len(self.shown):
            self.disk.extend(bytes(len(self.shown) - len(self.disk)))
        for sector in sectors & self.dirty:
            place = slice(sector * SECTOR, (sector + 1) * SECTOR)
            self.disk[place] = self.shown[place]
        self.dirty -= sectors

    def fail_sync(self, rng: random.Random) -> None:
        written = {sector for sector in sorted(self.dirty) if rng.random() < 0.5}
        lost = self.dirty - written
        self.sync(written)
        self.dirty -= lost
        self.lost |= lost

    def crash(self, rng: random.Random) -> None:
        keep = rng.choice((0.0, 0.5, 1.0))
        kept = {sector for sector in sorted(self.dirty) if rng.random() < keep}
        if kept and rng.random() < 0.5:  # all but one: a hole with whole sectors behind it
            kept = self.dirty - {rng.choice(sorted(self.dirty))}
        size = len(self.disk)
        if self.dirty or self.lost:
            size = max(size, rng.choice((len(self.disk), len(self.shown))))
        self.sync(kept)
        del self.disk[size:]
        self.shown = bytearray(self.disk)
        self.dirty.clear()
        self.lost.clear()


Change = tuple[str | None, str | None, "Inode | Directory"]  # from, to, what


@dataclass(eq=False)
class Directory:
    """Names: what is shown, what is on the disk, and the changes between in order."""

    shown: dict[str, Inode | Directory] = field(default_factory=dict)
    disk: dict[str, Inode | Directory] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def change(self, old: str | None, new: str | None, what: Inode | Directory) -> None:
        self._apply(self.shown, old, new, what)
        self.changes.append((old, new, what))

    def sync(self) -> None:
        self.disk = dict(self.shown)
        self.changes.clear()

    def crash(self, rng: random.Random) -> None:
        keep = rng.choice((0.0, 0.5, 1.0))
        for old, new, what in self.changes:
            if rng.random() < keep:
                self._apply(self.disk, old, new, what)
        self.changes.clear()
        self.shown = dict(self.disk)
        for node in self.shown.values():
            node.crash(rng)

    @staticmethod
    def _apply(names: dict[str, Inode | Directory], old: str | None, new: str | None, what: Inode | Directory) -> None:
        if old is not None:  # by what it was, not by its name: the rename before may have been forgotten
            for name in [name for name, node in names.items() if node is what]:
                del names[name]
        if new is not None:
            names[new] = what


class PowerCut(Exception):
    """The machine lost its power in the middle of an operation: only `crash` helps."""


@dataclass
class Fault:
    """The `nth` operation of its kind from now on fails: "write", "sync", "zero", "sync_dir", "rename",
    "unlink"."""

    operation: str
    nth: int
    error: int = errno.EIO  # POWER_CUT: no error, the power goes
    lasting: bool = False  # and all after it


class FakeFiles:
    """A file system of one machine; `process` counts its lives, each with its own open files and locks."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self.rng = rng or random.Random(0)
        self.root = Directory()
        self.faults: list[Fault] = []
        self.process = 1
        self.locks: dict[str, int] = {}  # path -> process
        self.syncs = 0
        self.written = 0
        self.room: int | None = None  # bytes that files may still grow by; None: no bound
        self.total = 1 << 40  # of the file system, as `space` tells it
        self.bad: set[tuple[str, int]] = set()  # (path, block of 4,096 bytes) that cannot be read

    def kill(self) -> None:
        """The process is gone, the machine is not: all that was written is still shown."""
        self.process += 1
        self.locks.clear()
        self.faults.clear()

    def crash(self, rng: random.Random | None = None) -> None:
        """The machine is gone: what was not synced is forgotten, or not, as chance has it."""
        self.kill()
        self.root.crash(rng or self.rng)

    def fail(self, operation: str, nth: int = 1, error: int = errno.EIO, *, lasting: bool = False) -> None:
        self.faults.append(Fault(operation, nth, error, lasting))

    def flip(self, path: str, offset: int, bit: int) -> None:
        """A bit turns at rest."""
        node = self._file(path)
        for content in (node.shown, node.disk):
            content[offset] ^= 1 << bit

    def content(self, path: str) -> bytearray:
        """What reads of the file show, to be looked at or damaged."""
        return self._file(path).shown

    def open(self, path: str, *, create: bool = False, write: bool = True) -> FakeFile:
        parent, name = self._parent(path)
        node = parent.shown.get(name)
        if node is None:
            if not create:
                raise _error(errno.ENOENT, path)
            node = Inode()
            parent.change(None, name, node)
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        return FakeFile(self, path, node, write)

    def exists(self, path: str) -> bool:
        try:
            self._node(path)
        except FileNotFoundError:
            return False
        return True

    def list(self, path: str) -> list[str]:
        return sorted(self._directory(path).shown)

    def make_dir(self, path: str) -> None:
        parent, name = self._parent(path)
        if not isinstance(parent.shown.get(name), Directory):
            parent.change(None, name, Directory())

    def rename(self, old: str, new: str) -> None:
        self.check("rename", old)
        parent, name = self._parent(old)
        if name not in parent.shown:
            raise _error(errno.ENOENT, old)
        parent.change(name, os.path.basename(new), parent.shown[name])

    def unlink(self, path: str) -> None:
        self.check("unlink", path)
        parent, name = self._parent(path)
        if name not in parent.shown:
            raise _error(errno.ENOENT, path)
        node = parent.shown[name]
        if self.room is not None and isinstance(node, Inode):
            self.room += len(node.shown)
        parent.change(name, None, node)

    def space(self, path: str) -> Space:
        return Space(self.total if self.room is None else self.room, self.total)

    def sync_dir(self, path: str) -> None:
        self.check("sync_dir", path)
        self._directory(path).sync()

    def lock(self, path: str) -> FakeLock:
        if path in self.locks:
            raise Locked(path, self.locks[path])
        self.open(path, create=True)
        self.locks[path] = self.process
        return FakeLock(self, path)

    def locked_by(self, path: str) -> int | None:
        return self.locks.get(path)

    def aside(self, work: Callable[[], None]) -> FakeAside:
        return FakeAside(work)

    def check(self, operation: str, path: str) -> None:
        for fault in list(self.faults):
            if fault.operation == operation:
                fault.nth -= 1
                if fault.nth <= 0:
                    if not fault.lasting:
                        self.faults.remove(fault)
                    if fault.error == POWER_CUT:
                        raise PowerCut(f"{operation} {path}")
                    raise _error(fault.error, path)

    def _node(self, path: str) -> Inode | Directory:
        node: Inode | Directory = self.root
        for name in path.strip("/").split("/"):
            if name:
                found = node.shown.get(name) if isinstance(node, Directory) else None
                if found is None:
                    raise _error(errno.ENOENT, path)
                node = found
        return node

    def _directory(self, path: str) -> Directory:
        node = self._node(path)
        if not isinstance(node, Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _file(self, path: str) -> Inode:
        node = self._node(path)
        assert isinstance(node, Inode)
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        return self._directory(os.path.dirname(path)), os.path.basename(path)


class FakeFile:
    """An open file of one process: after `kill` or `crash` it may not be used."""

    def __init__(self, files: FakeFiles, path: str, node: Inode, write: bool) -> None:
        self._files, self._path, self._node, self._write = files, path, node, write
        self._process: int | None = files.process

    def read(self, length: int, offset: int) -> bytes:
        self._check()
        self._files.check("read", self._path)
        if self._files.bad:
            blocks = range(offset // 4096, (offset + max(length, 1) - 1) // 4096 + 1)
            if any((self._path, block) in self._files.bad for block in blocks):
                raise _error(errno.EIO, self._path)
        return bytes(memoryview(self._node.shown)[offset : offset + length])

    def write(self, data: Buffer, offset: int) -> None:
        self._check()
        assert self._write, "written through a file opened for reading"
        growth = max(0, offset + len(data) - len(self._node.shown))
        if self._files.room is not None:
            if growth > self._files.room:
                raise _error(errno.ENOSPC, self._path)
            self._files.room -= growth
        try:
            self._files.check("write", self._path)
        except (OSError, PowerCut):  # a torn write: some of it is there
            self._node.put(bytes(data)[: self._files.rng.randrange(len(data) + 1)], offset)
            raise
        self._files.written += len(data)
        self._node.put(data, offset)

    def write_synced(self, data: Buffer, offset: int) -> None:
        self.write(data, offset)
        self._sync(set(range(offset // SECTOR, -(-(offset + len(data)) // SECTOR))))

    def zero(self, offset: int, length: int) -> None:
        self._files.check("zero", self._path)
        self.write(bytes(length), offset)

    def sync(self) -> None:
        self._check()
        self._sync(set(self._node.dirty))

    def size(self) -> int:
        self._check()
        return len(self._node.shown)

    def close(self) -> None:
        self._process = None

    def _sync(self, sectors: set[int]) -> None:
        try:
            self._files.check("sync", self._path)
        except OSError:
            self._node.fail_sync(self._files.rng)
            raise
        self._files.syncs += 1
        self._node.sync(sectors)

    def _check(self) -> None:
        assert self._process == self._files.process, f"{self._path} is used after its close or its process's end"


class FakeAside:
    """Work that was done at once; what it raised comes with its result."""

    done = True

    def __init__(self, work: Callable[[], None]) -> None:
        self._failure: OSError | None = None
        try:
            work()
        except OSError as failure:
            self._failure = failure

    def result(self) -> None:
        if self._failure is not None:
            raise self._failure


class FakeLock:
    """A lock of one process."""

    def __init__(self, files: FakeFiles, path: str) -> None:
        self._files, self._path, self._process = files, path, files.process

    def release(self) -> None:
        if self._files.locks.get(self._path) == self._process:
            del self._files.locks[self._path]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
