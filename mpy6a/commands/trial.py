"""What one run of a handler did, read off the log of the pipe that pushed it. Pure: frames in, values out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mpy6a.errors import Code
from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.model import AttemptOutcome, SessionId, SessionState, Verb
from mpy6a.session import Session
from mpy6a.sessions import Applied
from mpy6a.state import State
from mpy6a.wire import decode_rows

# How a run may end, as docs/HANDLERS.md calls it.
OUTCOMES: Final = ("delete", "store", "release", "park", "fail")
_BY_ATTEMPT: Final = {
    AttemptOutcome.DECIDED: "store",
    AttemptOutcome.RELEASE: "release",
    AttemptOutcome.PARK: "park",
    AttemptOutcome.FAIL: "fail",
    AttemptOutcome.CANCELLED: "fail",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What the handler did with its session before the end. `at_ms` counts from the push; `refused`: the pipe's why."""

    verb: str
    record: bytes | None
    at_ms: int
    refused: str = ""


@dataclass(slots=True)
class Trial:
    """One run, from its push to its end. `outcome` is one of OUTCOMES, "" while it runs; `after_ms`: when the session
    would be repeated; `charged`: it counts towards `charge_limit`."""

    session: SessionId
    epoch: int
    fence: int
    operations: list[Operation] = field(default_factory=list)
    outcome: str = ""
    after_ms: int | None = None
    message: str = ""
    charged: bool = False
    took_ms: int = 0


class Watch:
    """Follows the log with a state of its own, as the writer of checkpoints does. `trial`: from the dispatch on."""

    def __init__(self, pipe: int) -> None:
        self.trial: Trial | None = None
        self._state = State(pipe)
        self._began_ms = 0

    def took(self, frame: Frame) -> bool:
        """Take in the next frame; whether it was the one that dispatched the session, or ended its run."""
        applied = self._state.apply(frame)
        trial = self.trial
        if trial is None:
            if not applied.dispatched:
                return False
            (session,) = applied.dispatched
            self._began_ms = frame.log_ms
            id = SessionId(self._state.pipe, session.term, session.index)
            self.trial = Trial(id, session.epoch, session.fence)
            return True
        if trial.outcome:
            return False
        if frame.type == FrameType.BATCH:
            self._note(trial, frame, applied)
        session_now = self._state.session(trial.session.term, trial.session.index)
        if session_now is not None and session_now.state == SessionState.REPEATING:
            return False
        _end(trial, session_now, frame.log_ms)
        trial.took_ms = frame.log_ms - self._began_ms
        return True

    def _note(self, trial: Trial, frame: Frame, applied: Applied) -> None:
        refused = {result.position: result.code for result in applied.results}
        rows = decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED)).rows
        for position, (index, epoch, _, term, verb, _, offset, length) in enumerate(rows):
            if verb == Verb.NEW or (term, index, epoch) != (trial.session.term, trial.session.index, trial.epoch):
                continue
            code = refused.get(position)
            if verb >= Verb.DELETE and code is None:
                continue  # the end: the outcome says it
            record = frame.batch[offset : offset + length] if length >= 0 else None
            why = "" if code is None else Code(code).name
            trial.operations.append(Operation(Verb(verb).name.lower(), record, frame.log_ms - self._began_ms, why))


def _end(trial: Trial, session: Session | None, log_ms: int) -> None:
    if session is None:
        trial.outcome = "delete"
        return
    assert session.delivery is not None, "a session that was dispatched has its attempts"
    attempt = session.delivery.attempts[-1]
    trial.outcome = _BY_ATTEMPT[AttemptOutcome(attempt.outcome)]
    trial.message, trial.charged = attempt.message, attempt.charged
    if session.state == SessionState.STORED:
        trial.after_ms = max(0, session.due_ms - log_ms)
