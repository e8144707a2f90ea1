"""Walk the frames of one segment as far as the chain holds, and look behind the place where it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mpy6a.files import File
from mpy6a.framing import (
    ALIGN,
    HEADER_BYTES,
    MAGIC,
    SEGMENT_HEADER_BYTES,
    Frame,
    Header,
    SegmentHeader,
    chain_at,
    frame_at,
    header_at,
    length_of,
    position_of,
)

_READ_BYTES: Final = 1 << 20  # read at a time: well above a usual frame, small enough to stay in the cache
_MAGIC: Final = MAGIC.to_bytes(4, "little")


class SegmentReader:
    """The frames of one segment, in order, from its header on.

    After `frames` or `headers` came to its end, `offset`, `next_index`, `chain` and `term` tell where the
    chain holds up to; whether that is the log's end, a tear or damage is not decided here.
    """

    def __init__(self, file: File, header: SegmentHeader, end: int | None = None) -> None:
        """`end` bounds what is read: the offset known as the log's end, if it is."""
        self._file = file
        self._salt = header.salt
        self._number = header.number
        self._size = header.segment_bytes if end is None else end
        self._window = memoryview(b"")
        self._base = 0  # offset of the window's first byte
        self.offset = SEGMENT_HEADER_BYTES  # behind the last good frame
        self.next_index = header.first_index
        self.synced = header.first_index - 1  # highest index known durable; the header says so of all below it
        self.chain = header.seed
        self.term = header.term
        self.last: Header | None = None

    @property
    def salt(self) -> int:
        return self._salt

    @property
    def size(self) -> int:
        return self._size

    def look_again(self) -> None:
        """Forget what was read ahead: the segment may have grown since."""
        self._window, self._base = memoryview(b""), 0

    def frames(self) -> Iterator[Frame]:
        """The frames as values, marks included."""
        for header, at in self._walk():
            yield frame_at(self._window, at - self._base, header, position_of(self._number, at + HEADER_BYTES))

    def headers(self) -> Iterator[tuple[Header, int]]:
        """The same as (header, offset), bodies checked but not copied."""
        return self._walk()

    def _walk(self) -> Iterator[tuple[Header, int]]:
        salt, size = self._salt, self._size
        at = self.offset
        while self._has(at, HEADER_BYTES):
            header = header_at(self._window, at - self._base, salt)
            if header is None or header.first_index != self.next_index:
                return
            length = length_of(header)
            if at + length > size or not self._has(at, length):
                return
            if chain_at(self._window, at - self._base, length, self.chain) != header.chain_crc:
                return
            self.chain = header.chain_crc
            self.next_index = header.first_index + header.entries
            self.synced = max(self.synced, header.synced)
            self.term = header.term
            self.last = header
            self.offset = at + length
            yield header, at
            at = self.offset

    def _has(self, at: int, length: int) -> bool:
        if at + length <= self._base + len(self._window):
            return True
        if at + length > self._size:
            return False
        self._window = memoryview(self._file.read(min(max(length, _READ_BYTES), self._size - at), at))
        self._base = at
        return len(self._window) >= length


def headers_behind(file: File, salt: int, start: int, end: int) -> Iterator[tuple[Header, int]]:
    """Every header of this use of the segment at a multiple of 64 in start..end, whatever lies around it."""
    at = start
    while at < end:
        data = file.read(min(_READ_BYTES, end - at), at)
        if len(data) < HEADER_BYTES:
            return
        window = memoryview(data)
        # Headers that the window cuts off are found by the next one, which begins before them.
        usable = len(data) - HEADER_BYTES if at + len(data) < end else len(data)
        found = data.find(_MAGIC)
        while 0 <= found <= usable:
            if found % ALIGN == 0:
                header = header_at(window, found, salt)
                if header is not None:
                    yield header, at + found
            found = data.find(_MAGIC, found + 4)
        at += (usable // ALIGN + 1) * ALIGN
