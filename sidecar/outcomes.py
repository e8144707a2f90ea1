"""How each kind of handler says how its run ended: one table a kind of handler, which the tests read.

Pure. Interfaces: "HTTP handlers", "exec handlers". A run ends by an operation of its writer (DELETE, STORE) or by an
ending of the target (FAIL, RELEASE, PARK); `after_ms` is the time of a Store or of the retry after a release.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from mpy6a import limits
from mpy6a.errors import Code
from mpy6a.model import BY_POLICY, Verb


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run. `verb` is DELETE, STORE, FAIL, RELEASE or PARK; the message is for people.
    `unreachable`: the handler was not there at all; an http one gets no credit until it is."""

    verb: Verb
    after_ms: int = BY_POLICY
    message: str = ""
    unreachable: bool = False


# status of an http answer -> what it says. 200 says it in its body; every status that is not here is FAIL.
HTTP_STATUS: Final = {204: Verb.DELETE, 422: Verb.PARK, 429: Verb.RELEASE, 503: Verb.RELEASE}
# `outcome` of a 200's body -> what it says; anything else is FAIL.
HTTP_OUTCOMES: Final = {
    "delete": Verb.DELETE,
    "store": Verb.STORE,
    "release": Verb.RELEASE,
    "park": Verb.PARK,
    "fail": Verb.FAIL,
}
# What went wrong without an answer -> (what it says, its message, was nobody there?).
HTTP_FAILURES: Final = {
    "refused": (Verb.RELEASE, "the handler's address refused the connection", True),
    "dns": (Verb.RELEASE, "the name of the handler's host is not known", True),
    "timeout": (Verb.FAIL, "no answer within the kind's timeout", False),
    "broken": (Verb.FAIL, "the connection broke before the answer was complete", False),
    "too_large": (Verb.FAIL, f"the answer is over {limits.ANSWER_BYTES_MAX} bytes", False),
    "records": (Verb.PARK, "a record is not valid in the form that `records:` names", False),
}

# Exit status of an exec handler -> what it says; every other status, and a signal, is FAIL. 65 and 75 are
# EX_DATAERR and EX_TEMPFAIL of sysexits.h. The message is the end of its stderr.
EXEC_STATUS: Final = {0: Verb.DELETE, 65: Verb.PARK, 75: Verb.RELEASE}
# What went wrong without an exit that counts -> (what it says, its message, was it not even started?).
EXEC_FAILURES: Final = {
    "not_started": (Verb.RELEASE, "the program could not be started", True),
    "lost": (Verb.RELEASE, "the process that starts programs has ended", False),
    "timeout": (Verb.FAIL, "no end within the kind's timeout", False),
    "records": (Verb.PARK, "a record is not valid in the form that `records:` names", False),
}

# What a callback of a running http or exec handler does. DELETE to STORE are operations of the writer, the others
# endings.
CALLBACKS: Final = {
    "append": Verb.APPEND,
    "replace": Verb.REPLACE,
    "touch": Verb.TOUCH,
    "delete": Verb.DELETE,
    "store": Verb.STORE,
    "release": Verb.RELEASE,
    "park": Verb.PARK,
}
# The pipe's verdict on it -> status. 204: durable; 409: stop, roll back; 503: try again after Retry-After.
CALLBACK_OK: Final = 204
CALLBACK_STATUS: Final = {
    Code.TOO_LARGE: 413,
    Code.DISK_LOW: 503,
    Code.BUSY: 503,
    Code.NOT_LEADER: 503,
    Code.SHUTTING_DOWN: 503,
    Code.NO_PIPE: 503,
}
CALLBACK_REFUSED: Final = 409  # FENCED, GONE, and whatever else is final
CALLBACK_RETRY_S: Final = 1

_DURATION: Final = re.compile(r"(\d{1,12})(ms|s|m|h|d)")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def http_answer(status: int, body: bytes, retry_after: str | None, wall_ms: int) -> Outcome:
    """What the answer of an http handler says; `wall_ms` is the time now, for a Retry-After that is a
    date."""
    if status == 200:
        return _from_body(body)
    verb = HTTP_STATUS.get(status, Verb.FAIL)
    match verb:
        case Verb.DELETE:
            return Outcome(verb)
        case Verb.RELEASE:
            return Outcome(verb, retry_after_ms(retry_after, wall_ms), f"the handler answered {status}")
        case Verb.PARK:
            return Outcome(verb, message=text(body))
        case _:
            return Outcome(Verb.FAIL, message=f"the handler answered {status}: {text(body, 256)}")


