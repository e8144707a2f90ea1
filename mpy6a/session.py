"""One session as the pipe keeps it, and the table of what may become of it.

                 Append Replace Touch
                   .--------------.
   New             v              |     Store, idle, writer gone              dispatch (epoch + 1)
    '--------->  OPEN ------------+-----------------------------> STORED ------------------------> REPEATING
                   |                                                ^  ^                            |  |  |
                   |                                           kick |  '--- Store, fail, release ---'  |  |
                   | Delete                                         |                                  |  |
                   v                      park (operator, limits)   |       park, limits               |  |
                 gone  <------------------ PARKED <-----------------+----------------------------------'  |
                   ^                         |                                                            |
                   '----- Delete (operator) -'<------------------------------- Delete --------------------'

Only `mpy6a.state` changes a session. Source: semantics "One session".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import Final

from mpy6a.model import Attempt, Extra, SessionState, fence

GONE: Final = 0  # the state after the last transition: the session is forgotten
OPEN: Final = int(SessionState.OPEN)
STORED: Final = int(SessionState.STORED)
REPEATING: Final = int(SessionState.REPEATING)
PARKED: Final = int(SessionState.PARKED)


class Event(IntEnum):
    """What can happen to a session, whoever says it."""

    WRITE = 1  # Append, Replace, Touch by the writer
    DELETE = 2
    STORE = 3
    IDLE = 4  # writer gone, or the idle limit
    DISPATCH = 5
    FAIL = 6  # error, undecided return, silence limit, death of the handler's process
    RELEASE = 7
    PARK = 8  # by the target, or by the pipe where the routes say so (limits lowered, orphans: park)
    LIMIT = 9  # charge_limit or barren_limit reached
    KICK = 10  # operators' words from here on
    CANCEL = 11
    ADMIN_PARK = 12
    ADMIN_DELETE = 13


# event -> {state it may meet: state it leads to}. What is not here cannot happen.
TRANSITIONS: Final[Mapping[int, Mapping[int, int]]] = {
    Event.WRITE: {OPEN: OPEN, REPEATING: REPEATING},
    Event.DELETE: {OPEN: GONE, REPEATING: GONE},
    Event.STORE: {OPEN: STORED, REPEATING: STORED},
    Event.IDLE: {OPEN: STORED},
    Event.DISPATCH: {STORED: REPEATING},
    Event.FAIL: {REPEATING: STORED},
    Event.RELEASE: {REPEATING: STORED},
    Event.PARK: {STORED: PARKED, REPEATING: PARKED},
    Event.LIMIT: {STORED: PARKED, REPEATING: PARKED},
    Event.KICK: {STORED: STORED, PARKED: STORED},
    Event.CANCEL: {OPEN: STORED, STORED: STORED, REPEATING: STORED},
    Event.ADMIN_PARK: {OPEN: PARKED, STORED: PARKED, REPEATING: PARKED, PARKED: PARKED},
    Event.ADMIN_DELETE: {OPEN: GONE, STORED: GONE, REPEATING: GONE, PARKED: GONE},
}

REFERENCE: Final = Struct("<IQ")  # of a record: its length and its position in the log
_LENGTH: Final = (1 << 32) - 1
_MASK: Final = (1 << 64) - 1


def draw(term: int, epoch: int, index: int, most: int) -> int:
    """A number in 0..most that depends on (id, epoch) only: log/FORMAT.md, "Draws"."""
    z = ((term << 32 | epoch) * 0x9E3779B97F4A7C15 + index) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return ((z ^ z >> 31) * (most + 1)) >> 64


class Delivery:
    """What a session gathers once it is repeated, or an operator spoke of it; most sessions never have one."""

    __slots__ = (
        "attempts",  # the last ATTEMPTS_KEPT, oldest first
        "barren",  # charged repeats in a row that added no record
        "cancel",
        "charges",
        "fence",  # set at each dispatch
        "grew",  # a record was added in this epoch
        "park_reason",
        "paused",
        "releases",  # in a row
        "repeats",
        "sidecar",  # the target's name in the routes
        "started_ms",
        "target",  # incarnation it is pushed to
    )

    def __init__(self) -> None:
        self.attempts: tuple[Attempt, ...] = ()
        self.barren = 0
        self.cancel = False
        self.charges = 0
        self.fence = 0
        self.grew = False
        self.park_reason = ""
        self.paused = False
        self.releases = 0
        self.repeats = 0
        self.sidecar = ""
        self.started_ms = 0
        self.target = b""


class Session:
    """One live session. Slots and plain ints, not a frozen value: `apply` touches it once an operation."""

    __slots__ = (
        "change",  # log index of its last change
        "created_ms",
        "delivery",
        "due_ms",  # log time; 0 while PARKED
        "epoch",
        "extra",  # key, order_key, schema, trace of its New, or None
        "index",
        "kind",
        "last",  # (origin, epoch, first seq, count, number OK, code) of the group decided last, or None
        "positions",  # of its records in the log, REFERENCE each: bytes, for a list of integers takes twice as much
        "seq",  # the last one taken in this epoch
        "size",  # bytes of its records
        "state",
        "stored_index",  # log index at which it was stored: second key of the order of dispatch
        "term",
        "timer_ms",  # when the wheel will look at it next; 0: no entry
        "writer",  # client incarnation, b"" for none
    )

    def __init__(self, term: int, index: int, kind: int, writer: bytes, created_ms: int, due_ms: int) -> None:
        self.term = term
        self.index = index
        self.kind = kind
        self.state = OPEN
        self.epoch = 1
        self.seq = 0
        self.writer = writer
        self.last: tuple[bytes, int, int, int, int, int] | None = None
        self.positions = b""
        self.size = 0
        self.created_ms = created_ms
        self.due_ms = due_ms
        self.stored_index = 0
        self.timer_ms = 0
        self.change = index
        self.extra: Extra | None = None
        self.delivery: Delivery | None = None

    @property
    def records(self) -> list[int]:
        """References into the log: position << 32 | length."""
        return [position << 32 | length for length, position in REFERENCE.iter_unpack(self.positions)]

    @records.setter
    def records(self, references: list[int]) -> None:
        self.positions = b"".join([REFERENCE.pack(one & _LENGTH, one >> 32) for one in references])

    @property
    def fence(self) -> int:
        """The rising number for external systems: of the last dispatch, or of the id in epoch 1."""
        delivery = self.delivery
        return delivery.fence if delivery is not None and delivery.fence else fence(self.term, 1)
