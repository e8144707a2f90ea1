"""Sessions of every shape, and checkpoints in memory and on a disk, for the tests of the checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import apsw
from hypothesis import strategies as st

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.entries import encode_policy
from mpy6a.liveset import LiveSet
from mpy6a.model import Attempt, Extra
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.requests import Client, Outcome
from mpy6a.session import OPEN, PARKED, REPEATING, STORED, Delivery, Session

PIPE = 7
LOG = bytes(range(16))
POLICY = policy_of([KindPolicy(1, "user-create", ("users",)), KindPolicy(2, "order", ("orders",))])
NEVER = (-1, -1)  # below every (due_ms, stored_index)

_SQLITE_MAX = (1 << 63) - 1
_U32 = st.integers(0, (1 << 32) - 1)
_TIMES = st.integers(0, 1 << 45)
_INDEXES = st.integers(1, _SQLITE_MAX)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_INCARNATIONS = st.binary(min_size=16, max_size=16)
# The beginning of a log, and its last byte: segment and offset are 32 bits each, a record's length 32 more.
_POSITIONS = st.one_of(st.integers(1 << 32, 1 << 40), st.just((1 << 64) - 1))
_ATTEMPTS = st.builds(
    Attempt, _U32, _TIMES, _TIMES, st.integers(0, 4), st.booleans(), sidecar=_TEXTS, message=_TEXTS
)
_EXTRAS = st.builds(Extra, st.integers(0, 1023), _TEXTS, _TEXTS, _TEXTS, st.binary(max_size=8))

_DELIVERY_SLOTS = {
    "attempts": st.lists(_ATTEMPTS, max_size=3).map(tuple),
    "barren": _U32,
    "cancel": st.booleans(),
    "charges": _U32,
    "fence": st.integers(0, _SQLITE_MAX),
    "grew": st.booleans(),
    "park_reason": _TEXTS,
    "paused": st.booleans(),
    "releases": _U32,
    "repeats": _U32,
    "sidecar": _TEXTS,
    "started_ms": _TIMES,
    "target": st.one_of(st.just(b""), _INCARNATIONS),
}


@st.composite
def _deliveries(draw: st.DrawFn) -> Delivery:
    """Each slot drawn, or left as it begins."""
    delivery = Delivery()
    for slot, values in _DELIVERY_SLOTS.items():
        if draw(st.booleans()):
            setattr(delivery, slot, draw(values))
    return delivery


@st.composite
def sessions(draw: st.DrawFn) -> tuple[Session, list[bytes]]:
    """A session with every slot drawn from all of its range, and the bytes behind its references."""
    session = Session(
        draw(_U32), draw(_INDEXES), draw(_U32), draw(st.just(b"") | _INCARNATIONS), draw(_TIMES), draw(_TIMES)
    )
    session.state = draw(st.sampled_from((OPEN, STORED, REPEATING, PARKED)))
    session.epoch, session.seq, session.change = draw(_U32), draw(_U32), draw(_INDEXES)
    session.extra = draw(st.one_of(st.none(), _EXTRAS))
    if draw(st.booleans()):
        session.last = draw(st.tuples(_INCARNATIONS, _U32, _U32, _U32, _U32, st.integers(0, (1 << 16) - 1)))
    session.stored_index = draw(st.integers(0, _SQLITE_MAX))
    if draw(st.booleans()):
        session.delivery = draw(_deliveries())
    records = draw(st.lists(st.binary(max_size=40), max_size=4))
    positions = draw(st.lists(_POSITIONS, min_size=len(records), max_size=len(records), unique=True))
    session.records = [position << 32 | len(record) for position, record in zip(positions, records, strict=True)]
    session.size = sum(map(len, records))
    return session, records


def stored(index: int, due_ms: int = 1_000, kind: int = 1, key: str = "", record: bytes = b"data") -> Session:
    """A STORED session as most are."""
    session = Session(3, index, kind, b"", 500, due_ms)
    session.state, session.seq, session.change = STORED, 2, index + 1
    session.last = (b"A" * 16, 1, 1, 2, 2, 0)
    session.records, session.size = [((1 << 32 | 4096 + index * 64) << 32) | len(record)], len(record)
    session.extra = Extra(0, key) if key else None
    session.stored_index = index + 1
    return session


def slots(session: Session) -> dict[str, Any]:
    """All that a session says and a row has to keep: what FORMAT.md and images.py leave out is made equal."""
    left_out = ("timer_ms", "delivery", "extra")
    found = {slot: getattr(session, slot) for slot in Session.__slots__ if slot not in left_out}
    extra = session.extra or Extra(0)
    delivery = session.delivery or Delivery()
    found["extra"] = tuple(extra)[1:]
    found["delivery"] = {slot: getattr(delivery, slot) for slot in Delivery.__slots__}
    return found


def header(next_index: int = 100, **other: Any) -> CheckpointHeader:
    """A header that fits `fill`."""
    facts: dict[str, Any] = {
        "pipe": PIPE, "next_index": next_index, "segment": 1, "offset": 9_000, "term": 3, "log_ms": 5_000,
        "wall_ms": 6_000, "level": 1, "clock_accepted_ms": 7, "terms": 2, "pauses": 1, "clients": 2,
        "log": LOG, "policy": encode_policy(POLICY), "release": "1.2.3",
    }  # fmt: skip
    return CheckpointHeader(**(facts | other))


def fill(file: CheckpointFile, rows: list[tuple[Session, list[bytes]]]) -> None:
    """One checkpoint with these sessions, and something in every other table."""
    named = LiveSet()
    counts: dict[int, int] = {}
    for session, _ in rows:
        named.add(session.index)
        counts[session.kind << 3 | session.state] = counts.get(session.kind << 3 | session.state, 0) + 1
    clients = []
    for number in (1, 2):
        client = Client()
        client.mark, client.last_ms = number, 4_000 + number
        client.outcomes = {5: Outcome(0, 17, 3), 6 + number: Outcome(9, 18, 3, STORED)}
        clients.append((bytes([number]) * 16, client))
    with file.transaction():
        file.put_sessions(rows)
        file.put_filter((number, named.bitmap(number)) for number in named.shards())
        file.put_counts(counts)
        file.put_terms([(1, 1), (3, 10)])
        file.put_pauses({2: (0, "operator", "too loud")})
        file.put_clients(clients)
        file.put_traces([(3, 55, 2, 4_500), (3, 56, 4, 4_600)])
        file.put_kinds({1: "user-create", 2: "order"})
        file.put_header(header())
    assert file.settle()


_numbers = itertools.count()


class Memory:
    """A database in memory that outlives the connections to it, for `CheckpointFile.open(…, connect=memory)`."""

    def __init__(self) -> None:
        self._name = f"checkpoint-{next(_numbers)}"
        self._kept = self("", True)

    def __call__(self, path: str, write: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"file:/{self._name}?vfs=memdb", flags=flags)

    def close(self) -> None:
        self._kept.close()


Reads = Callable[[CheckpointFile], Any]

# Every way in which a file is asked, for tests that hold two of them against each other.
READS: dict[str, Reads] = {
    "header": lambda file: file.header(),
    "load": lambda file: slots(file.load(20)),
    "load_many": lambda file: sorted(slots(session)["index"] for session in file.load_many([20, 25, 300_000])),
    "key": lambda file: (file.key(1, "a"), file.key(1, "none")),
    "trace": lambda file: (file.trace(3, 55), file.trace(3, 57)),
    "due": lambda file: [slots(session) for session in file.due(1, NEVER, 1 << 50, 1_000)],
    "next_due": lambda file: (file.next_due(1, NEVER), file.next_due(2, NEVER)),
    "page": lambda file: [slots(session) for session in file.page(0, 1_000)],
    "records": lambda file: dict(file.records(20)),
    "big records": lambda file: dict(file.records(300_000)),
    "held": lambda file: [slots(session) for session in file.held()],
    "filter": lambda file: list(file.filter()),
    "counts": lambda file: file.counts(),
    "terms": lambda file: file.terms(),
    "pauses": lambda file: file.pauses(),
    "clients": lambda file: [(name, c.mark, c.last_ms, c.outcomes) for name, c in file.clients()],
    "traces": lambda file: list(file.traces()),
}


def some_rows() -> list[tuple[Session, list[bytes]]]:
    """What READS asks for: due and not, with a key, open, repeating, parked, with big records, in two shards."""
    rows = [(stored(index, due_ms=1_000 + index % 7), [b"data"]) for index in range(20, 60, 5)]
    rows[1][0].extra = Extra(0, "a", "lane", "v1", b"00-trace")
    opened, repeating, parked = stored(70), stored(75), stored(80)
    opened.state, opened.writer, opened.delivery = OPEN, b"W" * 16, None
    repeating.state, parked.state = REPEATING, PARKED
    for session in (repeating, parked):
        session.delivery = Delivery()
        session.delivery.attempts = (Attempt(2, 1, 2, 1, True, "users", "no answer"),)
    assert repeating.delivery is not None
    repeating.delivery.target, repeating.delivery.sidecar = b"T" * 16, "users"
    big = stored(300_000, kind=2, record=bytes(9_000))
    rows += [(session, [b"data"]) for session in (opened, repeating, parked)]
    return [*rows, (big, [bytes(9_000)])]
