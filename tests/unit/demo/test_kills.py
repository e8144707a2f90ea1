"""The schedule of kills is drawn by seed and hits every process often enough, the client while it works."""

from __future__ import annotations

from collections import Counter

from mpy6a.demo.kills import DOWN_MS, OUTAGE_GAP_MS, PROCESSES, schedule


def test_a_seed_is_a_schedule() -> None:
    """The same kills can be asked for again, and another seed is another order."""
    assert schedule(7, 20_000) == schedule(7, 20_000)
    assert schedule(7, 20_000) != schedule(8, 20_000)


def test_every_schedule_kills_everybody_within_the_span() -> None:
    """At least five kills of the pipe and three of each other process; the client's before it can be done."""
    for seed in range(200):
        kills = schedule(seed, 20_000)
        counted = Counter(kill.name for kill in kills)
        assert counted["pipe"] >= 5
        assert all(counted[name] >= 3 for name in PROCESSES)
        assert all(DOWN_MS[0] <= kill.down_ms <= DOWN_MS[1] for kill in kills)
        last_client = max(place for place, kill in enumerate(kills) if kill.name == "client")
        assert last_client < len(kills) * 2 / 3


def test_some_kills_fall_into_the_outage_of_another_and_most_hit_work() -> None:
    """Both have to be survived: several processes down at once, and one alone in the midst of work."""
    schedules = [schedule(seed, 20_000) for seed in range(200)]
    assert not any(kills[0].in_outage for kills in schedules)
    kills = [kill for kills in schedules for kill in kills]
    assert 0.3 < sum(kill.in_outage for kill in kills) / len(kills) < 0.5
    assert all(OUTAGE_GAP_MS[0] <= kill.gap_ms <= OUTAGE_GAP_MS[1] for kill in kills if kill.in_outage)
    spans = [sum(kill.gap_ms for kill in kills if not kill.in_outage) for kills in schedules]
    assert 18_000 < sum(spans) / len(spans) < 22_000
