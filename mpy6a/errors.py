"""Errors of the pipe: one root, three families, stable codes on the wire.

`Refused` is the caller's fault, `Unavailable` the world's, `Corrupt` damaged data. Every leaf names its wire
code (schemas/PROTOCOL.md, "Codes") and says what to do next; nobody parses the sentence.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """Verdict on an operation or a message. The numbers are frozen: they stand in logs and on the wire."""

    OK = 0
    # Verdicts of `apply` on a well-formed operation (logged).
    FENCED = 1  # the session is not yours (another writer, or a newer epoch); final
    GONE = 2  # the session is finished; final
    STALE_COPY = 3  # a late copy of an operation that was decided; final
    SEQ_GAP = 4  # acknowledged operations are missing here; final
    AFTER_REFUSAL = 5  # an earlier operation of the same group was refused
    ENDED = 6  # the epoch was already ended (answer to an outcome); final
    TOO_LARGE = 7  # record, session or number of records over its limit; the session is untouched
    UNKNOWN_KIND = 8  # the routes do not name this kind
    KEY_LIVE = 9  # a live session of the kind has this key; the result carries its id and state
    OUTCOME_UNKNOWN = 10  # too long ago to know; look at what the operation did
    LOG_BEHIND = 11  # the id lies beyond this log's end: this is an older copy of the pipe's data
    LOST = 12  # the id's index lies outside its term's range in this log (repair, restore)
    DENIED = 13  # the principal may not do this with this kind
    DISK_LOW = 14  # disk level 1 or 2; retry when the operator made room
    # Answers that are not logged.
    BUSY = 32  # a bounded queue is full; send again after retryAfterMs
    NOT_LEADER = 33  # this pipe does not lead; try another address
    MALFORMED = 34  # no valid message; the sender has a bug
    VERSION = 35  # a protocol version this side does not speak
    WRONG_PIPE = 36  # the header names another pipe
    NOT_ADMIN = 37  # an operator's verb on a door that is not the admin door
    NO_SUCH_SESSION = 38  # admin: no live session has this id
    BAD_REQUEST = 39  # admin: the verb's arguments do not fit
    SHUTTING_DOWN = 40  # the other side is going; reconnect
    NO_PIPE = 41  # the sidecar has no connection to the pipe that the message names


class Mpy6aError(Exception):
    """Root of all errors of the pipe."""


class Refused(Mpy6aError):
    """The caller's fault: the operation was not applied and will not be, sent as it is."""

    code: ClassVar[Code | None] = None


class Unavailable(Mpy6aError):
    """The world's fault: the operation may be tried again, or its outcome is not known yet."""

    code: ClassVar[Code | None] = None


class Corrupt(Mpy6aError):
    """Damaged data: an operator has to act; nothing is served from it."""


class Fenced(Refused):
    """Another writer owns the session now: stop, and roll your own transaction back."""

    code = Code.FENCED


class Gone(Refused):
    """The session is finished: stop; there is nothing left to do for it."""

    code = Code.GONE


class StaleCopy(Refused):
    """A late copy of an operation that was decided before: drop it."""

    code = Code.STALE_COPY


class SeqGap(Refused):
    """Operations acknowledged earlier are missing in the pipe: stop and tell the operator (restored data?)."""

    code = Code.SEQ_GAP


class AfterRefusal(Refused):
    """An earlier operation of this session was refused, so this one was not applied: look at that error."""

    code = Code.AFTER_REFUSAL


class Ended(Refused):
    """The epoch was ended before this outcome arrived: nothing to do."""

    code = Code.ENDED


class TooLarge(Refused):
    """Record or session over its limit: the session is untouched; replace, delete or store it."""

    code = Code.TOO_LARGE


class UnknownKind(Refused):
    """The routes do not name this kind: check the spelling, or add the kind to routes.yaml and reload."""

    code = Code.UNKNOWN_KIND


class KeyLive(Refused):
    """A live session of this kind has the key: work with that one (`.session_id`, `.state`)."""

    code = Code.KEY_LIVE

    def __init__(self, message: str, session_id: str = "", state: str = "") -> None:
        super().__init__(message)
        self.session_id = session_id
        self.state = state


class Denied(Refused):
    """The principal may not do this with this kind: ask the operator for the right."""

    code = Code.DENIED


class DiskLow(Refused):
    """The pipe's disk is nearly full: finish sessions, or make room; new work is refused until then."""

    code = Code.DISK_LOW


class LogBehind(Refused):
    """The pipe has older data than this session: it was restored; tell the operator."""

    code = Code.LOG_BEHIND


class Lost(Refused):
    """The session was lost in a repair or restore: check its effects by hand."""

    code = Code.LOST


class Malformed(Refused):
    """The message is no valid one: a bug in its sender, or another protocol on this socket."""

    code = Code.MALFORMED


class VersionMismatch(Refused):
    """The two sides speak different protocol versions: upgrade the older one."""

    code = Code.VERSION


class WrongPipe(Refused):
    """The session belongs to a pipe that does not answer here: check the addresses."""

    code = Code.WRONG_PIPE


class NotAdmin(Refused):
    """Operators' verbs are answered on the pipe's admin door only: use `admin:` of pipe.yaml."""

    code = Code.NOT_ADMIN


class NoSuchSession(Refused):
    """No live session has this id: it is finished, or never was; check the id."""

    code = Code.NO_SUCH_SESSION


class BadRequest(Refused):
    """The arguments do not fit the verb: the message says which and what is allowed."""

    code = Code.BAD_REQUEST


class ConfigError(Refused):
    """A configuration is wrong: file, line, key, what was found and what is allowed, all errors at once."""


class SessionClosed(Refused):
    """The session was already deleted or stored by this caller: open a new one."""


class Busy(Unavailable):
    """A bounded queue is full: slow down; the library sends again by itself until the timeout."""

    code = Code.BUSY


class OutcomeUnknown(Unavailable):
    """No answer in time: the operation keeps its place and is still resent; it may be applied later."""

    code = Code.OUTCOME_UNKNOWN


class NotLeader(Unavailable):
    """This pipe does not lead: the library tries its other addresses."""

    code = Code.NOT_LEADER


class ShuttingDown(Unavailable):
    """The other side is stopping: the library reconnects by itself."""

    code = Code.SHUTTING_DOWN


class NoPipe(Unavailable):
    """Nobody answers for that pipe: start it, or check the address."""

    code = Code.NO_PIPE


class CannotStart(Unavailable):
    """A process cannot start (port, path, lock or directory in use or unusable): the message says what to do."""


class DiskFailed(Unavailable):
    """A write or sync failed: the process must stop; nothing after it was acknowledged."""


class DiskFull(Unavailable):
    """No room for the checkpoint: nothing was changed; make room, it is written again by itself."""


class DamagedLog(Corrupt):
    """The log is damaged at a place known to have been durable: run `mpy6a log verify`, then restore or repair."""


class FormatVersion(Corrupt):
    """The data directory has a format that this release does not read: use the release it names."""


class DamagedCheckpoint(DamagedLog):
    """The checkpoint does not join the log, or a row of it is damaged: restore a backup."""


BY_CODE: dict[Code, type[Refused] | type[Unavailable]] = {
    leaf.code: leaf
    for family in (Refused, Unavailable)
    for leaf in family.__subclasses__()
    if leaf.code is not None
}


def from_code(code: int, message: str) -> Mpy6aError:
    """The exception for a wire code; an unknown code (a newer peer) is a plain `Refused` that names it."""
    try:
        return BY_CODE[Code(code)](message)
    except (ValueError, KeyError):
        return Refused(f"code {code}: {message}")
