"""Read a log that another process writes, as far as that one says that it is durable. Nothing is locked or written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mpy6a.errors import CannotStart
from mpy6a.files import File, Files
from mpy6a.framing import Frame, FrameType, SegmentHeader, place_of, position_of
from mpy6a.limits import OPEN_SEGMENTS_MAX
from mpy6a.log.directory import (
    damaged,
    identity_path,
    list_log,
    read_identity,
    read_segment_header,
    segment_path,
)
from mpy6a.log.reading import SegmentReader
from mpy6a.log.replaying import check_joins

_WINDOW_BITS: Final = 16
_WINDOW_LOW: Final = (1 << _WINDOW_BITS) - 1
_WINDOWS_MAX: Final = 64  # 4 MiB: a session that lives for 10,000 operations still finds its first record


class LogFollower:
    """Frames from `next_index` on, in order, each once. The writer keeps the segments that are still to be read."""

    def __init__(self, files: Files, directory: str, next_index: int) -> None:
        """Raises CannotStart (no log there), DamagedLog (no segment reaches down to `next_index`), FormatVersion."""
        identity = read_identity(files, directory)
        if identity is None:
            raise CannotStart(f"there is no {identity_path(directory)}: name the directory that `data:` names")
        self.log = identity.log
        self.pipe = identity.pipe
        self.next_index = next_index
        self._files = files
        self._directory = directory
        self._identity = identity
        self._open: dict[int, File] = {}
        self._windows: dict[int, bytes] = {}  # position >> _WINDOW_BITS -> bytes of a segment, oldest first
        self._begin(self._segment_of(next_index))

    @property
    def position(self) -> int:
        """The log's position behind the last frame that was read."""
        return position_of(self._header.number, self._reader.offset)

    def frames(self, until: int) -> Iterator[Frame]:
        """The frames below index `until`, which has to be known durable and the first index of a frame to come.

        Marks are left out. Raises DamagedLog where the chain breaks before.
        """
        while self.next_index < until:
            self._reader.look_again()
            for frame in self._reader.frames():
                if frame.first_index + frame.count > self.next_index and frame.type != FrameType.MARK:
                    self.next_index = frame.first_index + frame.count
                    yield frame
                if self._reader.next_index >= until:
                    break
            if self.next_index < until:
                self._next_segment()

    def read(self, position: int, length: int) -> bytes:
        """Bytes of a frame that was read, from its segment.

        What stands beside them is kept for a while: records of sessions that end together were written together.
        """
        window = position >> _WINDOW_BITS
        data = self._windows.get(window)
        if data is None and window << _WINDOW_BITS < self.position - (1 << _WINDOW_BITS):  # it will not change any more
            data = self._windows[window] = self._read(window << _WINDOW_BITS, 1 << _WINDOW_BITS)
            if len(self._windows) > _WINDOWS_MAX:
                del self._windows[next(iter(self._windows))]
        at = position & _WINDOW_LOW
        if data is not None and at + length <= len(data):
            return data[at : at + length]
        number, offset = place_of(position)
        data = self._read(position, length)
        if len(data) != length:
            raise damaged(segment_path(self._directory, number), offset, None, "the file ends before the record")
        return data

    def _read(self, position: int, length: int) -> bytes:
        number, offset = place_of(position)
        return self._file(number).read(length, offset)

    def forget_below(self, position: int) -> None:
        """Close what the writer may recycle: segments below that of `position`."""
        self._windows.clear()
        for number in [number for number in self._open if number < place_of(position)[0]]:
            self._open.pop(number).close()

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _segment_of(self, index: int) -> SegmentHeader:
        found: SegmentHeader | None = None
        for number in reversed(list_log(self._files, self._directory).segments):
            found = read_segment_header(self._files, self._directory, self._identity, number)
            if found.first_index <= index:
                return found
        first = "no segment" if found is None else f"index {found.first_index}"
        what = f"the log begins with {first}, index {index} is wanted"
        raise damaged(segment_path(self._directory, 0 if found is None else found.number), 0, index, what)

    def _begin(self, header: SegmentHeader) -> None:
        self._header = header
        self._reader = SegmentReader(self._file(header.number), header)

    def _next_segment(self) -> None:
        number = self._header.number + 1
        path = segment_path(self._directory, self._header.number)
        if not self._files.exists(segment_path(self._directory, number)):
            what = "a bad frame, and the pipe says that it is durable"
            raise damaged(path, self._reader.offset, self._reader.next_index, what)
        after = read_segment_header(self._files, self._directory, self._identity, number)
        check_joins(path, self._reader, after)
        self._begin(after)

    def _file(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            if len(self._open) >= OPEN_SEGMENTS_MAX:
                oldest = next(one for one in self._open if one != self._header.number)
                self._open.pop(oldest).close()
            file = self._files.open(segment_path(self._directory, number), write=False)
            self._open[number] = file
        return file
