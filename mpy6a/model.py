"""Ids, states, operations and effects: the values that every room of the pipe speaks in.

No behaviour but text forms. Numbers of the enums are frozen: they stand in logs and on the wire.
Source: semantics "One session" (docs/ARCHITECTURE.md), schemas/wire.capnp, schemas/log.capnp.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NamedTuple, NewType

PipeNumber = NewType("PipeNumber", int)  # u16
Incarnation = NewType("Incarnation", bytes)  # 16 random bytes of one process life; zeros: the pipe's own

NOBODY: Final = Incarnation(bytes(16))
U64_MAX: Final = (1 << 64) - 1
BY_POLICY: Final = U64_MAX  # a time left to the kind's policy (Op.store, Op.release, Proposal.dueMs)
TERM_EPOCH_2020_S: Final = 1_577_836_800  # repair and restore take at least the seconds since then as term

_ID_TEXT: Final = re.compile(r"([1-9][0-9]{0,4})\.([1-9][0-9]{0,9})\.([1-9][0-9]{0,19})")


class SessionId(NamedTuple):
    """Index of a session (`Index` of the seeds): pipe u16, term u32, log index u64 of its New. Text: `1.3.48213`."""

    pipe: int
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here

    def __str__(self) -> str:
        return f"{self.pipe}.{self.term}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> SessionId:
        """Raises ValueError, saying what an id looks like, for anything that is not the text of one."""
        found = _ID_TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:64]!r} is no session id; one looks like 1.3.48213 (pipe.term.index)")
        session = cls(*map(int, found.groups()))
        if session.pipe > 0xFFFF or session.term > 0xFFFFFFFF or session.index > U64_MAX:
            raise ValueError(f"{text[:64]!r} is no session id: a number is out of its range")
        return session


class SessionState(IntEnum):
    """Where a session stands. A finished session is gone; its id never returns."""

    OPEN = 1  # a client writes
    STORED = 2  # waits for its due time
    REPEATING = 3  # pushed; the handler writes
    PARKED = 4  # waits for an operator


class Verb(IntEnum):
    """What an operation does: the union tag of wire.capnp's Op."""

    NEW = 0
    APPEND = 1
    REPLACE = 2
    TOUCH = 3
    DELETE = 4
    STORE = 5
    FAIL = 6  # endings by the target, without seq
    RELEASE = 7
    PARK = 8


class ProposalVerb(IntEnum):
    """What the pipe itself proposes about a session."""

    DISPATCH = 1
    EXPIRE = 2  # idle or silence limit
    OWNER_GONE = 3
    RELEASE = 4
    FAIL = 5
    PARK = 6


class Cause(IntEnum):
    """Why a proposal or ending was made; for people and for `attempts`."""

    NONE = 0
    IDLE = 1
    SILENCE = 2
    OWNER_GONE = 3
    SIDECAR_LOST = 4
    NEVER_ACCEPTED = 5
    NO_ROOM = 6
    DRAIN = 7
    DISK = 8
    BREAKER = 9
    CHARGE_LIMIT = 10
    BARREN_LIMIT = 11
    ORPHAN_KIND = 12


class AdminVerb(IntEnum):
    """What an operator says; each is logged with who and why."""

    KICK = 1
    DELETE = 2
    PARK = 3
    CANCEL = 4
    PAUSE = 5
    RESUME = 6
    CLOCK_ACCEPT = 7


class AttemptOutcome(IntEnum):
    """How one run of a handler ended."""

    DECIDED = 0  # by an operation of the writer (Delete, Store)
    FAIL = 1
    RELEASE = 2
    PARK = 3
    CANCELLED = 4  # fenced by an operator


class Op(NamedTuple):
    """One operation of a batch. `index` is the request number in NEW. `record` is None where the verb has none,
    and in NEW without a first record; `argument` is the kind in NEW, afterMs in STORE, retryAfterMs in RELEASE."""

    verb: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    term: int = 0
    epoch: int = 0
    seq: int = 0
    argument: int = 0
    record: bytes | None = None


class Extra(NamedTuple):
    """What is rare in a NEW."""

    position: int
    key: str = ""
    order_key: str = ""
    schema: str = ""
    trace: bytes = b""


class Row(NamedTuple):
    """One operation as `apply` reads it: `offset` and `length` address the record within the batch's bytes;
    length is -1 where the record is null."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    epoch: int
    seq: int
    term: int
    verb: int
    argument: int
    offset: int
    length: int


class Result(NamedTuple):
    """Verdict on one operation of a batch; in an Ack only where it is not plain OK."""

    position: int
    code: int
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    term: int = 0
    epoch: int = 0
    state: int = 0
    message: str = ""


class Attempt(NamedTuple):
    """One run of a handler, as `show` and RepeatData tell it. Times in ms of log time."""

    epoch: int
    started_ms: int
    duration_ms: int
    outcome: int
    charged: bool
    sidecar: str
    message: str


class Proposal(NamedTuple):
    """What the pipe proposes about a session; void when (epoch, change) has moved before it is applied."""

    verb: int
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    epoch: int
    change: int
    cause: int = 0
    charged: bool = False
    due_ms: int = BY_POLICY
    target: bytes = NOBODY
    sidecar: str = ""
    reason: str = ""


def fence(term: int, epoch: int) -> int:
    """The rising number for external systems: term of the dispatch (of the id in epoch 1) and epoch in one u64."""
    return term << 32 | epoch