def http_failure(what: str, detail: str = "") -> Outcome:
    """What it says when there was no answer; `what` is a key of HTTP_FAILURES."""
    verb, message, unreachable = HTTP_FAILURES[what]
    return Outcome(verb, message=f"{message}: {detail}" if detail else message, unreachable=unreachable)


def exec_exit(status: int, stderr: bytes) -> Outcome:
    """What the end of an exec handler says. `status` is its exit status, or -n for signal n; `stderr` the end of what
    it wrote there."""
    verb = EXEC_STATUS.get(status, Verb.FAIL)
    if verb is Verb.DELETE:
        return Outcome(verb)
    return Outcome(verb, message=last_text(stderr) or f"the program {exit_text(status)}")


def exec_failure(what: str, detail: str = "") -> Outcome:
    """What it says when no exit counts; `what` is a key of EXEC_FAILURES."""
    verb, message, unreachable = EXEC_FAILURES[what]
    told = f"{message}: {detail}" if detail else message
    return Outcome(verb, message=text(told.encode("utf-8", "replace")), unreachable=unreachable)


def exit_text(status: int) -> str:
    """How a program ended, for people."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal: most have no name
        return f"was ended by signal {-status}"


def retry_after_ms(value: str | None, wall_ms: int) -> int:
    """Retry-After (RFC 9110: seconds or a date) in ms, at most 10 min; the back-off when there is none."""
    if value is None:
        return BY_POLICY
    value = value.strip()
    if re.fullmatch(r"\d{1,18}", value):
        return min(int(value) * 1_000, limits.RETRY_AFTER_MAX_MS)
    try:
        due_ms = round(parsedate_to_datetime(value).timestamp() * 1_000)
    except (ValueError, OverflowError):
        return BY_POLICY
    return min(max(0, due_ms - wall_ms), limits.RETRY_AFTER_MAX_MS)


def duration_ms(value: str) -> int:
    """`30s`, `500ms`, `2h` in ms; raises ValueError that says what is allowed."""
    found = _DURATION.fullmatch(value)
    if found is None or (length := int(found[1]) * _UNITS_MS[found[2]]) > limits.DURATION_MS_MAX:
        raise ValueError(f"{value[:32]!r} is no duration; one looks like 500ms, 30s, 5m, 2h or 1d")
    return length


def text(body: bytes, bytes_max: int = limits.TEXT_BYTES_MAX) -> str:
    """The beginning of what somebody wrote, as text for people."""
    return body[:bytes_max].decode("utf-8", "ignore").strip()


def last_text(output: bytes, bytes_max: int = limits.TEXT_BYTES_MAX) -> str:
    """The end of what a program wrote, as text for people of at most that many bytes; what is no UTF-8 is replaced."""
    tail = output[-bytes_max:].decode("utf-8", "replace").strip()
    return tail.encode()[-bytes_max:].decode("utf-8", "ignore")  # replaced, a byte has become three


def _from_body(body: bytes) -> Outcome:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return _not_understood(body)
    outcome = said.get("outcome") if isinstance(said, dict) else None
    if not isinstance(outcome, str) or outcome not in HTTP_OUTCOMES:
        return _not_understood(body)
    verb = HTTP_OUTCOMES[outcome]
    match verb:
        case Verb.STORE:
            after = said.get("after")
            try:
                return Outcome(verb, BY_POLICY if after is None else duration_ms(str(after)))
            except ValueError as error:
                return Outcome(Verb.FAIL, message=f"`after` of the answer: {error}")
        case Verb.PARK:
            return Outcome(verb, message=_short(said.get("reason")))
        case Verb.FAIL:
            return Outcome(verb, message=_short(said.get("message")))
        case _:
            return Outcome(verb)


def _not_understood(body: bytes) -> Outcome:
    return Outcome(Verb.FAIL, message=f"the handler answered 200 without an outcome: {text(body, 256)}")


def _short(value: object) -> str:
    return text(str(value).encode("utf-8", "ignore")) if value is not None else ""
