"""A disk whose power can be cut: a real file system in an image that another file system holds, and holds still.

    path/below.image   ext4, mounted at path/below; frozen (FIFREEZE) for a cut: from then on no write gets through
    path/below/image   what the disk holds: ext4 with a journal, mounted at path/disk
    path/cut           a copy of it, made while everything stood still

A write that was not synced is in the memory of the upper file system, and not in the image, until the kernel gets round
to it; a sync in progress stands half done. Not imitated: a disk that reorders what it took since the last flush
(tests/fakes/files.py does that).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.crash.small_disk import NO_MOUNT

_FREEZE: Final = 0xC0045877  # FIFREEZE, FITHAW of linux/fs.h
_THAW: Final = 0xC0045878
# The kernel's own journal commit would save what nobody synced, after 5 s: as late as it can be had.
_OPTIONS: Final = "loop,commit=300"
_BUSY_S: Final = 10.0  # so long a process that was killed may take to let go of its files


class Disk:
    """A mounted file system at `path`, and the power it hangs on."""

    def __init__(self, path: Path) -> None:
        self.path = path / "disk"
        self._below = path / "below"
        self._image = self._below / "image"
        self._cut = path / "cut"

    @contextmanager
    def cut(self) -> Iterator[None]:
        """At once nothing reaches the disk any more; the end of the block is the end of the power.

        Whoever wrote there has to be killed in the block, which is not the same as dead: a process that waits for the
        disk dies after it. What it did from the beginning of the block on never happened.
        """
        fd = os.open(self._below, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _FREEZE, 0)
            try:
                yield
                _copy(self._image, self._cut)
            finally:
                fcntl.ioctl(fd, _THAW, 0)
        finally:
            os.close(fd)

    def come_back(self) -> None:
        """The power is on again: the same path, with what had reached the disk. All who wrote there are dead."""
        _unmount(self.path)
        self._image.unlink()
        _copy(self._cut, self._image)
        self._cut.unlink()
        subprocess.run(["mount", "-o", _OPTIONS, str(self._image), str(self.path)], check=True)  # replays its journal


@contextmanager
def powered(path: Path, size_bytes: int) -> Iterator[Disk]:
    """A new disk of that size under `path`, sparse; skips the test where mounting is refused."""
    with ExitStack() as stack:
        below, image = path / "below", path / "below.image"
        _make(image, size_bytes + size_bytes // 8)
        below.mkdir()
        _mount(image, below, "loop")
        stack.callback(_unmount, below)
        _make(below / "image", size_bytes)
        disk = Disk(path)
        disk.path.mkdir()
        _mount(below / "image", disk.path, _OPTIONS)
        stack.callback(_unmount, disk.path)
        yield disk


def _make(image: Path, size_bytes: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_bytes)
    # Written now, not by the kernel beside the test.
    _or_skip(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)])


def _mount(image: Path, path: Path, options: str) -> None:
    _or_skip(["mount", "-o", options, str(image), str(path)])


def _or_skip(argv: list[str]) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip(NO_MOUNT)


def _copy(image: Path, copy: Path) -> None:
    """Through the page cache, where the loop device writes; holes stay holes."""
    subprocess.run(["cp", "--sparse=auto", str(image), str(copy)], check=True)


def _unmount(path: Path) -> None:
    give_up_s = time.monotonic() + _BUSY_S
    while subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode:
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"{path} stays busy")
        time.sleep(0.02)
