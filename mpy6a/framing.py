"""Turn frames into the bytes of a segment and back, and say which bytes can be believed.

Pure: bytes in, values out. The grammar, every offset and the chain of checksums are in mpy6a/log/FORMAT.md;
the golden bytes in tests/golden/log hold both to it. What a bad frame *means* (torn tail or damage) is
decided by mpy6a/log/recovery.py; here a frame is only recognised (`header_at`) and believed (`chain_at`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from mpy6a.checksum import crc32c

FORMAT_VERSION: Final = 1  # of segments and of pipe.json; FORMAT.md, "Version rule"
ALIGN: Final = 64  # a frame begins at a multiple of it: the step of the scan behind a bad frame
HEADER_BYTES: Final = 80
SEGMENT_HEADER_BYTES: Final = 4096  # one block: never shares a sector with a frame
WINDOW_BYTES: Final = 16 * 1024 * 1024  # a writer never has more than this written and not synced

MAGIC: Final = int.from_bytes(b"mp6F", "little")
SEGMENT_MAGIC: Final = b"mpy6aseg"

FLAG_REENCODED: Final = 1  # the batch was re-encoded: a refused record is null, or it was not in row form

_HEADER: Final = Struct("<IIIIIBBHIIQQQQ16s")
_U32: Final = Struct("<I")
_SEGMENT: Final = Struct("<8sHHI16sQQIIQ")  # magic version zero term uuid number first_index salt chain bytes
_SEGMENT_USED: Final = _SEGMENT.size  # its crc follows
_NO_ORIGIN: Final = bytes(16)


class FrameType(IntEnum):
    """What a frame's body is. The numbers are frozen; a new one raises FORMAT_VERSION."""

    BATCH = 1
    POLICY = 2
    OPENING = 3
    PROPOSALS = 4
    ADMIN = 5
    MARK = 6


FRAME_TYPES: Final = frozenset(int(kind) for kind in FrameType)


@dataclass(slots=True)
class Frame:
    """One frame, as the pipe hands it to the log and gets it back committed.

    Not frozen: the log sets `position` when the frame is committed, and the pipe fills `decoded`; neither
    counts for equality. A slotted plain class is what the hot path affords (frozen costs 1.5 us more a
    frame).
    """

    type: int  # u8, a FrameType
    flags: int  # u8, FLAG_*
    level: int  # u16 apply level
    term: int  # u32
    first_index: int  # u64 index of the first entry
    count: int  # u32 entries; at least 1, but 0 in a MARK
    log_ms: int  # u64 log time
    principal: int  # u64 who sent it; 0 unknown
    origin: bytes  # 16 B client incarnation; zeros for the pipe's own frames
    batch: bytes  # the batch verbatim, or the Cap'n Proto body of the other types
    verdicts: bytes  # rows of <I position><H code><H flags>, ascending
    position: int = field(default=0, compare=False)  # opaque; + offset in batch addresses bytes for Log.read
    decoded: object = field(default=None, compare=False, repr=False)  # cache of a pure function of batch


class Header(NamedTuple):
    """The fields of a frame header as they stand on disk, in order."""

    magic: int
    header_crc: int
    chain_crc: int
    batch_length: int
    verdicts_length: int
    type: int
    flags: int
    level: int
    term: int
    entries: int  # Frame.count; `count` is a tuple's own
    first_index: int
    log_ms: int
    synced: int
    principal: int
    origin: bytes


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first block of a segment: which log and place it is, and what seeds its chain."""

    log: bytes  # 16 B uuid of the log
    number: int  # u64, rising by one; never used again in this log
    salt: int  # u32 drawn anew at each use of the file
    chain: int  # u32 chain crc of the last frame of the segment before; 0 in segment 1
    first_index: int  # u64 of the next entry; all below it was durable when this header was written
    term: int  # u32 of the last frame before
    segment_bytes: int  # u64 size of the file

    @property
    def seed(self) -> int:
        """What seeds the chain of the first frame: this header's own crc."""
        return crc32c(_pack_segment(self))


