"""Frames and segment headers: what is written is read, and nothing else is ever believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpy6a.framing import (
    ALIGN,
    HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Frame,
    FrameType,
    OtherVersion,
    SegmentHeader,
    chain_at,
    decode_segment_header,
    encode_group,
    encode_segment_header,
    frame_at,
    frame_bytes,
    header_at,
    length_of,
    mark,
    place_of,
    position_of,
)
from tests.profile import some

SALT, CHAIN = 0x1234ABCD, 0x0BADF00D
HEADER = SegmentHeader(
    log=bytes(range(16)), number=3, salt=SALT, chain=CHAIN, first_index=77, term=5, segment_bytes=1 << 26
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
frames = st.builds(
    Frame,
    type=st.sampled_from(FrameType),
    flags=st.integers(0, 255),
    level=st.integers(0, 2**16 - 1),
    term=u32,
    first_index=u64,
    count=u32,
    log_ms=u64,
    principal=u64,
    origin=st.binary(min_size=16, max_size=16),
    batch=st.binary(max_size=300),
    verdicts=st.binary(max_size=40),
)


def believe(data: bytes, salt: int, chain: int) -> list[tuple[Frame, int]]:
    """(frame, its synced) as far as the chain holds: the reader's rule, on bytes."""
    window, at = memoryview(data), 0
    found: list[tuple[Frame, int]] = []
    while (header := header_at(window, at, salt)) is not None:
        length = length_of(header)
        if at + length > len(data) or chain_at(window, at, length, chain) != header.chain_crc:
            break
        found.append((frame_at(window, at, header, 0), header.synced))
        chain = header.chain_crc
        at += length
    return found


@given(st.lists(frames, max_size=5), u32, u32, u64)
def test_what_is_written_is_read(group: list[Frame], salt: int, chain: int, synced: int) -> None:
    """Every field of every frame comes back, and the chain crc returned is the last frame's."""
    data, last = encode_group(group, salt=salt, chain=chain, synced=synced)
    assert believe(bytes(data), salt, chain) == [(frame, synced) for frame in group]
    assert len(data) == sum(frame_bytes(len(frame.batch), len(frame.verdicts)) for frame in group)
    assert len(data) % ALIGN == 0
    if not group:
        assert last == chain


@given(st.lists(frames, min_size=2, max_size=4), u32, u32)
def test_a_group_is_the_same_bytes_as_its_frames_one_by_one(group: list[Frame], salt: int, chain: int) -> None:
    """How frames were grouped leaves no trace but `synced`."""
    whole, last = encode_group(group, salt=salt, chain=chain, synced=9)
    single = bytearray()
    for frame in group:
        data, chain = encode_group([frame], salt=salt, chain=chain, synced=9)
        single += data
    assert (whole, last) == (single, chain)


BATCH = Frame(1, 1, 2, 3, 100, 2, 5, 6, bytes(range(16)), b"two operations, seventy bytes or so" * 2, bytes(16))


@pytest.mark.parametrize("frame", [BATCH, mark(term=3, level=2, first_index=102, log_ms=5)])
def test_a_frame_cut_at_any_byte_is_not_believed(frame: Frame) -> None:
    """Truncation at every byte."""
    data = bytes(encode_group([frame], salt=SALT, chain=CHAIN, synced=99)[0])
    for end in range(len(data)):
        assert believe(data[:end], SALT, CHAIN) == []
        assert believe(data[:end] + bytes(len(data) - end), SALT, CHAIN) in ([], [(frame, 99)])
    assert believe(data[:HEADER_BYTES] + bytes(len(data) - HEADER_BYTES), SALT, CHAIN) in ([], [(frame, 99)])


def test_a_frame_with_any_bit_turned_is_not_believed() -> None:
    """Flip of every bit: header, body, verdicts and padding."""
    data = encode_group([BATCH], salt=SALT, chain=CHAIN, synced=99)[0]
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert believe(bytes(data), SALT, CHAIN) == [], f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8


def test_a_header_is_recognised_behind_damage_but_only_in_its_own_use() -> None:
    """`header_at` needs the salt alone: not the chain, not a whole body; and another salt sees nothing."""
    data, _ = encode_group([BATCH], salt=SALT, chain=CHAIN, synced=99)
    data[HEADER_BYTES] ^= 1
    header = header_at(memoryview(data), 0, SALT)
    assert header is not None
    assert (header.synced, header.first_index, header.entries) == (99, 100, 2)
    assert header_at(memoryview(data), 0, SALT ^ 1) is None


def test_a_frame_continues_one_history_only() -> None:
    """A frame behind another frame than it was written behind is not believed, whatever its own bytes."""
    other = replace(BATCH, log_ms=6)
    after = replace(BATCH, first_index=102)
    data, _ = encode_group([BATCH, after], salt=SALT, chain=CHAIN, synced=99)
    swapped, _ = encode_group([other], salt=SALT, chain=CHAIN, synced=99)
    mixed = bytes(swapped) + bytes(data[len(swapped) :])
    assert believe(mixed, SALT, CHAIN) == [(other, 99)]


def test_a_field_out_of_its_range_is_refused() -> None:
    """Nothing is cut to fit."""
    with pytest.raises(struct.error):
        encode_group([replace(BATCH, term=2**32)], salt=SALT, chain=CHAIN, synced=0)


@given(
    st.builds(
        SegmentHeader,
        log=st.binary(min_size=16, max_size=16),
        number=u64,
        salt=u32,
        chain=u32,
        first_index=u64,
        term=u32,
        segment_bytes=u64,
    )
)
def test_a_segment_header_comes_back(header: SegmentHeader) -> None:
    """One block of 4,096 bytes."""
    block = encode_segment_header(header)
    assert len(block) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(block) == header


def test_a_segment_header_with_any_bit_turned_or_cut_is_none() -> None:
    """Flip of every bit of the block, truncation at every byte."""
    block = bytearray(encode_segment_header(HEADER))
    for bit in some(8 * len(block)):
        block[bit // 8] ^= 1 << bit % 8
        assert decode_segment_header(bytes(block)) is None, f"bit {bit}"
        block[bit // 8] ^= 1 << bit % 8
    for end in some(len(block)):
        assert decode_segment_header(bytes(block[:end])) is None


def test_each_use_of_a_file_seeds_its_chain_anew() -> None:
    """Salt, number and what came before all count."""
    seeds = {
        changed.seed
        for changed in (
            HEADER,
            replace(HEADER, salt=1),
            replace(HEADER, number=4),
            replace(HEADER, chain=1),
            replace(HEADER, log=bytes(16)),
        )
    }
    assert len(seeds) == 5


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole header of another version is no damage: it says which."""
    monkeypatch.setattr("mpy6a.framing.FORMAT_VERSION", 2)
    block = encode_segment_header(HEADER)
    monkeypatch.undo()
    with pytest.raises(OtherVersion, match="format version 2"):
        decode_segment_header(block)


@given(st.integers(0, 2**32 - 1), u32)
def test_a_position_is_a_place(number: int, offset: int) -> None:
    """Position and (segment, offset) are the same thing; adding to a position moves on in the file."""
    assert place_of(position_of(number, offset)) == (number, offset)
