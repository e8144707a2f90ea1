"""Durations and sizes carry a unit, and mean the same whatever way they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from mpy6a import limits
from mpy6a.config.values import (
    Duration,
    DurationRange,
    Part,
    Size,
    Whole,
    parse_duration,
    parse_size,
    part_text,
)
from mpy6a.disk import Amount
from mpy6a.units import duration_text, size_text


@pytest.mark.parametrize(
    ("text", "ms"),
    [("500ms", 500), ("1m30s", 90_000), ("2h", 7_200_000), ("1d", 86_400_000), ("0", 0), (0, 0), ("0s", 0),
     ("1d2h3m4s5ms", 93_784_005), ("90s", 90_000)],
)  # fmt: skip
def test_durations(text: object, ms: int) -> None:
    """Whole numbers with ms, s, m, h, d, alone or together, the larger first; 0 needs no unit."""
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "5", 5, 5.0, True, False, None, "5 s", "s", "30s1m", "1s1s", "1.5s", "-1s", "+1s", "1S", "1sec",
     "٣s", "1s\n",     "1e3ms", "9" * 13 + "s", ["1s"]],
)  # fmt: skip
def test_no_durations(text: object) -> None:
    """Anything else is none: a bare number above all, and True, which Python takes for 1."""
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("64KiB", 65_536), ("5KB", 5_000), ("5MB", 5_000_000),
     ("1GB", 10**9), ("0", 0), (0, 0)],
)  # fmt: skip
def test_sizes(text: object, size: int) -> None:
    """Binary and decimal units, each as it is written."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", 5, True, "5M", "5mib", "5 MiB", "1.5MiB", "-1B", "1MiB1KiB", None])
def test_no_sizes(text: object) -> None:
    """A bare number, another case or a fraction is none."""
    assert parse_size(text) is None


@given(st.integers(0, limits.DURATION_MS_MAX))
def test_a_duration_reads_back_as_it_was_written(ms: int) -> None:
    """What an error message proposes means what it says."""
    assert parse_duration(duration_text(ms)) == ms


@given(st.integers(0, 1 << 39))
def test_a_size_reads_back_as_it_was_written(size: int) -> None:
    """The same for sizes."""
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5%", Amount(50)), ("0.5%", Amount(5)), ("2GiB", Amount(most=2 << 30)), ("5% max 2GiB", Amount(50, 2 << 30)),
     ("0", Amount(most=0)), (0, Amount(most=0)), ("0%", Amount(0)), ("50% max 0", Amount(500, 0))],
)  # fmt: skip
def test_parts_of_a_disk(text: object, amount: Amount) -> None:
    """A share, a size, or the smaller of both; each reads back as it was written."""
    part = Part(500, 0, 1 << 40)
    assert part(text) == amount
    assert part(part_text(amount)) == amount


@pytest.mark.parametrize(
    "text",
    ["", "5", 5, 5.0, True, None, "5 %", "%", "-1%", "1.25%", "5% max", "max 2GiB", "2GiB max 5%", "5% 2GiB",
     "5% max 5%", "50.1%", "51%", "2TiB", "5% max 1025GiB", "1025GiB", ["5%"]],
)  # fmt: skip
def test_no_parts_of_a_disk(text: object) -> None:
    """Anything else is none, and what is more than all that makes sense neither."""
    with pytest.raises(PydanticCustomError):
        Part(500, 0, 1 << 40)(text)


def test_bounds_belong_to_what_is_allowed() -> None:
    """Both ends are allowed, one beyond is not."""
    assert Duration(5, 10)("5ms") == 5
    assert Duration(5, 10)("10ms") == 10
    assert Whole(1, 3)(3) == 3
    assert Size(1, 8192, multiple=4096)("8KiB") == 8192
    assert DurationRange()("2s..2s") == (2_000, 2_000)
    for check, value in (
        (Duration(5, 10), "4ms"), (Duration(5, 10), "11ms"), (Whole(1, 3), 4), (Whole(1, 3), True),
        (Whole(1, 3), 1.0), (Size(1, 8192, multiple=4096), "5KiB"), (DurationRange(), "2001ms..2s"),
        (DurationRange(), "0..2s"), (DurationRange(), "2s..367d"),
    ):  # fmt: skip
        with pytest.raises(PydanticCustomError):
            check(value)
