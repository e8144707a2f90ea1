"""Records as users give and read them, and the times and rare things beside them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mpy6a import errors
from mpy6a.client.records import UNSET, Record, delay_ms, encode, encode_given, extra_of
from mpy6a.model import BY_POLICY, Extra


def test_a_record_is_bytes_with_two_ways_to_read_it() -> None:
    record = Record('{"name": "Zoë"}'.encode())
    assert record == '{"name": "Zoë"}'.encode()
    assert record.json() == {"name": "Zoë"}
    assert record.text() == '{"name": "Zoë"}'
    with pytest.raises(ValueError):
        Record(b"\xff").text()
    with pytest.raises(ValueError):
        Record(b"{").json()


def test_records_are_given_as_bytes_or_as_json() -> None:
    """JSON is compact UTF-8; None is a JSON value, not an absence."""
    assert encode_given(b"x", UNSET) == b"x"
    assert encode_given(bytearray(b"x"), UNSET) == b"x"
    assert encode_given(memoryview(b"x"), UNSET) == b"x"
    assert encode_given(b"", UNSET) == b""
    assert encode_given(None, {"ü": [1, None]}) == '{"ü":[1,null]}'.encode()
    assert encode_given(None, None) == b"null"
    assert encode(None, UNSET) is None


def test_what_is_no_record_is_refused_with_what_to_do() -> None:
    with pytest.raises(errors.BadRequest, match="not both"):
        encode(b"x", 1)
    with pytest.raises(errors.BadRequest, match="missing"):
        encode_given(None, UNSET)
    with pytest.raises(errors.BadRequest, match="bytes, not str"):
        encode("text", UNSET)  # type: ignore[arg-type]  # what a user may do all the same
    with pytest.raises(errors.BadRequest, match="set is not JSON serializable"):
        encode(None, {1})


def test_delays_are_seconds_or_timedeltas() -> None:
    """Rounded up to a millisecond; None is the kind's own."""
    assert delay_ms(None) == BY_POLICY
    assert delay_ms(0) == 0
    assert delay_ms(30) == 30_000
    assert delay_ms(0.0001) == 1
    assert delay_ms(timedelta(minutes=1, microseconds=1)) == 60_001
    for wrong in (-1, float("inf"), float("nan"), timedelta(seconds=-1)):
        with pytest.raises(errors.BadRequest, match="from 0 on"):
            delay_ms(wrong)


def test_rare_things_are_checked_before_they_are_sent() -> None:
    assert extra_of(None, None, None, None) is None
    assert extra_of("k", None, "v1", "00-ab-cd-01") == Extra(0, "k", "", "v1", b"00-ab-cd-01")
    with pytest.raises(errors.TooLarge, match="key= has 512 bytes; at most 256"):
        extra_of("ü" * 256, None, None, None)
    with pytest.raises(errors.TooLarge, match="trace="):
        extra_of(None, None, None, b"x" * 129)
