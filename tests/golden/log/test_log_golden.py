"""The bytes of the log's format 1 are frozen: what they were once is what is written, and what is read.

A change of these bytes is a new format version (FORMAT.md, "Version rule"), never an edit of the golden file.
"""

from __future__ import annotations

from pathlib import Path

from mpy6a.framing import (
    FLAG_REENCODED,
    SEGMENT_HEADER_BYTES,
    Frame,
    FrameType,
    SegmentHeader,
    decode_segment_header,
    encode_group,
    encode_segment_header,
    mark,
)
from mpy6a.log.directory import Identity, identity_path, list_log, read_headers, read_identity, write_identity
from mpy6a.log.reading import SegmentReader
from tests.fakes.files import FakeFiles

GOLDEN = Path(__file__).parent
FORMAT = Path(__file__).parents[3] / "mpy6a" / "log" / "FORMAT.md"

HEADER = SegmentHeader(
    log=bytes(range(16)), number=1, salt=0x5EED5EED, chain=0, first_index=1, term=0, segment_bytes=65536
)
ORIGIN = bytes(range(0xA0, 0xB0))
OPENING = Frame(FrameType.OPENING, 0, 1, 1, 1, 1, 1_700_000_000_000, 0, bytes(16), b"opened", b"")
BATCH = Frame(
    FrameType.BATCH, FLAG_REENCODED, 1, 1, 2, 3, 1_700_000_000_005, 1000, ORIGIN, b"three operations",
    bytes.fromhex("0100000007000000"),
)  # fmt: skip
MARK = mark(term=1, level=1, first_index=5, log_ms=1_700_000_000_005)


def example() -> bytes:
    """The segment of FORMAT.md's worked example, up to its last frame."""
    opening, chain = encode_group([OPENING], salt=HEADER.salt, chain=HEADER.seed, synced=0)
    batch, chain = encode_group([BATCH], salt=HEADER.salt, chain=chain, synced=1)
    marked, _ = encode_group([MARK], salt=HEADER.salt, chain=chain, synced=4)
    return encode_segment_header(HEADER) + bytes(opening + batch + marked)


def hex_dump(data: bytes) -> str:
    """Lines of 16 bytes with their offset; a run of zero lines is one `*`."""
    lines: list[str] = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        if any(row):
            lines.append(f"{at:04x}  {row.hex(' ', 4)}")
        elif lines and lines[-1] != "*":
            lines.append("*")
    return "\n".join(lines) + "\n"


def test_what_is_written_is_what_it_was() -> None:
    """The example segment has its frozen bytes."""
    assert hex_dump(example()) == (GOLDEN / "segment.hex").read_text()


def test_what_was_written_is_still_read() -> None:
    """The frozen bytes, read from their file and not from today's encoder, are the example's values."""
    data = bytearray(HEADER.segment_bytes)
    for line in (GOLDEN / "segment.hex").read_text().splitlines():
        if line != "*":
            offset, row = line.split("  ", 1)
            data[int(offset, 16) : int(offset, 16) + 16] = bytes.fromhex(row)
    files = FakeFiles()
    file = files.open("/segment", create=True)
    file.write(data, 0)
    header = decode_segment_header(bytes(data[:SEGMENT_HEADER_BYTES]))
    assert header == HEADER
    reader = SegmentReader(file, HEADER)
    assert list(reader.frames()) == [OPENING, BATCH, MARK]
    assert (reader.next_index, reader.synced, reader.term) == (5, 4, 1)


def test_identity_has_its_frozen_bytes() -> None:
    """pipe.json is what it was, byte for byte."""
    files = FakeFiles()
    files.make_dir("/data")
    write_identity(files, "/data", Identity(pipe=7, log=bytes(range(16))))
    assert bytes(files.content(identity_path("/data"))) == (GOLDEN / "pipe.json").read_bytes()
    assert read_identity(files, "/data") == Identity(7, bytes(range(16)))


def test_names_are_read_as_documented() -> None:
    """A segment is found under the name that FORMAT.md gives it."""
    files = FakeFiles()
    for path in ("/data", "/data/log"):
        files.make_dir(path)
    file = files.open("/data/log/0000000000000001.seg", create=True)
    file.write(encode_segment_header(HEADER), 0)
    file.zero(SEGMENT_HEADER_BYTES, HEADER.segment_bytes - SEGMENT_HEADER_BYTES)
    listing = list_log(files, "/data")
    assert listing.segments == (1,)
    assert read_headers(files, "/data", Identity(7, HEADER.log), listing) == [HEADER]


def test_the_worked_example_of_the_text_is_true() -> None:
    """FORMAT.md shows exactly the frozen bytes."""
    text = FORMAT.read_text()
    assert (GOLDEN / "segment.hex").read_text() in text
    assert (GOLDEN / "pipe.json").read_text() in text
