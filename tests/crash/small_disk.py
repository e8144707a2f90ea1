"""A small file system, mounted for one test: what only a disk that is really full does."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

OTHERS: Final = "of-somebody-else"
NO_MOUNT: Final = "mounting a small file system is refused here"


class SmallDisk:
    """A real file system that fills up."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def fill(self, leave: int = 0) -> Path:
        """A file that takes the room of the others, but for so many bytes. Remove it to make room."""
        path = self.path / OTHERS
        size = 1 << 20
        with path.open("ab", buffering=0) as file:
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
            if leave:
                file.truncate(max(0, file.tell() - leave))
        return path

    @contextmanager
    def brim(self) -> Iterator[None]:
        """Whatever is given back is taken at once, for as long as this lasts; then there is room again."""
        ends = threading.Event()

        def fill() -> None:
            while not ends.is_set():
                self.fill()
                ends.wait(0.02)

        thread = threading.Thread(target=fill)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()
            (self.path / OTHERS).unlink()


@contextmanager
def tmpfs(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """In memory; skips the test where mounting is refused."""
    with _mounted(path, ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(path)]) as disk:
        yield disk


@contextmanager
def ext4(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """In an image beside the mount; skips the test where mounting is refused."""
    image = path.with_name(f"{path.name}.image")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    if not _succeeds(["mkfs.ext4", "-q", "-m", "0", str(image)]):
        pytest.skip(NO_MOUNT)
    with _mounted(path, ["mount", "-o", "loop", str(image), str(path)]) as disk:
        yield disk


@contextmanager
def _mounted(path: Path, argv: list[str]) -> Iterator[SmallDisk]:
    path.mkdir()
    if not _succeeds(argv):
        pytest.skip(NO_MOUNT)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _succeeds(argv: list[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
