"""Disk levels as a function of figures: when they rise, when they go, and what is kept for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpy6a import limits
from mpy6a.disk import NO_SEGMENT, ON_RESERVE, SPENT, Amount, Bounds, DiskSettings, Standing, fillable, judge

GIB = 1 << 30
SEGMENT = 16 << 20
BOUNDS = Bounds(low=1000, very_low=400, reserve=300, slack=100, last=30)
ROOMY = 10_000


def free(*amounts: int) -> list[int]:
    """The level after each of these amounts of free bytes, in a log that has all the room it wants."""
    standing, levels = Standing(), []
    for amount in amounts:
        standing = judge(standing, BOUNDS, amount, ROOMY, cramped=False)
        levels.append(standing.level)
    return levels


@pytest.mark.parametrize(
    ("amount", "total", "found"),
    [
        (Amount(50), 1000, 50), (Amount(most=70), 1000, 70), (Amount(most=70), 10, 70), (Amount(50, 70), 1000, 50),
        (Amount(50, 70), 10_000, 70), (Amount(0), 1000, 0), (Amount(1000), 1000, 1000),
    ],
)  # fmt: skip
def test_an_amount_is_a_share_or_bytes_or_the_smaller_of_both(amount: Amount, total: int, found: int) -> None:
    assert amount.of(total) == found


@pytest.mark.parametrize("total", [0, 100 << 20, 300 << 20, GIB, 20 * GIB, 10_000 * GIB])
def test_the_defaults_fit_small_disks_and_big_ones(total: int) -> None:
    """Never more than some per cent of the disk, nor more than bytes that matter; but a checkpoint has room to work,
    and the reserve is worth the name."""
    bounds = Bounds.of(DiskSettings(), total, SEGMENT)
    assert bounds.very_low == max(min(total // 50, GIB // 4), 5 * SEGMENT // 4)
    assert bounds.low == max(min(total // 20, GIB), bounds.very_low, 2 * SEGMENT)
    assert bounds.reserve == max(min(total // 20, 32 << 20), 6 << 20)


def test_low_is_never_below_very_low() -> None:
    """A share and a size can only be compared when the disk is known."""
    bounds = Bounds.of(DiskSettings(low=Amount(10), very_low=Amount(most=5_000)), 100_000, 400)
    assert (bounds.low, bounds.very_low) == (5_000, 5_000)


def test_levels_rise_at_their_thresholds() -> None:
    assert free(1000) == [0]
    assert free(999) == [1]
    assert free(400) == [1]
    assert free(399) == [2]


def test_a_level_goes_by_itself_when_a_quarter_more_is_free() -> None:
    """And not before: what is freed at the threshold is used at once, and nobody is served by a level that flaps."""
    assert free(999, 1000, 1249, 1250, 1249) == [1, 1, 1, 0, 0]
    assert free(399, 400, 499, 500, 1000, 1250) == [2, 2, 2, 1, 1, 0]
    assert free(0, 5000) == [2, 0]


def test_a_level_names_its_cause() -> None:
    def cause(amount: int, room: int, cramped: bool) -> str:
        return judge(Standing(), BOUNDS, amount, room, cramped).cause

    assert cause(5000, 0, False) == ""
    assert "`low`" in cause(500, 0, False)
    assert "`very_low`" in cause(300, ROOMY, True)
    assert cause(5000, ROOMY, True) == NO_SEGMENT
    assert cause(300, 399, True) == ON_RESERVE
    assert cause(5000, 29, True) == SPENT


def test_a_log_without_a_next_segment_raises_the_level_step_by_step() -> None:
    """However much the file system says is free: quotas and others' reserves do not show there."""
    found = [judge(Standing(), BOUNDS, 5000, room, cramped=True) for room in (5000, 400, 399, 30, 29)]
    assert [standing.level for standing in found] == [1, 1, 2, 2, 2]
    assert [standing.on_reserve for standing in found] == [False, False, True, True, True]
    assert [standing.spent for standing in found] == [False, False, False, False, True]
    assert judge(found[-1], BOUNDS, 5000, 29, cramped=False) == Standing()


def test_the_log_leaves_what_is_very_low_to_the_checkpoint() -> None:
    """And begins again only with a quarter more."""
    assert fillable(BOUNDS, 1000, cramped=False) == 600
    assert fillable(BOUNDS, 1000, cramped=True) == 500
    assert fillable(BOUNDS, 300, cramped=False) == 0


@given(
    st.integers(limits.DISK_RESERVE_BYTES_MIN, limits.DISK_RESERVE_BYTES_MAX),
    st.integers(limits.SEGMENT_BYTES_MIN >> 12, limits.SEGMENT_BYTES_MAX >> 12),
)
def test_so_many_spares_are_kept_that_the_reserve_is_whole_when_no_more_can_be_made(reserve: int, pages: int) -> None:
    """At worst that shows with half a segment left and the spare before it not replaced."""
    segment = pages << 12
    spares = Bounds(0, 0, reserve).spares(segment)
    assert (spares - 1) * segment + segment // 2 >= reserve
    assert spares * segment >= reserve + limits.DISK_SLACK_BYTES
    assert (spares - 1) * segment < reserve + max(limits.DISK_SLACK_BYTES, segment // 2)
    assert reserve <= Bounds(0, 0, reserve).spares_least(segment) * segment < reserve + segment


def test_one_spare_is_enough_by_default() -> None:
    assert Bounds.of(DiskSettings(), 1 << 40, limits.SEGMENT_BYTES).spares(limits.SEGMENT_BYTES) == 1
