"""Keep files ready to become the next segments: zero-filled ahead in small turns, or trimmed ones used again.

They are the log's reserve too: when the disk is full, what has to be logged still finds room in them.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mpy6a.files import File, Files
from mpy6a.limits import PREPARE_BYTES, SPARE_SEGMENTS_MAX
from mpy6a.log.directory import Listing, backup_lock_path, segment_path, segments_dir, spare_path

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Freed:
    """A trimmed segment, and the number of the spare that it becomes; None: it is removed."""

    segment: int
    spare: int | None


def free(files: Files, directory: str, plan: Sequence[Freed]) -> Iterator[Freed]:
    """Carry a plan out, oldest first, each durable before the next, so that no gap can come back.

    Touches files only, so that it may run beside the log. Ends early, without failing, when a backup begins.
    Raises OSError.
    """
    hold = backup_lock_path(directory)
    for step in plan:
        if files.locked_by(hold) is not None:
            return
        path = segment_path(directory, step.segment)
        if step.spare is None:
            files.unlink(path)
        else:
            files.rename(path, spare_path(directory, step.spare))
        files.sync_dir(segments_dir(directory))
        yield step


class Spares:
    """The spare files of one log. Every method may raise OSError; a full disk only where it says so.

    A spare's content means nothing: the header written at its next use has a new number and a new salt, so
    that no frame of its earlier life is ever recognised. Its size and its name are durable before it counts
    as ready.
    """

    def __init__(self, files: Files, directory: str, segment_bytes: int, listing: Listing) -> None:
        self._files = files
        self._directory = directory
        self.segment_bytes = segment_bytes
        self._ready: deque[int] = deque()
        self._draft: tuple[int, File] | None = None  # being filled
        self._filled = 0
        self._next = 1 + max((*listing.spares, *listing.unfinished), default=0)
        self.keep = 1  # so many are to be ready
        self.tight = False  # the disk is low: what is not to be ready gives its space back
        self._allowed: int | None = None  # bytes that may still be filled; None: as many as there is room for
        self._no_room = False  # the last try to fill a spare found none
        for number in listing.unfinished:
            files.unlink(spare_path(directory, number, unfinished=True))
        for number in listing.spares:
            self._adopt(number)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def wanting(self) -> bool:
        """Fewer are ready than are to be."""
        return len(self._ready) < self.keep

    @property
    def disk_full(self) -> bool:
        """One is wanting, and there is no room to fill it."""
        left = self.segment_bytes - self._filled
        return self.wanting and (self._no_room or (self._allowed is not None and self._allowed < left))

    def allow(self, fillable: int) -> None:
        """So much may be filled from now on: what is free beyond that is for others."""
        self._allowed, self._no_room = fillable, False

    def prepare(self) -> bool:
        """One turn of work towards the spares that are to be ready, durable; False if there is no more to do, or no
        room for it (`disk_full`)."""
        if not self.wanting:
            if len(self._ready) > self._most:
                self._files.unlink(spare_path(self._directory, self._ready.pop()))
            return False
        if self.disk_full and self._allowed is not None:
            self._drop_draft()  # one that cannot be finished takes room from those who need little
            return False
        try:
            self._fill(PREPARE_BYTES)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._drop_draft()
            self._no_room = True
            return False
        self._no_room = False
        return self.wanting

    def take(self) -> str:
        """The path of a ready spare, made now if need be; a full disk raises."""
        while not self._ready:
            self._fill(self.segment_bytes)
        self._no_room = False
        return spare_path(self._directory, self._ready.popleft())

    def plan(self, numbers: Sequence[int]) -> list[Freed]:
        """What becomes of trimmed segments: spares while they are wanted, else their space goes back. Hand what was
        carried out to `freed`."""
        room = max(0, self._most - len(self._ready))
        plan: list[Freed] = []
        for number in numbers:
            spare = None
            if room and self._size_of(segment_path(self._directory, number)) == self.segment_bytes:
                spare, room = self._next, room - 1
                self._next += 1
            plan.append(Freed(number, spare))
        return plan

    def freed(self, done: Freed) -> None:
        """One segment of a plan was freed, durably."""
        if done.spare is not None:
            self._ready.append(done.spare)
            if not self.wanting:
                self._drop_draft()

    def close(self) -> None:
        if self._draft is not None:
            self._draft[1].close()
            self._draft = None
        self._filled = 0

    @property
    def _most(self) -> int:
        return self.keep if self.tight else max(self.keep, SPARE_SEGMENTS_MAX)

    def _fill(self, turn_bytes: int) -> None:
        if self._draft is None:
            path = spare_path(self._directory, self._next, unfinished=True)
            self._draft = self._next, self._files.open(path, create=True)
            self._next += 1
            self._filled = 0
        number, file = self._draft
        turn = min(turn_bytes, self.segment_bytes - self._filled)
        file.zero(self._filled, turn)
        file.sync()
        self._filled += turn
        if self._allowed is not None:
            self._allowed = max(0, self._allowed - turn)
        if self._filled == self.segment_bytes:
            self.close()
            draft = spare_path(self._directory, number, unfinished=True)
            self._files.rename(draft, spare_path(self._directory, number))
            self._files.sync_dir(os.path.dirname(draft))
            self._ready.append(number)

    def _drop_draft(self) -> None:
        if self._draft is not None:
            number = self._draft[0]
            self.close()
            self._files.unlink(spare_path(self._directory, number, unfinished=True))

    def _adopt(self, number: int) -> None:
        path = spare_path(self._directory, number)
        if self._size_of(path) == self.segment_bytes:  # however many: `prepare` gives back what is too much
            self._ready.append(number)
        else:
            self._files.unlink(path)

    def _size_of(self, path: str) -> int:
        file = self._files.open(path, write=False)
        try:
            return file.size()
        finally:
            file.close()
