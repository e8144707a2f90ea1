"""`mpy6a` over files that fail at a chosen point. Run as: driver.py FAIL_POINT serve CONFIG

    tear:N      the Nth group of batches is written in part, then the process kills itself: a torn tail
    die:N       the Nth group is written and synced, then the process kills itself: durable, never answered
    lose:N      from the Nth group on nothing is written, and nobody is told: a lie that the oracle has to find
    write:N:E   writing the Nth group fails with the errno named E, in part, and so does all that follows
    sync:N:E    the Nth group is written, its sync fails with E, and so does all that follows

Everything else is the shipped command, from its config to its exit code. Groups are counted where they begin with a
batch of a client: openings, policies and marks go through.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import sys
from typing import Final
from unittest.mock import patch

from mpy6a import cli
from mpy6a.commands import serve
from mpy6a.files import Buffer, OsFile, OsFiles
from mpy6a.framing import HEADER_BYTES, MAGIC, FrameType, frame_bytes

_LENGTHS: Final = struct.Struct("<II")
_LENGTHS_AT: Final = 12  # FORMAT.md: magic, two checksums, then the lengths of batch and verdicts, then the type
_TYPE_AT: Final = 20
_SECTOR: Final = 512


class FailPoint:
    """What fails, and how many groups until it does."""

    def __init__(self, text: str) -> None:
        kind, number, *error = text.split(":")
        self.kind = kind
        self.left = int(number)
        self.errno = int(getattr(errno, error[0])) if error else 0
        self.hit = False

    def reached(self, data: Buffer) -> bool:
        """Whether this write is the one, or comes after it."""
        view = memoryview(data)
        if not self.hit and len(view) > HEADER_BYTES and bytes(view[:4]) == MAGIC.to_bytes(4, "little"):
            self.left -= view[_TYPE_AT] == FrameType.BATCH
            self.hit = self.left <= 0
        return self.hit

    def error(self) -> OSError:
        return OSError(self.errno, os.strerror(self.errno))


class FailingFile(OsFile):
    """A file of the operating system up to the fail point."""

    __slots__ = ("_point",)

    def __init__(self, fd: int, point: FailPoint) -> None:
        super().__init__(fd)
        self._point = point

    def write(self, data: Buffer, offset: int) -> None:
        # No group: what opening writes again, or a spare's zeroes.
        if self._point.hit and self._point.errno:
            raise self._point.error()
        super().write(data, offset)

    def write_synced(self, data: Buffer, offset: int) -> None:
        if self._point.reached(data):
            self._fail(data, offset)
        else:
            super().write_synced(data, offset)

    def sync(self) -> None:
        if self._point.hit and self._point.errno:
            raise self._point.error()
        super().sync()

    def _fail(self, data: Buffer, offset: int) -> None:
        match self._point.kind:
            case "tear":
                for begin, end in torn(data, random.Random()):
                    super().write(memoryview(data)[begin:end], offset + begin)
                os.kill(os.getpid(), signal.SIGKILL)
            case "die":
                super().write_synced(data, offset)
                os.kill(os.getpid(), signal.SIGKILL)
            case "lose":
                return
            case "write":
                super().write(memoryview(data)[: len(data) // 2], offset)
                raise self._point.error()
            case "sync":
                super().write(data, offset)
                raise self._point.error()
            case other:
                raise ValueError(f"no fail point {other!r}")


class FailingFiles(OsFiles):
    """The operating system's files up to the fail point."""

    __slots__ = ("_point",)

    def __init__(self, point: FailPoint) -> None:
        self._point = point

    def open(self, path: str, *, create: bool = False, write: bool = True) -> OsFile:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return FailingFile(os.open(path, flags, 0o600), self._point)


def torn(data: Buffer, chance: random.Random) -> list[tuple[int, int]]:
    """What of a group reaches the disk: all up to somewhere in one frame's body, or all but one sector of one.

    Never whole frames only, and never a hole in padding: the group would not be torn.
    """
    view = memoryview(data)
    bodies: list[tuple[int, int]] = []
    at = 0
    while at < len(view):
        batch, verdicts = _LENGTHS.unpack_from(view, at + _LENGTHS_AT)
        bodies.append((at + HEADER_BYTES, at + HEADER_BYTES + batch))
        at += frame_bytes(batch, verdicts)
    begin, end = chance.choice(bodies)
    # A row is 40 bytes and never all zero, nor is a record of these tests: so neither is what is left out.
    cut = chance.randrange(begin, end - 48)
    if chance.random() < 0.5:
        return [(0, cut)]
    return [(0, cut), (min(cut + _SECTOR, end), len(view))]


if __name__ == "__main__":
    point = FailPoint(sys.argv[1])
    with patch.object(serve, "OsFiles", lambda: FailingFiles(point)), patch.object(sys, "argv", sys.argv[1:]):
        cli.main()