class OtherVersion(ValueError):
    """A segment header of a version that this release does not read; `.version` names it."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}")
        self.version = version


def frame_bytes(batch_length: int, verdicts_length: int) -> int:
    """Bytes that a frame takes in a segment, padding included."""
    return (HEADER_BYTES + batch_length + verdicts_length + ALIGN - 1) & -ALIGN


def encode_group(frames: Sequence[Frame], *, salt: int, chain: int, synced: int) -> tuple[bytearray, int]:
    """The bytes of consecutive frames, and the chain crc after the last of them; one pass, one copy.

    The caller owns the buffer. Fields out of their range raise struct.error; frames are not looked into.
    """
    buffer = bytearray(sum([frame_bytes(len(frame.batch), len(frame.verdicts)) for frame in frames]))
    view = memoryview(buffer)
    at = 0
    for frame in frames:
        batch, verdicts = frame.batch, frame.verdicts
        batch_length, verdicts_length = len(batch), len(verdicts)
        _HEADER.pack_into(
            buffer, at, MAGIC, 0, 0, batch_length, verdicts_length, frame.type, frame.flags, frame.level, frame.term,
            frame.count, frame.first_index, frame.log_ms, synced, frame.principal, frame.origin,
        )  # fmt: skip
        start = at + HEADER_BYTES
        view[start : start + batch_length] = batch
        if verdicts_length:
            start += batch_length
            view[start : start + verdicts_length] = verdicts
        end = at + frame_bytes(batch_length, verdicts_length)
        chain = crc32c(view[at + 12 : end], chain)
        _U32.pack_into(buffer, at + 8, chain)
        _U32.pack_into(buffer, at + 4, crc32c(view[at + 8 : at + HEADER_BYTES], salt))
        at = end
    return buffer, chain


def mark(*, term: int, level: int, first_index: int, log_ms: int) -> Frame:
    """The frame that an idle pipe writes so that its `synced` covers everything before it."""
    return Frame(FrameType.MARK, 0, level, term, first_index, 0, log_ms, 0, _NO_ORIGIN, b"", b"")


def header_at(window: memoryview, at: int, salt: int) -> Header | None:
    """The header at `at` if one of this use of the segment stands there (magic and header_crc), else None.

    Says nothing about the body, nor that the frame continues a chain. Needs HEADER_BYTES in the window.
    """
    if len(window) - at < HEADER_BYTES:
        return None
    header = Header._make(_HEADER.unpack_from(window, at))
    if header.magic != MAGIC or crc32c(window[at + 8 : at + HEADER_BYTES], salt) != header.header_crc:
        return None
    return header


def length_of(header: Header) -> int:
    """Bytes from the frame's beginning to the next one's."""
    return (HEADER_BYTES + header.batch_length + header.verdicts_length + ALIGN - 1) & -ALIGN


def chain_at(window: memoryview, at: int, length: int, chain: int) -> int:
    """The chain crc that the frame of `length` bytes at `at` must carry to follow a frame with crc `chain`."""
    return crc32c(window[at + 12 : at + length], chain)


def frame_at(window: memoryview, at: int, header: Header, position: int) -> Frame:
    """The frame at `at`, its bytes copied out of the window."""
    start = at + HEADER_BYTES
    middle = start + header.batch_length
    batch = bytes(window[start:middle])
    verdicts = bytes(window[middle : middle + header.verdicts_length]) if header.verdicts_length else b""
    return Frame(
        header.type, header.flags, header.level, header.term, header.first_index, header.entries, header.log_ms,
        header.principal, header.origin, batch, verdicts, position,
    )  # fmt: skip


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first block of a segment."""
    used = _pack_segment(header)
    return (used + _U32.pack(crc32c(used))).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_segment_header(block: bytes) -> SegmentHeader | None:
    """The header in a segment's first block; None if none stands there. Raises OtherVersion."""
    if len(block) != SEGMENT_HEADER_BYTES:
        return None
    used = block[:_SEGMENT_USED]
    if block[:8] != SEGMENT_MAGIC or _U32.unpack_from(block, _SEGMENT_USED)[0] != crc32c(used):
        return None
    _, version, zero, term, log, number, first_index, salt, chain, size = _SEGMENT.unpack(used)
    if version != FORMAT_VERSION:
        raise OtherVersion(version)
    if zero or any(block[_SEGMENT_USED + 4 :]):
        return None
    return SegmentHeader(log, number, salt, chain, first_index, term, size)


def position_of(number: int, offset: int) -> int:
    """The position of the byte at `offset` of segment `number`; offsets are below 4 GiB."""
    return number << 32 | offset


def place_of(position: int) -> tuple[int, int]:
    """(segment number, offset) of a position."""
    return position >> 32, position & 0xFFFF_FFFF


def _pack_segment(header: SegmentHeader) -> bytes:
    return _SEGMENT.pack(
        SEGMENT_MAGIC, FORMAT_VERSION, 0, header.term, header.log, header.number, header.first_index, header.salt,
        header.chain, header.segment_bytes,
    )  # fmt: skip
