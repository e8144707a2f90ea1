"""Keep a file ready to become the next segment: zero-filled ahead in small turns, or a trimmed one used again."""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import Final

from mpy6a.files import File, Files
from mpy6a.limits import PREPARE_BYTES, SPARE_SEGMENTS_MAX
from mpy6a.log.directory import Listing, segment_path, segments_dir, spare_path

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


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
        self.disk_full = False  # the last try to fill a spare found no room
        for number in listing.unfinished:
            files.unlink(spare_path(directory, number, unfinished=True))
        for number in listing.spares:
            self._adopt(number)

    def __len__(self) -> int:
        return len(self._ready)

    def prepare(self) -> bool:
        """One turn of work towards a ready spare, durable; False if there is one, or no room for it (`disk_full`)."""
        if self._ready:
            return False
        try:
            self._fill(PREPARE_BYTES)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.disk_full = True
            return False
        self.disk_full = False
        return not self._ready

    def take(self) -> str:
        """The path of a ready spare, made now if need be; a full disk raises."""
        while not self._ready:
            self._fill(self.segment_bytes)
        self.disk_full = False
        return spare_path(self._directory, self._ready.popleft())

    def recycle(self, number: int) -> None:
        """Turn a trimmed segment into a spare, or give its space back. Durable, so that no gap can come back."""
        path = segment_path(self._directory, number)
        if len(self._ready) < SPARE_SEGMENTS_MAX and self._size_of(path) == self.segment_bytes:
            spare = self._next
            self._next += 1
            self._files.rename(path, spare_path(self._directory, spare))
            self._files.sync_dir(segments_dir(self._directory))
            self._ready.append(spare)
            self._drop_draft()
        else:
            self._files.unlink(path)
            self._files.sync_dir(segments_dir(self._directory))

    def close(self) -> None:
        if self._draft is not None:
            self._draft[1].close()
            self._draft = None

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
        if len(self._ready) < SPARE_SEGMENTS_MAX and self._size_of(path) == self.segment_bytes:
            self._ready.append(number)
        else:
            self._files.unlink(path)

    def _size_of(self, path: str) -> int:
        file = self._files.open(path, write=False)
        try:
            return file.size()
        finally:
            file.close()
