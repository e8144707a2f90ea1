"""Every cell (state, event, verdict) and every branch of recovery that a run of the CI budget has to reach.

A mark is counted where it happens: cells by the oracle, branches by the world. `missed` names those that a run did not
reach; what nobody can reach stands in `UNREACHABLE`, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

_WRITES: Final = ("APPEND", "REPLACE", "TOUCH", "DELETE", "STORE")
_GROWING: Final = ("APPEND", "REPLACE")
_ENDINGS: Final = ("FAIL", "RELEASE", "PARK")
_LIVE: Final = ("OPEN", "STORED", "REPEATING", "PARKED")

# Cells that look possible and are not, or need what the world does not have.
UNREACHABLE: Final[Mapping[str, str]] = {
    "STORED said PARK BAD_REQUEST": "an operator may park whatever lives",
    "OPEN proposed DISPATCH VOID": "a dispatch is proposed of STORED only, and a session never comes back to OPEN",
    "PARKED proposed EXPIRE OK": "PARKED has no due time",
    "NONE DELETE AFTER_REFUSAL": "a session that is gone has no refusals: its verdicts are OK, GONE or final",
    "STORED DELETE OK": "a group with a Delete leaves nothing STORED",
    "agent: dial_old_greeting": "dials rise, and within and across connections of one socket their order holds",
    "agent: stop_old_dial": "as above: a stop of an older dial comes before the next greeting",
    "RESENT NEW STALE_COPY": "a New below the mark leaves no outcome",
}


def cells() -> Iterator[str]:
    """Cells of operations, proposals and operators' words."""
    for verb in _WRITES:
        for verdict in ("OK", "GONE", "FENCED", "LOG_BEHIND", "LOST", "OUTCOME_UNKNOWN"):
            if (verb, verdict) != ("DELETE", "GONE"):  # a second Delete of one group: nobody sends that
                yield f"NONE {verb} {verdict}"
        for state in ("OPEN", "REPEATING"):
            for verdict in ("OK", "FENCED", "STALE_COPY", "SEQ_GAP", "AFTER_REFUSAL", "LOG_BEHIND"):
                yield f"{state} {verb} {verdict}"
        for state in ("STORED", "PARKED"):
            for verdict in ("FENCED", "LOG_BEHIND"):
                yield f"{state} {verb} {verdict}"
        if verb != "DELETE":
            yield f"STORED {verb} OK"  # a group that comes again
    for state in ("OPEN", "REPEATING"):
        for verb in _GROWING:
            yield f"{state} {verb} TOO_LARGE"
            yield f"{state} {verb} DISK_LOW"
    for verb in _ENDINGS:
        for verdict in ("ENDED", "LOG_BEHIND", "LOST"):
            yield f"NONE {verb} {verdict}"
        for state in ("OPEN", "STORED", "PARKED"):
            yield f"{state} {verb} ENDED"
        for verdict in ("OK", "FENCED", "ENDED", "LOG_BEHIND"):
            yield f"REPEATING {verb} {verdict}"
    for verdict in (
        "OK", "UNKNOWN_KIND", "DENIED", "DISK_LOW", "TOO_LARGE", "KEY_LIVE", "OUTCOME_UNKNOWN", "STALE_COPY",
    ):  # fmt: skip
        yield f"NONE NEW {verdict}"
    for verdict in ("OK", "KEY_LIVE", "UNKNOWN_KIND", "DENIED", "TOO_LARGE"):
        yield f"RESENT NEW {verdict}"
    for state in ("OPEN", "REPEATING", "STORED"):
        yield f"RESENT GROUP {state}"
    yield from (
        "STORED proposed DISPATCH OK", "STORED proposed DISPATCH VOID", "NONE proposed DISPATCH VOID",
        "OPEN proposed EXPIRE OK", "REPEATING proposed EXPIRE OK", "OPEN proposed OWNER_GONE OK",
        "REPEATING proposed RELEASE OK", "NONE proposed OWNER_GONE VOID", "OPEN proposed OWNER_GONE VOID",
        "REPEATING CHARGE_LIMIT OK", "REPEATING BARREN_LIMIT OK",
    )  # fmt: skip
    for state in _LIVE:
        for word in ("PARK", "DELETE", "PAUSE", "RESUME"):
            yield f"{state} said {word} OK"
        if state != "STORED":
            yield f"{state} said PAUSE BAD_REQUEST"
        yield f"{state} said KICK {'OK' if state in ('STORED', 'PARKED') else 'BAD_REQUEST'}"
        yield f"{state} said CANCEL {'BAD_REQUEST' if state == 'PARKED' else 'OK'}"
    for word in ("KICK", "CANCEL", "PARK", "DELETE", "PAUSE", "RESUME"):
        yield f"NONE said {word} NO_SUCH_SESSION"
    for reason in (
        "PARKED", "OPEN_BY", "REPEATING_AT", "ORPHAN_KIND", "SESSION_PAUSED", "KIND_PAUSED", "CLOCK", "TIMER", "DISK",
        "NO_SIDECAR", "NO_CREDIT", "BREAKER_OPEN", "LIMIT", "BEHIND",
    ):  # fmt: skip
        yield f"WHY {reason}"
    yield from ("BREAKER opened", "BREAKER closed", "BREAKER failure charged", "BREAKER failure not charged")


