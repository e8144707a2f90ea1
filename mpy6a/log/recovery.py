"""Find the end of a log after whatever happened to it, and make what is read there durable.

The rules (FORMAT.md, "Opening"): the first bad frame is *damage* if anything behind it shows that it had been
durable, else a *tear*. What stands above the last durable mark is written again, the same bytes at the same
offsets, because what reads back after a kill or a failed sync need not be on the disk. All behind is zeroed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from mpy6a.files import File
from mpy6a.framing import (
    HEADER_BYTES,
    WINDOW_BYTES,
    FrameType,
    Header,
    SegmentHeader,
    header_at,
    length_of,
)
from mpy6a.log.reading import SegmentReader, headers_behind

_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind the end of a segment's chain."""

    frames: int  # headers of this use of the segment: what a tear left, or damage cut off
    until: int  # end of the last of these frames; the chain's end if there is none
    proof: tuple[Header, int] | None  # the first header, and its offset, that makes the bad frame damage


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the last segment's good frames end, and what lies behind."""

    offset: int  # of the next frame
    next_index: int
    chain: int
    term: int
    level: int  # of the last frame; 0 if the segment has none
    log_ms: int
    marked: bool  # the last frame is a mark, or there is none
    rewrite_from: int  # offset of the first frame that no mark covers; `offset` if there is none
    behind: Behind


def find_tail(file: File, header: SegmentHeader, reader: SegmentReader | None = None) -> Tail:
    """Read the last segment to the end of its chain, from where `reader` stands if one is given. Changes nothing."""
    reader = reader or SegmentReader(file, header)
    # Frames that no mark covers yet, as (index that has to be known durable, offset). A mark is covered by a
    # frame behind it that is: it was synced before anything was written there.
    uncovered: deque[tuple[int, int]] = deque()
    for frame, at in reader.headers():
        uncovered.append((frame.first_index + max(frame.entries - 1, 0), at))
        while uncovered and uncovered[0][0] <= reader.synced:
            uncovered.popleft()
    last = reader.last
    return Tail(
        offset=reader.offset,
        next_index=reader.next_index,
        chain=reader.chain,
        term=reader.term,
        level=last.level if last else 0,
        log_ms=last.log_ms if last else 0,
        marked=last is None or last.type == FrameType.MARK,
        rewrite_from=uncovered[0][1] if uncovered else reader.offset,
        behind=look_behind(file, reader),
    )


def look_behind(file: File, reader: SegmentReader) -> Behind:
    """What stands behind the reader's end, and whether it shows that the bad frame there had been durable.

    It does if its `synced` says so; or if its first index is the bad frame's own, so that the bad frame held
    no entry: it was a mark, and a mark is synced before anything is written behind it.
    """
    start, index = reader.offset, reader.next_index
    frames, until, proof = 0, start, None
    bad = header_at(memoryview(file.read(HEADER_BYTES, start)), 0, reader.salt)
    if bad is not None:
        frames, until = 1, min(start + length_of(bad), reader.size)
        start = until  # its own body is no witness
    for found, at in headers_behind(file, reader.salt, start, reader.size):
        frames, until = frames + 1, min(at + length_of(found), reader.size)
        if proof is None and (found.synced >= index or found.first_index == index):
            proof = found, at
    return Behind(frames, until, proof)


def restore_tail(file: File, tail: Tail, size: int) -> None:
    """Write the uncovered frames again, zero everything behind that a writer can have left there, and sync.

    The window bounds both: no more than WINDOW_BYTES are ever written and not synced. It is zeroed whether
    or not it reads as zeroes: after a failed sync what is read is not what is on the disk.
    """
    at = tail.rewrite_from
    while at < tail.offset:
        data = file.read(min(_COPY_BYTES, tail.offset - at), at)
        file.write(data, at)
        at += len(data)
    file.zero(tail.offset, min(WINDOW_BYTES, size - tail.offset))
    file.sync()
