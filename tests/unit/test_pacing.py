"""How fast a kind is handed out: rates, windows and breakers, on times that the test gives."""

from __future__ import annotations

import pytest

from mpy6a import limits
from mpy6a.model import AttemptOutcome
from mpy6a.pacing import MANY, Pacing
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.session import REPEATING
from mpy6a.state import State

KIND = KindPolicy(1, "a", ("s",), breaker=3, backoff_base_ms=200, backoff_cap_ms=2_000, concurrency=8)


class Kinds:
    """One kind's pacing; sessions are numbers, and run between `start` and `end`."""

    def __init__(self, kind: KindPolicy = KIND) -> None:
        self.kind = kind
        self.state = State(1)
        self.state.sessions.policy = policy_of([kind])
        self.pacing = Pacing(self.state)
        self.now_ms = 1_000_000

    def room(self) -> int:
        return self.pacing.room(self.kind, self.now_ms)

    def start(self, *indexes: int) -> None:
        counts, key = self.state.sessions.counts, self.kind.id << 3 | REPEATING
        for index in indexes:
            self.pacing.took(self.kind, index, self.now_ms)
            self.pacing.settled(self.kind.id, index, void=False)
            counts[key] = counts.get(key, 0) + 1

    def end(self, outcome: AttemptOutcome, *indexes: int) -> None:
        for index in indexes:
            self.state.sessions.counts[self.kind.id << 3 | REPEATING] -= 1
            self.pacing.ended(self.kind, index, outcome, "it broke", self.now_ms)

    def run(self, outcome: AttemptOutcome, *indexes: int) -> None:
        self.start(*indexes)
        self.end(outcome, *indexes)

    @property
    def is_open(self) -> bool:
        return self.kind.id in self.pacing.open_kinds


FAIL, DONE, RELEASE = AttemptOutcome.FAIL, AttemptOutcome.DECIDED, AttemptOutcome.RELEASE


def test_a_kind_without_limits_has_room_for_what_there_is_credit_for() -> None:
    """Nothing is kept of it."""
    kinds = Kinds()
    assert kinds.room() == MANY
    kinds.run(DONE, 1, 2, 3)
    assert kinds.room() == MANY


def test_a_rate_hands_out_its_burst_and_then_one_by_one() -> None:
    """Ten a second, four at once: a rest fills the bucket, and never more than that."""
    kinds = Kinds(KindPolicy(1, "a", ("s",), rate=10, burst=4))
    kinds.start(1)
    assert kinds.room() == 3
    kinds.start(2, 3, 4)
    assert kinds.room() == 0
    assert kinds.pacing.next_ms(kinds.kind, kinds.now_ms) == kinds.now_ms + 100
    assert kinds.pacing.limit(kinds.kind, kinds.now_ms) == "rate: 10/s, burst 4"
    kinds.now_ms += 99
    assert kinds.room() == 0
    kinds.now_ms += 1
    assert kinds.room() == 1
    kinds.start(5)
    kinds.now_ms += 60_000
    assert (kinds.room(), kinds.pacing.limit(kinds.kind, kinds.now_ms)) == (4, None)


