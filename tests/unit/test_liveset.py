"""A set of log indexes answers like Python's own, in a bounded amount of memory."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpy6a.liveset import BITMAP_BYTES, SHARD_BITS, LiveSet

SHARD = 1 << SHARD_BITS
# Few values in few shards, so that adding meets what is there; the edges of a shard; the far end of a log.
INDEXES = st.one_of(st.integers(0, 300), st.integers(SHARD - 3, SHARD + 3), st.just((1 << 63) - 1))
# A step adds or takes out one index, or a run of them: enough to turn a shard into a bitmap and back.
STEPS = st.tuples(st.booleans(), INDEXES, st.sampled_from((1, 1, 1, 40, 120)))


@given(st.lists(STEPS, max_size=40))
def test_it_answers_like_a_set(steps: list[tuple[bool, int, int]]) -> None:
    """After any additions and removals it holds what a set holds, in order, and counts it."""
    live, model = LiveSet(), set[int]()
    for adding, start, run in steps:
        for index in range(start, start + run):
            if adding:
                live.add(index)
                model.add(index)
            else:
                assert live.discard(index) == (index in model)
                model.discard(index)
            assert (index in live) == (index in model)
        assert len(live) == live.count == len(model)
    assert list(live) == sorted(model)
    assert live.shards() == sorted({index >> SHARD_BITS for index in model})
    for number in live.shards():
        assert live.of_shard(number) == sorted(index for index in model if index >> SHARD_BITS == number)


@given(st.sets(INDEXES), st.sets(INDEXES))
def test_a_shard_goes_through_its_bitmap(members: set[int], before: set[int]) -> None:
    """What is written as bitmaps reads back the same, whatever was in the set that takes it in."""
    live = _of(members)
    copy = _of(before)
    for number in {*live.shards(), *copy.shards()}:
        bits = live.bitmap(number)
        assert len(bits) in (0, BITMAP_BYTES)
        copy.put_bitmap(number, bits)
    assert copy == live
    assert len(copy) == len(members)
    for index in members:  # it goes on as a set of its own
        assert copy.discard(index)
    assert not len(copy)
    assert list(live) == sorted(members)


def test_a_bitmap_has_the_bit_of_an_index_where_the_format_says() -> None:
    """Bit k of byte n stands for index 8 n + k (checkpoint/FORMAT.md, `filter`)."""
    live = _of({SHARD + 8 * 700 + 5})
    bits = live.bitmap(1)
    assert bits[700] == 1 << 5
    assert sum(bits) == 1 << 5
    assert live.bitmap(0) == b""


def test_a_bitmap_of_another_length_is_refused() -> None:
    """A cut bitmap is no smaller set."""
    live = _of({7})
    with pytest.raises(ValueError, match="8191 bytes"):
        live.put_bitmap(0, bytes(BITMAP_BYTES - 1))
    assert list(live) == [7]


def test_what_is_over_leaves_no_trace() -> None:
    """Indexes rise for years: a shard whose sessions are finished takes no memory, full as it may have been."""
    live = LiveSet()
    for number in range(20):
        indexes = range(number * SHARD, number * SHARD + 5_000)
        for index in indexes:
            live.add(index)
        for index in indexes:
            live.discard(index)
    assert len(live) == 0
    assert live._shards == {}
    assert live._in_bitmap == {}


def test_a_full_shard_is_a_bitmap() -> None:
    """65,536 sessions that follow each other cost 8 KiB, not a set of Python integers."""
    live = _of(set(range(SHARD)))
    assert sum(map(sys.getsizeof, live._shards.values())) < BITMAP_BYTES + 200


def test_two_sets_are_equal_if_they_hold_the_same() -> None:
    """Also when one has been a bitmap and the other never was."""
    once_big = _of(set(range(200)))
    for index in range(60, 200):
        once_big.discard(index)
    assert once_big == _of(set(range(60)))
    assert once_big != _of(set(range(61)))
    assert once_big != set(range(60))


def _of(members: set[int]) -> LiveSet:
    live = LiveSet()
    for index in members:
        live.add(index)
    return live
