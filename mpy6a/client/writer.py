"""The writer of one epoch of a session: its operations in the caller's order, and whether it may still
write."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Generic, TypeVar

from mpy6a.errors import Mpy6aError
from mpy6a.model import Extra, SessionId

T = TypeVar("T")  # what the driver completes: a future, a waiting thread, a number

NEVER: Final = 1 << 62  # a time that no deadline reaches


class Decision(IntEnum):
    """How far the writer's last word (Delete, Store) has come."""

    NONE = 0
    CALLED = 1  # it is the last operation in the queue or in flight
    DONE = 2  # acknowledged: the session is no longer this writer's


# Waiting operations are plain tuples, (verb, argument, record, token, called_ms): a NamedTuple costs 0.25
# us more each (measured), which is an eighth of the client's whole budget for an operation.
Waiting = tuple[int, int, "bytes | None", T, int]


class Writer(Generic[T]):
    """One writer. Only the exchange that opened it changes it; drivers read `decision`, `final` and
    `refusal`.

    `heard_ms` is the log time of the last answer that said how the session stands: nobody else can have finished it
    before. `seq` is the last given; `in_flight` says that its one group is sent and not answered; `final` is the
    verdict after which nothing can be applied any more; `refusal` is the (token, error) of the last refused
    operation until the driver has told somebody (it sets it to None).
    """

    __slots__ = (
        "decision",
        "epoch",
        "final",
        "heard_ms",
        "in_flight",
        "index",
        "pipe",
        "refusal",
        "seq",
        "term",
        "waiting",
    )

    def __init__(self, pipe: int, term: int, index: int, epoch: int, heard_ms: int = 0) -> None:
        self.pipe = pipe
        self.term = term
        self.index = index
        self.epoch = epoch
        self.heard_ms = heard_ms
        self.seq = 0
        self.in_flight = False
        self.waiting: list[Waiting[T]] = []
        self.decision = Decision.NONE
        self.final: Mpy6aError | None = None
        self.refusal: tuple[T, Mpy6aError] | None = None

    def __str__(self) -> str:
        return f"session {self.pipe}.{self.term}.{self.index}"

    @property
    def session(self) -> SessionId:
        """Whose writer it is."""
        return SessionId(self.pipe, self.term, self.index)

    @property
    def idle(self) -> bool:
        """Nothing of it waits for an answer."""
        return not self.in_flight and not self.waiting


class WaitingNew(Generic[T]):
    """A New that is not packed yet."""

    __slots__ = ("called_ms", "extra", "kind", "record", "record_bytes", "token")

    def __init__(self, kind: int, record: bytes | None, extra: Extra | None, token: T, called_ms: int) -> None:
        self.kind = kind
        self.record = record
        self.record_bytes = 0 if record is None else len(record)
        self.extra = extra
        self.token = token
        self.called_ms = called_ms


class WaitingEnding(Generic[T]):
    """An ending by the target (FAIL, RELEASE, PARK) that is not packed yet."""

    __slots__ = ("argument", "called_ms", "epoch", "index", "record", "term", "token", "verb")

    def __init__(
        self,
        term: int,
        index: int,
        epoch: int,
        verb: int,
        argument: int,
        record: bytes,
        token: T,
        called_ms: int,
    ) -> None:
        self.term = term
        self.index = index
        self.epoch = epoch
        self.verb = verb
        self.argument = argument
        self.record = record
        self.token = token
        self.called_ms = called_ms


class InFlight(Generic[T]):
    """A batch that was sent and is not answered: its bytes as sent, and who waits for what.

    Positions: first the groups of `writers` (with `counts`), then endings, then from `news_from` on the News.
    """

    __slots__ = (
        "answered",
        "called",
        "counts",
        "first_request",
        "first_sent_ms",
        "message",
        "news_from",
        "number",
        "record_bytes",
        "refusals",
        "resend_at_ms",
        "subjects",
        "tokens",
        "wait_ms",
        "writers",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.message = b""
        self.tokens: list[T] = []
        self.called: list[int] = []
        self.writers: list[Writer[T]] = []
        self.counts: list[int] = []
        self.subjects: list[str] = []  # of the endings, for their errors
        self.news_from = 0
        self.first_request = 0  # of its News; 0: none
        self.first_sent_ms = 0
        self.record_bytes = 0
        self.resend_at_ms = 0
        self.wait_ms = 0
        self.refusals = 0
        self.answered = False

    def groups(self) -> Iterator[tuple[Writer[T], int, int]]:
        """Each writer with its group's first position and the one behind its last."""
        first = 0
        for writer, count in zip(self.writers, self.counts, strict=True):
            yield writer, first, first + count
            first += count