@pytest.mark.parametrize(("rate", "rate_ms", "burst"), [(1_000_000, 1_000, 1), (3, 3_600_000, 1), (7, 1_000, 50)])
def test_a_rate_is_never_exceeded_over_any_stretch(rate: int, rate_ms: int, burst: int) -> None:
    """At most burst + rate × time, whatever the moments at which it is asked."""
    kinds = Kinds(KindPolicy(1, "a", ("s",), rate=rate, rate_ms=rate_ms, burst=burst))
    begin_ms, index = kinds.now_ms, 0
    for step in range(400):
        for _ in range(min(kinds.room(), 2_000)):
            index += 1
            kinds.run(DONE, index)
        gone_ms = kinds.now_ms - begin_ms
        assert index <= burst + rate * gone_ms // rate_ms + 1
        kinds.now_ms += (step * 7_919) % max(3, 2 * rate_ms // rate)
    assert index > burst


def test_no_more_run_at_a_time_than_the_total() -> None:
    """`concurrency_total`, those in a proposal counted."""
    kinds = Kinds(KindPolicy(1, "a", ("s", "t"), concurrency_total=3))
    assert kinds.room() == 3
    kinds.start(1, 2)
    assert kinds.room() == 1
    kinds.pacing.took(kinds.kind, 3, kinds.now_ms)
    assert kinds.room() == 0
    assert kinds.pacing.limit(kinds.kind, kinds.now_ms) == "concurrency: 2 run, of 3 at a time"
    kinds.pacing.settled(1, 3, void=True)
    assert kinds.room() == 1


def test_sessions_that_fail_in_a_row_open_the_breaker_and_one_session_does_not() -> None:
    """Three different ones; a success between them begins anew; a session that fails alone is charged and parked."""
    kinds = Kinds()
    kinds.run(FAIL, *[7] * 20)
    assert not kinds.is_open
    kinds.run(FAIL, 8)
    kinds.run(DONE, 9)
    kinds.run(FAIL, 7, 8)
    kinds.run(RELEASE, 10)
    assert not kinds.is_open
    kinds.run(FAIL, 9)
    assert kinds.is_open
    assert kinds.room() == 0


def test_an_open_breaker_lets_one_at_a_time_try_and_waits_longer_each_time() -> None:
    """After the kind's back-off, doubled up to its cap; another probe never begins before the last one ended."""
    kinds = Kinds()
    kinds.run(FAIL, 1, 2, 3)
    waits: list[int] = []
    for probe in range(10, 16):
        next_ms = kinds.pacing.next_ms(kinds.kind, kinds.now_ms)
        assert next_ms is not None
        waits.append(next_ms - kinds.now_ms)
        kinds.now_ms = next_ms - 1
        assert kinds.room() == 0
        kinds.now_ms += 1
        assert kinds.room() == 1
        kinds.start(probe)
        kinds.now_ms += 50_000
        assert kinds.room() == 0, "the probe still runs"
        assert kinds.pacing.next_ms(kinds.kind, kinds.now_ms) is None
        kinds.end(FAIL, probe)
    assert waits == [200, 400, 800, 1_600, 2_000, 2_000]


@pytest.mark.parametrize("outcome", [RELEASE, AttemptOutcome.CANCELLED])
def test_a_probe_that_came_to_nothing_is_followed_by_another(outcome: AttemptOutcome) -> None:
    """A sidecar lost, an operator's word: neither opens nor closes."""
    kinds = Kinds()
    kinds.run(FAIL, 1, 2, 3)
    kinds.now_ms += 200
    kinds.run(outcome, 4)
    assert kinds.is_open
    assert kinds.room() == 0
    kinds.now_ms += 200
    assert kinds.room() == 1
    kinds.pacing.took(kinds.kind, 5, kinds.now_ms)
    kinds.pacing.settled(1, 5, void=True)
    assert kinds.room() == 1


def test_after_a_success_it_grows_by_one_a_window_and_halves_on_failure() -> None:
    """Up to the kind's limit; there it is closed again."""
    kinds = Kinds()
    kinds.run(FAIL, 1, 2, 3)
    kinds.now_ms += 200
    kinds.run(DONE, 4)
    assert not kinds.is_open
    windows: list[int] = []
    index = 100
    while kinds.room() < 6:
        windows.append(kinds.room())
        batch = range(index, index + kinds.room())
        index += 100
        kinds.run(DONE, *batch)
    assert windows == [1, 2, 3, 4, 5] or windows == [1, 2, 2, 3, 4, 5]
    kinds.run(FAIL, index)
    assert kinds.room() == 3
    for _ in range(12):
        index += 100
        kinds.run(DONE, *range(index, index + min(8, kinds.room())))
    assert kinds.room() == MANY


def test_whoever_succeeds_while_it_is_open_closes_it() -> None:
    """A session handed out before it opened is as good as a probe."""
    kinds = Kinds()
    kinds.start(9)
    kinds.run(FAIL, 1, 2, 3)
    kinds.end(DONE, 9)
    assert not kinds.is_open
    assert kinds.room() == 1


def test_after_an_outage_the_load_ramps() -> None:
    """Sixteen at a time, then twice as many each round; a short absence is none."""
    kinds = Kinds(KindPolicy(1, "a", ("s",), concurrency=64))
    kinds.pacing.away(1, kinds.now_ms)
    kinds.now_ms += limits.RAMP_AFTER_MS - 1
    kinds.pacing.back(1, kinds.now_ms)
    assert kinds.room() == MANY
    kinds.pacing.away(1, kinds.now_ms)
    kinds.now_ms += limits.RAMP_AFTER_MS
    kinds.pacing.away(1, kinds.now_ms)
    kinds.pacing.back(1, kinds.now_ms)
    rooms: list[int] = []
    for base in (1_000, 2_000, 3_000):
        rooms.append(kinds.room())
        kinds.run(DONE, *range(base, base + min(64, kinds.room())))
    assert rooms == [16, 32, MANY]


def test_a_breaker_that_the_routes_no_longer_have_is_closed() -> None:
    """`breaker: 0` after a reload: everything is handed out again."""
    kinds = Kinds()
    kinds.run(FAIL, 1, 2, 3)
    assert "3 sessions failed in a row" in (kinds.pacing.breaker(kinds.kind, kinds.now_ms) or "")
    kinds.kind = KindPolicy(1, "a", ("s",), breaker=0)
    kinds.state.sessions.policy = policy_of([kinds.kind])
    kinds.pacing.reload(kinds.now_ms)
    assert not kinds.is_open
    assert kinds.room() == MANY
    kinds.run(FAIL, *range(50))
    assert not kinds.is_open


def test_what_ran_before_a_window_does_not_count_under_it() -> None:
    """Long runs from before an outage, or from before the breaker opened, keep nobody back."""
    kinds = Kinds()
    kinds.start(*range(100, 164))
    kinds.run(FAIL, 1, 2, 3)
    kinds.now_ms += 200
    kinds.run(DONE, 4)
    assert kinds.room() == 1
    kinds.start(5)
    assert kinds.room() == 0
    assert kinds.pacing.limit(kinds.kind, kinds.now_ms) == "concurrency: 1 at a time for now: it grows as they succeed"
    kinds.pacing.away(1, kinds.now_ms)
    ramp = Kinds(KindPolicy(1, "a", ("s",), concurrency=64))
    ramp.start(*range(64))
    ramp.pacing.away(1, ramp.now_ms)
    ramp.now_ms += limits.RAMP_AFTER_MS
    ramp.pacing.back(1, ramp.now_ms)
    assert ramp.room() == limits.RAMP_SESSIONS


def test_a_faster_rate_does_not_wait_for_what_a_slower_one_used_up() -> None:
    """Five an hour, all used; a hundred a second after a reload."""
    kinds = Kinds(KindPolicy(1, "a", ("s",), rate=5, rate_ms=3_600_000, burst=5))
    kinds.start(*range(5))
    kinds.kind = KindPolicy(1, "a", ("s",), rate=100, burst=10)
    kinds.state.sessions.policy = policy_of([kinds.kind])
    kinds.pacing.reload(kinds.now_ms)
    assert kinds.room() == 0
    kinds.now_ms += 100
    assert kinds.room() == 10
