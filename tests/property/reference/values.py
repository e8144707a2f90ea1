"""What the reference keeps of sessions and clients, and the one draw that both sides make alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mpy6a.model import SessionState, Verb

OK: Final = 0
FENCED: Final = 1
GONE: Final = 2
STALE_COPY: Final = 3
SEQ_GAP: Final = 4
AFTER_REFUSAL: Final = 5
ENDED: Final = 6
TOO_LARGE: Final = 7
KEY_LIVE: Final = 9
OUTCOME_UNKNOWN: Final = 10
LOG_BEHIND: Final = 11
LOST: Final = 12

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
RETRY_AFTER_MAX_MS: Final = 10 * 60_000
STORE_MAX_MS: Final = 10 * 365 * DAY_MS
BY_POLICY: Final = 2**64 - 1
NOBODY: Final = bytes(16)
ATTEMPTS_KEPT: Final = 16

WRITABLE: Final = (SessionState.OPEN, SessionState.REPEATING)
ENDINGS: Final = (Verb.FAIL, Verb.RELEASE, Verb.PARK)
IN_SEQ: Final = (Verb.APPEND, Verb.REPLACE, Verb.TOUCH, Verb.DELETE, Verb.STORE)

SessionKey = tuple[int, int]  # (term, index) of the id; one pipe, so its number says nothing here


@dataclass(frozen=True)
class Verdict:
    """What one operation is told. `index`, `term`: the session made (NEW), or the one that has the key."""

    code: int
    index: int = 0
    term: int = 0


@dataclass(frozen=True)
class Kind:
    """The repeat policy of one kind; the values are those of a kind that no policy names."""

    delay_ms: int = 1_000
    jitter_ms: int = 0
    backoff_base_ms: int = 1_000
    backoff_cap_ms: int = 600_000
    idle_ms: int = 300_000
    silence_ms: int = 300_000
    barren_limit: int = 200
    charge_limit: int = 1_000


@dataclass
class Last:
    """The last group that was decided at question 4, and how."""

    origin: bytes
    epoch: int
    first_seq: int
    count: int
    number_ok: int = 0
    code: int = OK

    def is_group(self, origin: bytes, epoch: int, first_seq: int, count: int) -> bool:
        """Whether this very group comes again: neither split nor grown."""
        return (self.origin, self.epoch, self.first_seq, self.count) == (origin, epoch, first_seq, count)

    def plain(self) -> tuple[bytes, int, int, int, int, int]:
        """As `State.dump` tells it."""
        return (self.origin, self.epoch, self.first_seq, self.count, self.number_ok, self.code)

    def replay(self) -> list[int]:
        """The original verdicts, in order."""
        if self.number_ok == self.count:
            return [OK] * self.count
        return [OK] * self.number_ok + [self.code] + [AFTER_REFUSAL] * (self.count - self.number_ok - 1)


@dataclass
class Session:
    """One live session."""

    kind: int
    state: SessionState
    writer: bytes
    fence: int
    created_ms: int
    change: int
    due_ms: int
    records: list[bytes]
    key: str = ""
    order_key: str = ""
    schema: str = ""
    trace: bytes = b""
    epoch: int = 1
    seq: int = 0
    target: bytes = NOBODY
    cancel: bool = False
    paused: bool = False
    grown: bool = False  # an Append or Replace was accepted in this epoch
    repeats: int = 0
    charges: int = 0
    barren: int = 0
    releases: int = 0
    stored_index: int = 0
    park_reason: str = ""
    attempts: list[tuple[int, int, bool]] = field(default_factory=list)  # (epoch, outcome, charged)
    last: Last | None = None

    def is_written_by(self, origin: bytes) -> bool:
        """Whether `origin` is the writer now, or may become it by writing first under a pushed epoch."""
        if self.state == SessionState.REPEATING and self.writer == NOBODY:
            return True
        return self.state in WRITABLE and self.writer == origin


@dataclass(frozen=True)
class Trace:
    """What is left of a session that was finished in a later epoch than its first, or by an operator."""

    epoch: int
    since_ms: int


@dataclass
class Client:
    """What is known of the News of one incarnation, from its first New on."""

    mark: int = 0
    last_frame_ms: int = 0
    outcomes: dict[int, Verdict] = field(default_factory=dict)


def splitmix64(z: int) -> int:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014), without the added gamma."""
    z %= 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def draw(term: int, epoch: int, index: int, n: int) -> int:
    """A number in 0..n that every replay draws again for this id and epoch."""
    r = splitmix64((term * 2**32 + epoch) * 0x9E3779B97F4A7C15 + index)
    return r * (n + 1) // 2**64


def name_of(incarnation: bytes) -> str:
    """An incarnation in hex, nobody as nothing."""
    return "" if incarnation == NOBODY else incarnation.hex()


def plain(session: Session) -> dict[str, object]:
    """A session as `State.dump` tells it."""
    return {
        "kind": session.kind,
        "state": int(session.state),
        "epoch": session.epoch,
        "seq": session.seq,
        "writer": name_of(session.writer),
        "target": name_of(session.target),
        "fence": session.fence,
        "cancel": session.cancel,
        "paused": session.paused,
        "records": [len(record) for record in session.records],
        "repeats": session.repeats,
        "charges": session.charges,
        "barren": session.barren,
        "releases": session.releases,
        "due_ms": session.due_ms,
        "stored_index": session.stored_index,
        "change": session.change,
        "created_ms": session.created_ms,
        "key": session.key,
        "order_key": session.order_key,
        "schema": session.schema,
        "trace": session.trace.hex(),
        "park_reason": session.park_reason,
        "attempts": list(session.attempts),
        "last": None if session.last is None else session.last.plain(),
    }
