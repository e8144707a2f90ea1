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
OUTAGE_GAP_MS: Final = (50, 500)  # into an outage: before what was killed is up again
OUTAGE_SHARE: Final = 0.4  # of the kills; were it all of them, nothing would ever be at work to be hit


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL, `gap_ms` after work goes on again, or `in_outage` after the kill before; of a target that is up."""

    name: str
    gap_ms: int
    down_ms: int
    in_outage: bool = False


def schedule(seed: int, span_ms: int) -> list[Kill]:
    """All kills of a run, with about `span_ms` of undisturbed work between them; the client's come in the first half.

    The client is done when all rows are begun, and a process that is done can no longer be killed in its
    work.
    """
    draw = random.Random(f"kills {seed}")
    order = ["pipe"] * PIPE_KILLS + [name for name in OTHERS if name != "client"] * OTHER_KILLS
    draw.shuffle(order)
    total = len(order) + OTHER_KILLS
    places = sorted(draw.sample(range(1, total // 2), OTHER_KILLS))
    for place in places:
        order.insert(place, "client")
    gap_ms = span_ms / (total * (1 - OUTAGE_SHARE))
    return [_kill(draw, name, gap_ms, first=place == 0) for place, name in enumerate(order)]


def _kill(draw: random.Random, name: str, gap_ms: float, *, first: bool) -> Kill:
    in_outage = draw.random() < OUTAGE_SHARE and not first
    after_ms = draw.randint(*OUTAGE_GAP_MS) if in_outage else round(gap_ms * draw.uniform(0.5, 1.5))
    return Kill(name, after_ms, draw.randint(*DOWN_MS), in_outage)
