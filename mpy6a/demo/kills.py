"""The seeded schedule of SIGKILLs: who is killed, after which gap, and for how long it stays down."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

PIPE_KILLS: Final = 5
OTHER_KILLS: Final = 3
OTHERS: Final = ("client", "users", "search", "sidecar-users", "sidecar-search")
PROCESSES: Final = ("pipe", *OTHERS)

DOWN_MS: Final = (50, 600)  # a supervisor that is quick, and one that is not


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: `gap_ms` after the one before, at the earliest when its target is up and at work."""

    name: str
    gap_ms: int
    down_ms: int


def schedule(seed: int, span_ms: int) -> list[Kill]:
    """All kills of a run, spread over about `span_ms`; the client's come in its first two thirds.

    The client is done when all rows are begun, and a process that is done can no longer be killed in its
    work.
    """
    draw = random.Random(f"kills {seed}")
    order = ["pipe"] * PIPE_KILLS + [name for name in OTHERS if name != "client"] * OTHER_KILLS
    draw.shuffle(order)
    total = len(order) + OTHER_KILLS
    places = sorted(draw.sample(range(1, total * 2 // 3), OTHER_KILLS))
    for place in places:
        order.insert(place, "client")
    gap = span_ms / total
    return [Kill(name, round(gap * draw.uniform(0.5, 1.5)), draw.randint(*DOWN_MS)) for name in order]
