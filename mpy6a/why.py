"""Why is this session not running? Exactly one answer for every live session; computed, never stored.

The first that holds of the list in semantics, "Why is this session not running?". What a later stage adds
(BREAKER_OPEN, BEHIND, SOLO, SCHEMA, LIMIT, APP_UNHEALTHY) has its place in the order.
"""

from __future__ import annotations

from mpy6a.pipe import Pipe
from mpy6a.push import Pusher
from mpy6a.session import OPEN, PARKED, REPEATING, Session


def why(pipe: Pipe, pusher: Pusher, session: Session, log_ms: int) -> tuple[str, str]:
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
    if session.kind in pipe.state.paused_kinds:
        return "KIND_PAUSED", pipe.state.paused_kinds[session.kind][2]
    if pipe.due.clock_held:
        return "CLOCK", "the wall clock leapt; if it is right: `mpy6a clock accept`"
    if session.due_ms > log_ms:
        return "TIMER", f"due in {(session.due_ms - log_ms) / 1000:.1f} s"
    if pipe.disk_level >= 2:
        return "DISK", f"the pipe's disk is nearly full: {pipe.disk_cause}" if pipe.disk_cause else ""
    connected = pusher.connected(kind.sidecars)
    if not connected:
        return "NO_SIDECAR", f"none of {', '.join(kind.sidecars)} is connected"
    if not pusher.has_room(kind.sidecars, kind.id):
        return "NO_CREDIT", f"{', '.join(connected)} took all it wanted"
    return "NEXT", ""
