"""The wheel of due times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpy6a.limits import TICK_MS
from mpy6a.timers import Wheel


def test_nothing_comes_out_early_and_everything_at_most_a_tick_late() -> None:
    """A due session is looked at when its time is reached, at most TICK_MS later."""
    wheel = Wheel()
    wheel.add(1_001, 7)
    assert wheel.due(1_000, 10) == []
    assert wheel.due(1_001 + TICK_MS - 1, 10) == [7]
    assert wheel.count == 0
    assert wheel.next_ms() is None


def test_a_slice_leaves_the_rest_for_the_next_turn() -> None:
    """A million due at once are handed out in bounded slices, none lost."""
    wheel = Wheel()
    for key in range(10):
        wheel.add(100, key)
    assert wheel.due(1_000, 4) == [0, 1, 2, 3]
    assert wheel.next_ms() == 100
    assert wheel.due(1_000, 100) == [4, 5, 6, 7, 8, 9]


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 2**64 - 1)), max_size=50), st.integers(1, 5))
def test_what_was_added_comes_out_once_in_order_of_ticks(entries: list[tuple[int, int]], most: int) -> None:
    """Whatever the slices, each entry comes out exactly once and earlier ticks first."""
    wheel = Wheel()
    for time_ms, key in entries:
        wheel.add(time_ms, key)
    out: list[int] = []
    while taken := wheel.due(2 * 10**7, most):
        out += taken
    ticks = sorted((-(-time_ms // TICK_MS), place, key) for place, (time_ms, key) in enumerate(entries))
    assert out == [key for _, _, key in ticks]


def test_a_wheel_that_nobody_uses_is_given_back_in_slices() -> None:
    """The rest at the end is nothing."""
    wheel = Wheel()
    for key in range(100):
        wheel.add(key * 50, key)
    slices = 1
    while wheel.wear_down(7):
        slices += 1
    assert slices == 15
    assert wheel.next_ms() is None
