"""A row says all that a session says, and cannot be misread: its checksum covers every column."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from mpy6a.checkpoint.images import COLUMNS, INTEGERS, TEXTS, BadRow, Row, crc_of, put_records, row_of, session_of
from mpy6a.session import OPEN, Delivery, Session

from .samples import sessions, slots, stored

POSITIONS, RECORDS_CRC, CRC, RECORDS = map(COLUMNS.index, ("positions", "records_crc", "crc", "records"))


def records_of(positions: bytes, crc: int, records: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    put_records(found, positions, crc, records)
    return found


@given(sessions())
def test_a_session_comes_back_from_its_row(sample: tuple[Session, list[bytes]]) -> None:
    """Every slot that `apply` reads, and every record, whatever the values."""
    session, records = sample
    row = row_of(session, records)
    assert len(row) == len(COLUMNS)
    again = session_of(row)
    assert slots(again) == slots(session)
    assert again.timer_ms == 0
    assert again.fence == session.fence
    by_reference = records_of(row[POSITIONS], row[RECORDS_CRC], row[RECORDS])
    assert [by_reference[reference] for reference in again.records] == records
    assert row_of(again, records) == row


@given(sessions())
def test_the_checksum_is_the_one_that_the_format_describes(sample: tuple[Session, list[bytes]]) -> None:
    """FORMAT.md, "Checksums of rows", worked off as a stranger would."""
    row = row_of(*sample)
    named = dict(zip(COLUMNS, row, strict=True))
    integers = [*INTEGERS, "records_crc"]
    texts = [(named[name] or b"") if not isinstance(named[name], str) else named[name].encode() for name in TEXTS]
    data = b"".join(struct.pack("<q", named[name]) for name in integers)
    data += b"".join(struct.pack("<I", len(text)) for text in texts) + b"".join(texts)
    assert named["crc"] == crc32c(data)
    assert named["records_crc"] == crc32c(named["records"])


def test_the_checksum_of_the_smaller_tables_is_that_of_the_example() -> None:
    """FORMAT.md, "Checksums of rows", example; text and NULL beside numbers as in `pauses`."""
    assert crc_of(3, 48213) == 410814648
    data = struct.pack("<qqII", 2, 0, 3, 0) + b"who"
    assert crc_of(2, 0, "who", None) == crc32c(data)


@given(sessions(), st.data())
def test_a_changed_row_is_refused(sample: tuple[Session, list[bytes]], data: st.DataObject) -> None:
    """Any column that says something else, its records' checksum included."""
    row = list(row_of(*sample))
    place = data.draw(st.integers(0, CRC))
    value = row[place]
    if isinstance(value, int):
        row[place] = value ^ 1 << data.draw(st.integers(0, 31))
    elif isinstance(value, bytes):
        row[place] = value + b"\0"
    else:
        row[place] = (value or "") + "x"
    with pytest.raises(BadRow, match="checksum"):
        session_of(tuple(row))


def test_changed_records_are_refused() -> None:
    """Bytes, length, and where one record ends and the next begins."""
    row = row_of(stored(5), [b"data"])
    positions, crc = row[POSITIONS], row[RECORDS_CRC]
    for records in (b"dat", b"data\0", b"dbta"):
        with pytest.raises(BadRow):
            records_of(positions, crc, records)
    with pytest.raises(BadRow, match="length"):
        records_of(b"", crc, b"data")
    with pytest.raises(BadRow, match="cut short"):
        records_of(positions[:-1], crc, b"data")


def test_a_row_needs_the_records_of_its_references() -> None:
    """A caller that lost a record is told before it is lost for good."""
    session = stored(5)
    for records in ([], [b"dat"], [b"data", b""]):
        with pytest.raises(ValueError, match=r"session 3\.5: other records"):
            row_of(session, records)


def test_a_session_that_was_never_repeated_has_no_delivery() -> None:
    """Most sessions never have one, and do not get one by waiting or by being filed."""
    opened = stored(5)
    opened.state, opened.delivery = OPEN, None
    assert session_of(row_of(opened, [b"data"])).delivery is None
    assert session_of(row_of(stored(5), [b"data"])).delivery is None
    begun = stored(5)
    begun.delivery = Delivery()
    begun.delivery.repeats = 1
    assert session_of(row_of(begun, [b"data"])).delivery is not None


def test_a_row_may_come_without_its_records() -> None:
    """A lookup does not read up to 16 MiB; the row is checked all the same."""
    row: Row = row_of(stored(5), [b"data"])
    assert slots(session_of((*row[:RECORDS], None))) == slots(stored(5))
    assert slots(session_of(row[:RECORDS])) == slots(stored(5))

