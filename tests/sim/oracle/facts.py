"""What the world tells the oracle, and how the oracle says no: plain tuples of numbers and bytes."""

from __future__ import annotations

from typing import Final, NamedTuple

BATCH: Final = 1
POLICY: Final = 2
OPENING: Final = 3
PROPOSALS: Final = 4
ADMIN: Final = 5


class Violation(AssertionError):
    """A promise is broken. `what` names the rule in a word or two: a shrunk history has to break the same one."""

    def __init__(self, what: str, facts: str) -> None:
        super().__init__(f"{what}: {facts}")
        self.what = what


class FrameSeen(NamedTuple):
    """A frame as the log returned it. `items`: of a policy, opening, proposals or operator's word, as plain tuples:

    POLICY (PolicySeen,) - OPENING (term,) - PROPOSALS (verb, term, index, epoch, change, cause, charged, due_ms,
    target, sidecar, reason) each - ADMIN (verb, kind, until_ms, reason), then (term, index) each
    """

    type: int
    flags: int
    term: int
    first_index: int
    entries: int
    log_ms: int
    origin: bytes
    body: bytes
    verdicts: bytes
    items: tuple[tuple[object, ...], ...] = ()

    def same(self, other: FrameSeen) -> bool:
        """Whether both are the same frame of the log, byte for byte."""
        return self[:9] == other[:9]


class KindSeen(NamedTuple):
    """A kind's policy as the log has it."""

    sidecars: tuple[str, ...]
    delay_ms: int
    jitter_ms: int
    backoff_base_ms: int
    backoff_cap_ms: int
    idle_ms: int
    silence_ms: int
    barren_limit: int
    charge_limit: int
    rate: int = 0
    rate_ms: int = 1_000
    burst: int = 0
    total: int = 0
    breaker: int = 0


class PolicySeen(NamedTuple):
    """A policy frame."""

    kinds: dict[int, KindSeen]
    session_bytes_max: int
    session_records_max: int


class Kept(NamedTuple):
    """A live session as the pipe keeps it, to be held against what the log says."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    kind: int
    state: int
    epoch: int
    seq: int
    writer: bytes
    target: bytes
    fence: int
    due_ms: int
    stored_index: int
    change: int
    records: tuple[bytes, ...] | tuple[int, ...]  # themselves, or only how long they are
    cancel: bool
    paused: bool
    repeats: int
    charges: int
    barren: int
    releases: int
    park_reason: str
    key: str


class Told(NamedTuple):
    """What an ack says of one operation."""

    position: int
    code: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    term: int
    state: int
