"""The reasons of `mpy6a.why` in words, each with what to do. A table, and no more: commands read it too.

Source: semantics, "Why is this session not running?".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# name -> what it says of a session, and what to do. {detail}, {id} and {kind} are put in by `sentence`.
REASONS: Final[Mapping[str, tuple[str, str]]] = {
    "PARKED": (
        "is parked: {detail}",
        "Mend the cause and say `mpy6a sessions kick {id}`; or give it up with `mpy6a sessions delete {id}`.",
    ),
    "OPEN_BY": (
        "is being written by client {detail}",
        "Nothing is to be done: if that client dies, leaves or is silent for the kind's `idle`, the handler gets it.",
    ),
    "REPEATING_AT": (
        "is being repeated at sidecar {detail}",
        "Nothing is to be done: without a sign of its handler for the kind's `silence` it is repeated anew.",
    ),
    "ORPHAN_KIND": (
        "waits: {detail}",
        "Name that kind, with its id, in the routes again and say `mpy6a reload`; or `mpy6a sessions delete {id}`.",
    ),
    "SESSION_PAUSED": ("waits: an operator has paused it", "Say `mpy6a sessions resume {id}`."),
    "KIND_PAUSED": ("waits: its kind is paused: {detail}", "Say `mpy6a kinds resume {kind}`."),
    "CLOCK": (
        "waits: {detail}",
        "Look at the machine's clock; if it is right, say `mpy6a clock accept`, and everything goes on.",
    ),
    "TIMER": ("waits for its time: {detail}", "Nothing is to be done; `mpy6a sessions kick {id}` repeats it now."),
    "DISK": (
        "waits: {detail}",
        "Make room on the pipe's disk; it goes on by itself. `mpy6a status` says how much is missing.",
    ),
    "BREAKER_OPEN": (
        "waits: the breaker of its kind is open: {detail}",
        "Mend what its handler needs; nothing is charged meanwhile, and it goes on by itself when a try succeeds.",
    ),
    "BEHIND": (
        "waits for {detail}, which has the same order key and came before it",
        "See `mpy6a sessions why {detail}`; if that one is parked, kick or delete it.",
    ),
    "NO_SIDECAR": (
        "waits: {detail}",
        "Start one of them; if it runs, compare its `push:` with `sidecars:` of pipe.yaml (`mpy6a status`).",
    ),
    "LIMIT": (
        "waits for its turn under a limit of its kind: {detail}",
        "Nothing is to be done; if it is too slow, raise `rate`, `burst` or `concurrency_total` in the routes.",
    ),
    "NO_CREDIT": (
        "waits: {detail}",
        "A handler is missing there, or all are busy: start one that serves the kind, or raise its `concurrency`.",
    ),
    "NEXT": ("is next", "Nothing is to be done: it is handed out in the pipe's next turn."),
}


def sentence(facts: Mapping[str, object]) -> tuple[str, str]:
    """What `sessions.show` told of a session (its `id`, `kind`, `why`, `detail`) in words, and what to do."""
    said, todo = REASONS.get(str(facts["why"]), ("waits: {why}: {detail}", "See `mpy6a sessions show {id}`."))
    said, todo = said.format_map(facts), todo.format_map(facts)
    return f"{facts['id']} ({facts['kind']}) {said.rstrip(': ')}.", todo
