"""The disk under the benchmark: which file system it is, and what one sync costs there without any pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mpy6a.errors import CannotStart

BLOCK_BYTES: Final = 4_096  # one page: what a small group of operations writes
FILE_BYTES: Final = 4 * 1024 * 1024
SYNCS: Final = 64  # of one sample: 10 ms on a good disk, and a p99 over the samples of a sitting
REST_S: Final = 0.0004  # between syncs as one operation alone makes them: its own time without the sync
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})

_BLOCK: Final = b"\x5a" * BLOCK_BYTES


def file_system(directory: Path, mounts: Iterable[str] | None = None) -> str:
    """Name of the file system that holds `directory`, as /proc/self/mountinfo has it; "" if it does not tell."""
    if mounts is None:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    real = os.path.realpath(directory)
    found, longest = "", -1
    for line in mounts:
        where, _, what = line.partition(" - ")
        escaped = where.split(" ")[4]  # a blank in a path stands there as \040
        point = escaped.encode("latin-1", "replace").decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # of two mounts on one point the later one is seen
            found, longest = what.split(" ")[0], len(point)
    return found


def real_disk(directory: Path) -> str:
    """As `file_system`; raises CannotStart where a sync is a promise to nobody."""
    if not directory.is_dir():
        raise CannotStart(f"{directory} is no directory: name one on the disk that is to be measured, with --data DIR")
    name = file_system(directory)
    if name in IN_MEMORY:
        raise CannotStart(
            f"{directory} is on {name}, which is memory: a sync there makes nothing durable; "
            "name a directory on a real disk with --data DIR"
        )
    return name


class SyncProbe:
    """Times pwrite + fdatasync of 4 KiB in a zero-filled file of its own beside the pipe's log."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sync-probe"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._offset = 0
        os.pwrite(self._fd, bytes(FILE_BYTES), 0)
        os.fsync(self._fd)

    def sample(self, syncs: int = SYNCS, rest_s: float = 0) -> list[int]:
        """So many syncs, one after the other, in ns each; `rest_s` seconds of sleep before each are not counted. A core
        and a disk that have slept are slower: what is written now and then meets them so."""
        times: list[int] = []
        for _ in range(syncs):
            if rest_s:
                time.sleep(rest_s)
            begun = time.perf_counter_ns()
            os.pwrite(self._fd, _BLOCK, self._offset)
            os.fdatasync(self._fd)
            times.append(time.perf_counter_ns() - begun)
            self._offset = (self._offset + BLOCK_BYTES) % FILE_BYTES
        return times

    def close(self) -> None:
        """Lets go of the file and removes it."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)