# Branches of recovery, and what the network and the disk did to bring them about.
BRANCHES: Final = (
    "open: torn tail cut", "open: tail written again", "open: several segments", "open: marked", "open: disk failed",
    "open: power cut", "open: clock held",
    "pipe: died between log and answers", "pipe: ended by its disk", "pipe: lost its power in a write",
    "pipe: clock accepted", "operator: paused until", "pipe: reloaded", "pipe: pushed again", "pipe: stop",
    "pipe: a sidecar that was not dialed",
    "pipe: stopped in order", "log: mark", "LOG replayed not answered", "LOG lost not promised",
    "flip: refused by DamagedAt", "flip: last group cut",
    "sidecar: started again", "sidecar: left drained", "sidecar: left in a hurry", "sidecar: push undelivered",
    "sidecar: unsent", "sidecar: http run stopped", "sidecar: ending answered late",
    "client: run stopped", "client: OutcomeUnknown", "client: said goodbye",
    "network: next incarnation", "network: lost by a cut", "network: doubled", "network: delayed",
    "network: reordered", "network: lost", "network: an old message",
    "fault: stands still past its lease", "fault: wall clock back", "fault: wall clock forward", "fault: night",
    "fault: disk full", "fault: disk level 1", "fault: disk level 2", "fault: service killed", "fault: client killed",
    "fault: sidecar killed", "fault: power lost",
    "agent: push_other_target", "fault: cut at a push", "fault: die at a push",
    "agent: answer_without_client", "agent: outcome_unknown_run", "agent: run_again",
    "dropped: old_dial", "dropped: dial_timeout", "dropped: malformed", "dropped: wrong_pipe",
    "open: from a checkpoint", "open: trimmed", "open: not trimmed yet",
    "checkpoint: committed", "checkpoint: committed in part", "checkpoint: committed and not told",
    "checkpoint: no room", "checkpoint: a reader stood in the way", "checkpoint: writer killed at work",
    "checkpoint: writer killed at rest", "checkpoint: writer rested", "checkpoint: writer started again",
    "checkpoint: clients wait", "memory: let go", "memory: came back for an operation",
    "memory: came back for its turn",
    "fault: crash in a checkpoint", "pipe: lost its power beside its loop",
    "repair: cut", "repair: mended", "repair: nothing to do", "backup: restored", "backup: restored and held",
)  # fmt: skip


def missed(reached: Mapping[str, int]) -> list[str]:
    """Marks that were not reached."""
    return [mark for mark in (*cells(), *BRANCHES) if not reached.get(mark) and mark not in UNREACHABLE]
