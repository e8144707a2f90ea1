"""Turns codes of the wire into errors that say what happened to which session, and what to do next."""

from __future__ import annotations

from typing import Final

from mpy6a import errors
from mpy6a.errors import Code
from mpy6a.model import Result, SessionId, SessionState

# After these nothing that this writer sends to the session can be applied any more.
FINAL: Final = frozenset(
    {
        Code.FENCED,
        Code.GONE,
        Code.STALE_COPY,
        Code.SEQ_GAP,
        Code.ENDED,
        Code.OUTCOME_UNKNOWN,
        Code.LOG_BEHIND,
        Code.LOST,
    }
)

# A whole batch that was not logged, and that may be taken later: sent again as it is.
RETRIED: Final = frozenset({Code.BUSY, Code.NOT_LEADER, Code.SHUTTING_DOWN, Code.NO_PIPE, Code.WRONG_PIPE})


def error(code: int, subject: str, message: str = "") -> errors.Mpy6aError:
    """The exception for `code` about `subject`: what the peer said, and what the class says to do."""
    made = errors.from_code(code, "")
    advice = (type(made).__doc__ or "").partition("\n")[0]
    said = f" ({message})" if message else ""
    return errors.from_code(code, f"{subject}: {advice}{said}")


def refusal(result: Result, pipe: int, subject: str) -> errors.Mpy6aError:
    """The exception for one refused operation of a batch."""
    if result.code == Code.KEY_LIVE:
        live = str(SessionId(pipe, result.term, result.index))
        state = state_name(result.state)
        return errors.KeyLive(f"{subject}: session {live} ({state}) of this kind has the key", live, state)
    message = result.message
    if result.code == Code.FENCED and result.epoch:
        message = f"its epoch is {result.epoch} now" + (f"; {message}" if message else "")
    return error(result.code, subject, message)


def after_refusal(subject: str, cause: BaseException | None) -> errors.AfterRefusal:
    """For an operation that was not applied because one before it was refused; `cause` is that refusal."""
    made = errors.AfterRefusal(
        f"{subject}: not applied, because an earlier operation of this session was refused"
        + (f": {cause}" if cause is not None else "")
    )
    made.__cause__ = cause
    return made


def state_name(state: int) -> str:
    """`OPEN`, `STORED`, ...; the number of a state that this release does not know."""
    try:
        return SessionState(state).name
    except ValueError:
        return str(state)
