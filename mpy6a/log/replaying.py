"""Walk the frames of a whole log, segment after segment, and refuse where one does not join the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mpy6a.errors import FormatVersion
from mpy6a.files import Files
from mpy6a.framing import FRAME_TYPES, Frame, FrameType, SegmentHeader
from mpy6a.log import Progress
from mpy6a.log.directory import damaged, segment_path
from mpy6a.log.reading import SegmentReader
from mpy6a.state import LEVEL

_PROGRESS_BYTES: Final = 1 << 20  # a report at most this often


def replay_segments(
    files: Files, directory: str, headers: Sequence[SegmentHeader], end: int, progress: Progress | None
) -> Iterator[Frame]:
    """The frames of a log whose last segment ends at offset `end`, marks left out; one segment open at a time.

    Raises DamagedLog where a segment's chain does not reach the next one's beginning (or `end`), FormatVersion at
    a frame type that this release does not know.
    """
    sizes = [header.segment_bytes for header in headers[:-1]] + [end]
    total, done = sum(sizes), 0
    for place, header in enumerate(headers):
        path = segment_path(directory, header.number)
        file = files.open(path, write=False)
        try:
            reader = SegmentReader(file, header, sizes[place])
            reported = 0
            for frame in reader.frames():
                if frame.type != FrameType.MARK:
                    _check_known(path, frame)
                    yield frame
                if progress is not None and reader.offset - reported > _PROGRESS_BYTES:
                    reported = reader.offset
                    progress(done + reported, total)
        finally:
            file.close()
        if place + 1 < len(headers):
            check_joins(path, reader, headers[place + 1])
        elif reader.offset != end:
            raise damaged(path, reader.offset, reader.next_index, "a bad frame, which was good a moment ago")
        done += sizes[place]
        if progress is not None:
            progress(done, total)


def check_joins(path: str, reader: SegmentReader, after: SegmentHeader) -> None:
    """Refuse a segment whose chain does not end where the next one begins: it was durable up to there."""
    if (reader.chain, reader.next_index, reader.term) != (after.chain, after.first_index, after.term):
        what = f"a bad frame, and segment {after.number} shows that it was durable"
        raise damaged(path, reader.offset, reader.next_index, what)


def _check_known(path: str, frame: Frame) -> None:
    """Refuse a frame whose meaning this release does not know: of another type, or of a higher apply level."""
    if frame.type not in FRAME_TYPES:
        raise FormatVersion(
            f"{path} holds a frame of type {frame.type} (index {frame.first_index}), which this release does not "
            "know: use the release that wrote it"
        )
    if frame.level > LEVEL:
        raise FormatVersion(
            f"{path} holds a frame of apply level {frame.level} (index {frame.first_index}), known is {LEVEL}:"
            " use a release that knows it"
        )
