"""Why is this session not running? Exactly one answer for every live session; computed, never stored.

The first that holds of the list in semantics, "Why is this session not running?". What a later stage adds
(BEHIND, SOLO, SCHEMA, APP_UNHEALTHY) has its place in the order. In words: `mpy6a.reasons`.
"""

from __future__ import annotations

from mpy6a.pipe import Pipe
from mpy6a.policy import KindPolicy
from mpy6a.push import Pusher
from mpy6a.session import OPEN, PARKED, REPEATING, Session

Reason = tuple[str, str]  # its name, and a detail for people

def why(pipe: Pipe, pusher: Pusher, session: Session, log_ms: int) -> Reason:
    """(reason, detail) for people and filters. Pure: reads the pipe and the pusher, changes nothing."""
    delivery, kind = session.delivery, pipe.state.policy.kinds.get(session.kind)
    if session.state == PARKED:
        return "PARKED", delivery.park_reason if delivery else ""
    if session.state == OPEN:
        return "OPEN_BY", session.writer.hex()
    if session.state == REPEATING:
        return "REPEATING_AT", delivery.sidecar if delivery else ""
    if kind is None:
        return "ORPHAN_KIND", f"kind {session.kind} is in no route"
    if delivery is not None and delivery.paused:
        return "SESSION_PAUSED", ""
    held = _held(pipe, kind, log_ms)
    if held is not None:
        return held
    if session.due_ms > log_ms:
        return "TIMER", f"due in {(session.due_ms - log_ms) / 1000:.1f} s"
    return _turn(pipe, pusher, kind)


def why_kind(pipe: Pipe, pusher: Pusher, number: int, log_ms: int) -> Reason:
    """The same for a kind: what its sessions wait for that are due and not paused themselves."""
    kind = pipe.state.policy.kinds.get(number)
    if kind is None:
        return "ORPHAN_KIND", f"kind {number} is in no route"
    return _held(pipe, kind, log_ms) or _turn(pipe, pusher, kind)


def _held(pipe: Pipe, kind: KindPolicy, log_ms: int) -> Reason | None:
    """What keeps a whole kind back, due or not."""
    if pipe.is_kind_paused(kind.id, log_ms):
        until_ms, _, reason = pipe.state.paused_kinds[kind.id]
        return "KIND_PAUSED", f"{reason}, for {(until_ms - log_ms) / 1000:.0f} s more" if until_ms else reason
    if pipe.due.clock_held:
        return "CLOCK", "the wall clock leapt; if it is right: `mpy6a clock accept`"
    return None


def _turn(pipe: Pipe, pusher: Pusher, kind: KindPolicy) -> Reason:
    """What keeps back what is due."""
    if pipe.disk_level >= 2:
        return "DISK", f"the pipe's disk is nearly full: {pipe.disk_cause}" if pipe.disk_cause else ""
    now_ms = pusher.now_ms
    broken = pipe.pacing.breaker(kind, now_ms)
    if broken is not None:
        return "BREAKER_OPEN", broken
    connected = pusher.connected(kind.sidecars)
    if not connected:
        return "NO_SIDECAR", f"none of {', '.join(kind.sidecars)} is connected"
    limit = pipe.pacing.limit(kind, now_ms)
    if limit is not None:
        return "LIMIT", limit
    if not pusher.has_room(kind.sidecars, kind.id):
        return "NO_CREDIT", f"{', '.join(connected)} took all it wanted"
    return "NEXT", ""
