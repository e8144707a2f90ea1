"""Begin a segment in its middle: frames that say nothing, behind which the chain goes on with a checksum that is given.

A segment that is damaged below the checkpoint holds frames above that are needed. They have to stay where they are,
because positions name records, and their chain is fixed. So the bytes before them become MARKs with a body, and the
last four bytes of the last one are chosen so that the chain comes out. A CRC is linear: one such choice there is.
"""

from __future__ import annotations

from typing import Final

from mpy6a.checksum import crc32c
from mpy6a.framing import (
    HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Frame,
    FrameType,
    encode_group,
    frame_bytes,
)
from mpy6a.model import NOBODY

_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, reflected
_FILLER_BYTES: Final = 1 << 20  # of one MARK: a reader takes a frame into memory whole
_ALL: Final = 0xFFFFFFFF


def fill_until(
    offset: int, *, seed: int, salt: int, chain: int, next_index: int, term: int, level: int, log_ms: int
) -> bytes:
    """The bytes of a segment from its first frame to `offset`: MARKs, behind which the chain is `chain`.

    `seed` and `salt` are the segment's; `next_index` is that of the frame at `offset`, all below it being durable.
    Nothing if `offset` is where the first frame begins.
    """
    left = offset - SEGMENT_HEADER_BYTES
    data = bytearray()
    while left:
        size = left if left < 2 * _FILLER_BYTES else _FILLER_BYTES
        left -= size

        def mark(body: bytes) -> list[Frame]:
            return [Frame(FrameType.MARK, 0, level, term, next_index, 0, log_ms, 0, NOBODY, body, b"")]

        body = bytes(size - HEADER_BYTES)
        assert frame_bytes(len(body), 0) == size, "frames begin and end at multiples of 64"
        encoded, after = encode_group(mark(body), salt=salt, chain=seed, synced=next_index - 1)
        if not left:
            last = bytes_before(crc32c(memoryview(encoded)[12:-4], seed), chain)
            encoded, after = encode_group(mark(body[:-4] + last), salt=salt, chain=seed, synced=next_index - 1)
            assert after == chain, "a CRC is linear"
        data += encoded
        seed = after
    return bytes(data)


def bytes_before(before: int, after: int) -> bytes:
    """The four bytes w with crc32c(w, before) == after."""
    register = ~after & _ALL
    for _ in range(32):  # a step of the register, undone
        register = ((register ^ _POLYNOMIAL) << 1 | 1) & _ALL if register >> 31 else register << 1
    return (register ^ (~before & _ALL)).to_bytes(4, "little")
