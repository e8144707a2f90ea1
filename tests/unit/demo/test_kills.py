"""The schedule of kills is drawn by seed and hits every process often enough, the client while it works."""

from __future__ import annotations

from collections import Counter

from mpy6a.demo.kills import DOWN_MS, PROCESSES, schedule


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
        assert 14_000 < sum(kill.gap_ms for kill in kills) < 26_000
        assert all(DOWN_MS[0] <= kill.down_ms <= DOWN_MS[1] for kill in kills)
        last_client = max(place for place, kill in enumerate(kills) if kill.name == "client")
        assert last_client < len(kills) * 2 / 3
