"""What the log's entries do to sessions, written once more from semantics.md: the oracle's own state machine.

No bytes and no clock but the log's. `notes` counts every cell (state, event, verdict) that was met.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from mpy6a.errors import Code

from .facts import KindSeen
from .paces import BAD, OTHER

OPEN: Final = 1
STORED: Final = 2
REPEATING: Final = 3
PARKED: Final = 4
STATES: Final = ("NONE", "OPEN", "STORED", "REPEATING", "PARKED")
VERBS: Final = ("NEW", "APPEND", "REPLACE", "TOUCH", "DELETE", "STORE", "FAIL", "RELEASE", "PARK")
PROPOSALS: Final = ("", "DISPATCH", "EXPIRE", "OWNER_GONE", "RELEASE", "FAIL", "PARK")
ADMIN: Final = ("", "KICK", "DELETE", "PARK", "CANCEL", "PAUSE", "RESUME", "CLOCK_ACCEPT")
DRAIN: Final = 7  # causes of a release that make it due now
SIDECAR_LOST: Final = 4

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
TEN_YEARS_MS: Final = 10 * 365 * DAY_MS
TEN_MINUTES_MS: Final = 600_000
BY_POLICY: Final = 2**64 - 1
UNNAMED: Final = KindSeen((), 1_000, 0, 1_000, 600_000, 300_000, 300_000, 200, 1_000)

Key = tuple[int, int]  # (term, index) of a session's id


class Session:
    """One live session as the log makes it."""

    __slots__ = (
        "barren", "cancel", "change", "charges", "due_ms", "epoch", "fence", "grew", "index", "key", "kind", "last",
        "park_reason", "paused", "records", "releases", "repeats", "seq", "sidecar", "size", "state", "stored_index",
        "target", "term", "writer",
    )  # fmt: skip

    def __init__(self, term: int, index: int, kind: int, writer: bytes, due_ms: int) -> None:
        self.term = term
        self.index = index
        self.kind = kind
        self.state = OPEN
        self.epoch = 1
        self.seq = 0
        self.writer = writer
        self.target = b""
        self.sidecar = ""
        self.fence = term << 32 | 1
        self.due_ms = due_ms
        self.change = index
        self.stored_index = 0
        self.records: list[bytes] = []
        self.size = 0
        self.key = ""
        self.last: tuple[bytes, int, int, list[int]] | None = None  # origin, epoch, first seq, verdicts
        self.cancel = False
        self.paused = False
        self.grew = False
        self.repeats = 0
        self.charges = 0
        self.barren = 0
        self.releases = 0
        self.park_reason = ""

    @property
    def id(self) -> Key:
        return self.term, self.index


class Client:
    """What is known of the News of one incarnation."""

    __slots__ = ("last_ms", "mark", "outcomes")

    def __init__(self) -> None:
        self.mark = 0
        self.last_ms = 0
        self.outcomes: dict[int, tuple[int, int, int, int]] = {}  # request -> code, index, term, state


class Model:
    """Sessions and clients at one log index."""

    def __init__(self) -> None:
        self.log_ms = 0
        self.opened_ms = 0
        self.term = 0
        self.next_index = 1
        self.first_of_term: dict[int, int] = {}
        self.kinds: dict[int, KindSeen] = {}
        self.session_bytes_max = 16 << 20
        self.session_records_max = 4096
        self.sessions: dict[Key, Session] = {}
        self.runs: list[tuple[Session, str, bool]] = []  # runs that ended: how, and whether the session was charged
        self.keys: dict[tuple[int, str], Session] = {}
        self.traces: OrderedDict[Key, tuple[int, int]] = OrderedDict()  # -> epoch, log time
        self.clients: OrderedDict[bytes, Client] = OrderedDict()
        self.paused_kinds: dict[int, int] = {}  # -> log index of the word
        self.stored: list[Session] = []  # every one that came to STORED since `take_stored`
        self.accepted: list[tuple[int, Key, int, bytes, bytes | None]] = []  # verb, session, epoch, origin, record
        self.notes: Counter[tuple[str, str, str]] = Counter()

    # ------------------------------------------------------------------ time and frames

    def advance(self, log_ms: int) -> None:
        """Log time goes on; what is kept for a time only is forgotten."""
        self.log_ms = log_ms
        while self.traces and next(iter(self.traces.values()))[1] + DAY_MS <= log_ms:
            self.traces.popitem(last=False)
        while self.clients and next(iter(self.clients.values())).last_ms + HOUR_MS <= log_ms:
            self.clients.popitem(last=False)

    def kind(self, number: int) -> KindSeen:
        """The policy in force for a kind."""
        return self.kinds.get(number, UNNAMED)

    def heard(self, origin: bytes, mark: int, makes_new: bool) -> Client:
        """A frame of that client: what lies below the highest mark it named is answered, and forgotten."""
        client = self.clients.get(origin)
        if client is None:
            client = Client()
            if not makes_new:
                return client
            self.clients[origin] = client
        self.clients.move_to_end(origin)
        client.last_ms = self.log_ms
        if mark > client.mark:
            client.mark = mark
            client.outcomes = {number: kept for number, kept in client.outcomes.items() if number >= mark}
        return client

    def place(self, key: Key, first_index: int) -> int:
        """Whether this log can have given that id."""
        term, index = key
        if term > self.term:
            return Code.LOG_BEHIND
        first = self.first_of_term.get(term)
        if first is None or index < first:
            return Code.LOST
        if term == self.term:
            return Code.LOG_BEHIND if index >= first_index else Code.OK
        after = min(begin for other, begin in self.first_of_term.items() if other > term)
        return Code.OK if index < after else Code.LOST

    # ------------------------------------------------------------------ what becomes of a session

    def store(self, session: Session, change: int, due_ms: int) -> None:
        """Into STORED: nobody's, one due time, its place in the order."""
        session.state = STORED
        session.writer = session.target = b""
        session.park_reason = ""
        session.due_ms = due_ms
        session.stored_index = session.change = change
        self.stored.append(session)

    def store_after(self, session: Session, change: int, after_ms: int) -> None:
        """Store by its writer, or for one that is gone or idle."""
        kind = self.kind(session.kind)
        wait_ms = kind.delay_ms if after_ms == BY_POLICY else min(after_ms, TEN_YEARS_MS)
        self.store(session, change, self.log_ms + wait_ms + draw(session, kind.jitter_ms))

    def fail(self, session: Session, change: int, charged: bool = True, due_ms: int = BY_POLICY) -> str:
        """A repeat came to nothing; what limit it reached, if one."""
        kind = self.kind(session.kind)
        self.runs.append((session, BAD, charged))
        if charged:
            session.charges += 1
            session.releases = 0
            session.barren = 0 if session.grew else session.barren + 1
            if session.charges >= kind.charge_limit:
                self.park(session, change, "CHARGE_LIMIT")
                return "CHARGE_LIMIT"
            if session.barren >= kind.barren_limit:
                self.park(session, change, "BARREN_LIMIT")
                return "BARREN_LIMIT"
        if due_ms == BY_POLICY:
            due_ms = self.log_ms + self._backoff(session, max(1, session.charges))
        self.store(session, change, due_ms)
        return ""

    def release(self, session: Session, change: int, due_ms: int) -> None:
        """Given back without blame; BY_POLICY: by back-off on how often in a row."""
        self.runs.append((session, OTHER, False))
        session.releases += 1
        if due_ms == BY_POLICY:
            due_ms = self.log_ms + self._backoff(session, session.releases)
        self.store(session, change, min(due_ms, self.log_ms + TEN_MINUTES_MS))

    def park(self, session: Session, change: int, reason: str) -> None:
        """Into PARKED: no due time, a reason."""
        session.state = PARKED
        session.writer = session.target = b""
        session.due_ms = 0
        session.change = change
        session.park_reason = reason

    def finish(self, session: Session, trace_epoch: int) -> None:
        """Gone; a trace of that epoch (0: none)."""
        del self.sessions[session.id]
        if session.key:
            self.keys.pop((session.kind, session.key), None)
        session.state = 0
        if trace_epoch:
            self.traces[session.id] = (trace_epoch, self.log_ms)

    def dispatch(self, session: Session, change: int, target: bytes, sidecar: str) -> None:
        """A new epoch at that sidecar, with a fence above all earlier ones."""
        session.state = REPEATING
        session.epoch += 1
        session.seq = 0
        session.writer = b""
        session.target = target
        session.sidecar = sidecar
        session.fence = self.term << 32 | session.epoch
        session.repeats += 1
        session.grew = False
        session.change = change
        session.due_ms = self.log_ms + self.kind(session.kind).silence_ms

    def touch_limit(self, session: Session) -> None:
        """An accepted operation restarts idle or silence."""
        kind = self.kind(session.kind)
        session.due_ms = self.log_ms + (kind.idle_ms if session.state == OPEN else kind.silence_ms)

    def _backoff(self, session: Session, times: int) -> int:
        kind = self.kind(session.kind)
        return draw(session, min(kind.backoff_cap_ms, kind.backoff_base_ms * 2 ** min(times - 1, 40)))


def draw(session: Session, most: int) -> int:
    """0..most by (id, epoch) only (FORMAT.md, "Draws": the finalizer of splitmix64)."""
    mask = 2**64 - 1
    z = ((session.term * 2**32 + session.epoch) * 0x9E3779B97F4A7C15 + session.index) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) * (most + 1)) >> 64
