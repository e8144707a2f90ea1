"""Refusals are rate-limited a client: a bucket that empties, fills with time, and is forgotten when it is full."""

from __future__ import annotations

from mpy6a import limits
from mpy6a.refusals import Refusals

A, B = b"A" * 16, b"B" * 16
NOW_MS = 5_000_000


def test_a_burst_is_free_and_what_is_beyond_has_to_be_waited_for() -> None:
    """At the rate of the limit, and never shorter than a turn of asking."""
    refusals = Refusals()
    assert refusals.held_until_ms <= NOW_MS
    refusals.count(A, limits.REFUSALS_BURST, NOW_MS)
    assert refusals.wait_ms(A, NOW_MS) == 0
    refusals.count(A, 1, NOW_MS)
    assert refusals.wait_ms(A, NOW_MS) == limits.REFUSALS_WAIT_MIN_MS
    refusals.count(A, limits.REFUSALS_PER_S, NOW_MS)
    assert 1_000 < refusals.wait_ms(A, NOW_MS) <= 1_001
    assert refusals.held_until_ms > NOW_MS + 1_000
    assert refusals.wait_ms(A, NOW_MS + 1_001) == 0
    assert refusals.wait_ms(B, NOW_MS) == 0


def test_nobody_waits_longer_than_the_library_does() -> None:
    """What was in flight when the bucket emptied overdraws it; the rest of the debt is forgiven."""
    refusals = Refusals()
    refusals.count(A, 10**9, NOW_MS)
    assert refusals.wait_ms(A, NOW_MS) == limits.REFUSALS_WAIT_MAX_MS == limits.RESEND_MAX_MS
    assert refusals.wait_ms(A, NOW_MS + limits.REFUSALS_WAIT_MAX_MS) == 0


def test_a_whole_queue_of_the_library_is_answered_within_its_timeout() -> None:
    """An honest importer whose every operation is refused (KEY_LIVE) loses none to OutcomeUnknown."""
    in_time = limits.REFUSALS_BURST + limits.REFUSALS_PER_S * (limits.TIMEOUT_S - 5)
    assert in_time >= limits.WAITING_OPERATIONS_MAX


def test_full_buckets_are_forgotten() -> None:
    """What was refused long ago costs no memory, and the next burst is free again."""
    refusals = Refusals()
    refusals.count(A, limits.REFUSALS_BURST, NOW_MS)
    refusals.count(B, 1, NOW_MS)
    assert len(refusals) == 2
    later_ms = NOW_MS + 1 + limits.REFUSALS_BURST * 1_000 // limits.REFUSALS_PER_S
    refusals.count(B, limits.REFUSALS_BURST, later_ms)
    assert len(refusals) == 1
    assert refusals.wait_ms(B, later_ms) == 0


def test_many_incarnations_do_not_grow_it() -> None:
    """Of more than the bound the one refused longest ago is forgotten."""
    refusals = Refusals()
    refusals.count(A, 10**6, NOW_MS)
    for number in range(limits.REFUSED_CLIENTS_MAX + 100):
        refusals.count(number.to_bytes(16, "big"), 1, NOW_MS)
    assert len(refusals) == limits.REFUSED_CLIENTS_MAX
    assert refusals.wait_ms(A, NOW_MS) == 0
