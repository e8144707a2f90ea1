"""All live sessions, and the transitions that `mpy6a.state` decides on: the effects of each on everything beside it.

Whoever calls has judged that the transition may happen; this keeps indexes of owners, targets, keys and counts in
step with it, and says what came of it (`Applied`). Source: semantics, "One session".

A session lives in memory or in the checkpoint's file: `filed` names those whose truth is the file's row. Whoever asks
for one of them by its id gets it into memory, and from there on the row counts no more (design, "Checkpoint").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from mpy6a.errors import Code
from mpy6a.filed import Filed
from mpy6a.limits import ATTEMPTS_KEPT, FINISHED_TRACE_MS
from mpy6a.liveset import LiveSet
from mpy6a.model import BY_POLICY, Attempt, AttemptOutcome, Cause, Extra, Proposal, Result, fence
from mpy6a.orders import Order, Orders
from mpy6a.policy import KindPolicy, Policy
from mpy6a.session import GONE, OPEN, PARKED, REPEATING, STORED, TRANSITIONS, Delivery, Event, Session, draw

RELEASE_CAP_MS: Final = 600_000  # Retry-After is honoured up to this (semantics, "release")
STORE_CAP_MS: Final = 315_360_000_000  # ten years: a due time stays far from the edge of its u64
_ORDER_ROWS: Final = 64  # rows of one order looked at together
_NO_INDEX: Final = (1 << 63) - 1  # above every index
_PAGE: Final = 500  # rows of the file read at a time for a list
_LENGTH: Final = (1 << 32) - 1
_DEFAULT_KIND: Final = KindPolicy(0, "", ())


class Applied:
    """What applying one frame came to. `results`: only operations that are not plain OK (and OK of a resent New)."""

    __slots__ = ("dispatched", "ended", "results", "runs", "timers", "void")

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.timers: list[Session] = []  # sessions that wait for a new due time
        self.dispatched: list[Session] = []  # to be pushed to their target
        self.ended: list[tuple[int, int, int, bytes, int]] = []  # term, index, epoch, target, code of an epoch over
        self.void: list[Proposal] = []  # proposals that came too late
        self.runs: list[tuple[int, int, int, str]] = []  # that are over: kind, index, outcome, message


class Sessions:
    """The live sessions of a pipe. Reading is for everybody, the transitions are for `mpy6a.state` alone."""

    def __init__(self) -> None:
        self.term = 0  # of the last opening: dispatches carry it in their fence
        self.policy = Policy()
        self.counts: dict[int, int] = {}  # kind << 3 | state -> live sessions
        self.shards: dict[int, dict[int, Session]] = {}  # by index >> 16: no dict grows big enough to stall; read only
        self._keys: dict[tuple[int, str], int] = {}
        self._owned: dict[bytes, set[int]] = {}  # writer -> OPEN sessions
        self._held: dict[bytes, set[int]] = {}  # target -> REPEATING sessions
        # id -> (epoch, log time, log index) of the end
        self._finished: OrderedDict[tuple[int, int], tuple[int, int, int]] = OrderedDict()
        self.filed = LiveSet()  # sessions whose truth is their row in `source`
        self.source: Filed | None = None
        self.filed_below = 0  # log position of the checkpoint: records below it are read from the file
        self.orders = Orders()
        self.loaded: list[Session] = []  # came into memory since the pipe looked last: they want their timers
        self.rows: LiveSet | None = None  # kept by whoever writes checkpoints: which sessions have a row in the file
        self.gone: list[int] = []  # those of `rows` that finished since

    # ------------------------------------------------------------------ reading

    def find(self, term: int, index: int) -> Session | None:
        """The live session of that id."""
        shard = self.shards.get(index >> 16)
        session = shard.get(index) if shard is not None else None
        if session is None and index in self.filed:
            session = self._load(index)
        return session if session is not None and session.term == term else None

    def at(self, index: int) -> Session | None:
        """The session in memory whose New has that log index."""
        shard = self.shards.get(index >> 16)
        return shard.get(index) if shard is not None else None

    def all(self) -> list[Session]:
        """All live sessions, by index: those in memory by reference, the others as images of their rows."""
        return list(self.after(0))

    def in_memory(self) -> list[Session]:
        """The sessions in memory, by index: a copy of references."""
        return [self.shards[key][index] for key in sorted(self.shards) for index in sorted(self.shards[key])]

    def after(self, index: int) -> Iterator[Session]:
        """Live sessions above an index, in order; sorts one shard at a time. Not to be kept over an `apply`."""
        filed = self._filed_after(index)
        row = next(filed, None)
        for key in sorted(key for key in self.shards if key >= index >> 16):
            shard = self.shards[key]
            for one in sorted(shard):
                while row is not None and row.index < one:
                    yield row
                    row = next(filed, None)
                if one > index:
                    yield shard[one]
        while row is not None:
            yield row
            row = next(filed, None)

    def _filed_after(self, index: int) -> Iterator[Session]:
        """Images of the rows that count, in order. They stay where they are."""
        while self.source is not None and self.filed.count:
            page = self.source.page(index, _PAGE)
            yield from (session for session in page if session.index in self.filed)
            if len(page) < _PAGE:
                return
            index = page[-1].index

    def live(self) -> int:
        """How many sessions are live."""
        return sum(map(len, self.shards.values())) + self.filed.count

    def owned(self, writer: bytes) -> list[int]:
        """Indexes of the OPEN sessions that this incarnation writes."""
        return list(self._owned.get(writer, ()))

    def held(self, target: bytes) -> list[int]:
        """Indexes of the REPEATING sessions that were pushed to this sidecar incarnation."""
        return list(self._held.get(target, ()))

    def owns(self, writer: bytes) -> bool:
        """Whether this incarnation writes an OPEN session."""
        return writer in self._owned

    def writers(self) -> list[bytes]:
        """Incarnations that write an OPEN session."""
        return list(self._owned)

    def targets(self) -> list[bytes]:
        """Sidecar incarnations that hold a REPEATING session."""
        return list(self._held)

    def with_key(self, kind: int, key: str) -> Session | None:
        """The live session of that kind and key."""
        index = self._keys.get((kind, key), 0)
        if not index and self.source is not None:
            index = self.source.key(kind, key)
            return self._load(index) if index in self.filed else None
        return self.at(index)

    def ahead(self, session: Session) -> int:
        """Index of the session that this one waits for: the first live one of its order before it; 0 for none."""
        order = _order(session)
        return 0 if order is None else self._first(order, session.index)

    def first_of(self, order: Order) -> Session | None:
        """The session of that order which nobody stands before; into memory if it is filed."""
        index = self._first(order, _NO_INDEX)
        return self._load(index) if index in self.filed else self.at(index)

    def _first(self, order: Order, before: int) -> int:
        """The lowest index below `before` in an order, PARKED ones left out where the kind says so; 0 for none."""
        skips, first = self.kind(order[0]).order_skips_parked, 0
        for index in self.orders.live(order):
            if index >= before:
                break
            session = self.at(index)
            if session is not None and not (skips and session.state == PARKED):
                first = before = index
                break
        if self.source is None or not self.filed.count:
            return first
        after, counts = self.orders.floor(order), True
        while True:
            rows = self.source.ordered(order[0], order[1], after, before, _ORDER_ROWS)
            for index, state in rows:
                if index in self.filed:
                    if not (skips and state == PARKED):
                        return index
                    counts = False  # it counts again when the kind no longer skips it
            if len(rows) < _ORDER_ROWS:
                return first
            after = rows[-1][0]
            if counts:
                self.orders.raise_floor(order, after)

    def finished_epoch(self, term: int, index: int, log_ms: int) -> int | None:
        """The epoch that finished a session, while its trace is kept: 24 h of log time."""
        trace: tuple[int, ...] | None = self._finished.get((term, index))
        if trace is None and self.source is not None:
            trace = self.source.trace(term, index)
        return None if trace is None or trace[1] + FINISHED_TRACE_MS <= log_ms else trace[0]

    def records(self, session: Session, read: Callable[[int, int], bytes]) -> list[bytes]:
        """The bytes of a session's records: from its row what is older than the checkpoint, by `read` the rest."""
        below, source, references = self.filed_below << 32, self.source, session.records
        if source is None or not references or references[0] >= below:  # they stand in the order of the log
            return [read(reference >> 32, reference & _LENGTH) for reference in references]
        old = source.records(session.index)
        return [
            old[reference] if reference < below else read(reference >> 32, reference & _LENGTH)
            for reference in references
        ]

    def kind(self, number: int) -> KindPolicy:
        """The kind's policy, or the defaults for one that the routes no longer name."""
        return self.policy.kinds.get(number, _DEFAULT_KIND)

    # ------------------------------------------------------------------ memory and file

    def prefetch(self, indexes: Iterable[int]) -> None:
        """Bring those of the sessions that are filed into memory with one look at the file: 16 us each at 128, not 21
        as one by one. A single one comes faster by itself: 37 us, not 49."""
        wanted = [index for index in indexes if index in self.filed]
        if len(wanted) > 1:
            assert self.source is not None, "filed sessions have a file"
            for session in self.source.load_many(wanted):
                self.take_in(session)
                self.loaded.append(session)

    def _load(self, index: int) -> Session:
        assert self.source is not None, "filed sessions have a file"
        session = self.source.load(index)
        self.take_in(session)
        self.loaded.append(session)
        return session

    def take_in(self, session: Session) -> None:
        """Put an image from the file into memory: from here on its row does not count."""
        index = session.index
        self.shards.setdefault(index >> 16, {})[index] = session
        self.filed.discard(index)
        extra = session.extra
        if extra is not None:
            if extra.key:
                self._keys[(session.kind, extra.key)] = index
            if extra.order_key:
                self.orders.add((session.kind, extra.order_key), index)
        if session.state == OPEN:
            self._owned.setdefault(session.writer, set()).add(index)
        elif session.state == REPEATING:
            assert session.delivery is not None
            self._held.setdefault(session.delivery.target, set()).add(index)

    def drop(self, session: Session) -> None:
        """Let a waiting session go from memory: the checkpoint has its image, which counts from here on."""
        assert session.state in (STORED, PARKED), "who has a writer or a target stays in memory"
        shard = self.shards[session.index >> 16]
        del shard[session.index]
        if not shard:
            del self.shards[session.index >> 16]
        extra = session.extra
        if extra is not None:
            if extra.key:
                self._keys.pop((session.kind, extra.key), None)
            if extra.order_key:
                self.orders.drop((session.kind, extra.order_key), session.index)
        self.filed.add(session.index)

    def traces(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(term, index, epoch, log time, log index of the end) of the traces in memory, oldest first."""
        for (term, index), (epoch, log_ms, change) in self._finished.items():
            yield term, index, epoch, log_ms, change

    def drop_traces(self, before: int, most: int = 1 << 62) -> bool:
        """Let go of up to so many of the traces that a checkpoint at log index `before` holds; whether none is left."""
        finished = self._finished
        while finished and most > 0 and next(iter(finished.values()))[2] < before:
            finished.popitem(last=False)
            most -= 1
        return most > 0

    # ------------------------------------------------------------------ a session's beginning and end

    def open(self, session: Session) -> None:
        """Take in what a New made."""
        index, writer = session.index, session.writer
        shard = self.shards.get(index >> 16)
        if shard is None:
            shard = self.shards[index >> 16] = {}
        shard[index] = session
        owned = self._owned.get(writer)
        if owned is None:
            owned = self._owned[writer] = set()
        owned.add(index)
        extra = session.extra
        if extra is not None:
            if extra.key:
                self._keys[(session.kind, extra.key)] = index
            if extra.order_key:
                self.orders.add((session.kind, extra.order_key), index)
        count = session.kind << 3 | OPEN
        self.counts[count] = self.counts.get(count, 0) + 1

    def delete(self, session: Session, log_ms: int, applied: Applied) -> None:
        """Delete by the writer. An epoch > 1 leaves a trace, so that a late copy gets the verdict it had."""
        assert TRANSITIONS[Event.DELETE][session.state] == GONE
        if session.epoch > 1:
            self._finished[(session.term, session.index)] = (session.epoch, log_ms, session.change)
        if session.state == REPEATING:
            # Nobody will read of this attempt.
            self._let_go(session, AttemptOutcome.DECIDED, "", Code.ENDED, applied)
        self._forget(session)

    def delete_by_operator(self, session: Session, change: int, log_ms: int) -> None:
        """The trace names the next epoch: whoever wrote in this one is told FENCED, not OK."""
        assert TRANSITIONS[Event.ADMIN_DELETE][session.state] == GONE
        self._finished[(session.term, session.index)] = (session.epoch + 1, log_ms, change)
        self._forget(session)

    def forget_traces(self, log_ms: int) -> None:
        """Drop the traces that are 24 h of log time old."""
        while self._finished and next(iter(self._finished.values()))[1] + FINISHED_TRACE_MS <= log_ms:
            self._finished.popitem(last=False)

    def _forget(self, session: Session) -> None:
        self.counts[session.kind << 3 | session.state] -= 1
        if session.state == OPEN:
            self._disown(session)
        extra = session.extra
        if extra is not None:
            if extra.key:
                self._keys.pop((session.kind, extra.key), None)
            if extra.order_key:
                self.orders.remove((session.kind, extra.order_key), session.index)
        shard = self.shards[session.index >> 16]
        del shard[session.index]
        if not shard:
            del self.shards[session.index >> 16]
        if self.rows is not None and self.rows.discard(session.index):
            self.gone.append(session.index)
        session.state = GONE

    # ------------------------------------------------------------------ transitions

    def store_by_writer(self, session: Session, after_ms: int, change: int, log_ms: int, applied: Applied) -> None:
        """Store(timeout): due after it and the kind's jitter; BY_POLICY takes the kind's delay. Not charged."""
        kind = self.kind(session.kind)
        after = kind.delay_ms if after_ms == BY_POLICY else min(after_ms, STORE_CAP_MS)
        due = log_ms + after + draw(session.term, session.epoch, session.index, kind.jitter_ms)
        if session.state == REPEATING:
            self.end_epoch(session, AttemptOutcome.DECIDED, False, "", log_ms, Code.ENDED, applied)
        self.store(session, Event.STORE, change, due, applied)

    def idle(self, session: Session, change: int, log_ms: int, applied: Applied) -> None:
        """The writer of an OPEN session is gone or silent: due by the kind's delay and jitter. Not charged."""
        self.store_by_writer(session, BY_POLICY, change, log_ms, applied)

    def dispatch(self, session: Session, change: int, proposal: Proposal, log_ms: int, applied: Applied) -> None:
        """A new epoch for the proposal's target. Durable before the push, in every sync mode."""
        delivery = session.delivery
        if delivery is None:
            delivery = session.delivery = Delivery()
        self._move(session, TRANSITIONS[Event.DISPATCH][session.state])
        session.epoch += 1
        session.seq = 0
        session.change = change
        session.due_ms = log_ms + self.kind(session.kind).silence_ms
        delivery.repeats += 1
        delivery.target = proposal.target
        delivery.sidecar = proposal.sidecar
        delivery.fence = fence(self.term, session.epoch)
        delivery.started_ms = log_ms
        delivery.grew = False
        self._held.setdefault(proposal.target, set()).add(session.index)
        applied.timers.append(session)
        applied.dispatched.append(session)

    def fail(
        self,
        session: Session,
        change: int,
        log_ms: int,
        message: str,
        applied: Applied,
        *,
        code: int,
        charged: bool = True,
        due_ms: int = BY_POLICY,
    ) -> None:
        """The epoch failed: due by back-off with full jitter, or PARKED once a limit is reached."""
        delivery = session.delivery
        assert delivery is not None
        kind = self.kind(session.kind)
        self.end_epoch(session, AttemptOutcome.FAIL, charged, message, log_ms, code, applied)
        if charged:
            delivery.charges += 1
            delivery.releases = 0
            delivery.barren = 0 if delivery.grew else delivery.barren + 1
            for name, reached, limit in (
                (Cause.CHARGE_LIMIT, delivery.charges, kind.charge_limit),
                (Cause.BARREN_LIMIT, delivery.barren, kind.barren_limit),
            ):
                if reached >= limit:
                    self.park(session, Event.LIMIT, change, f"{name.name}: {reached} reached; last: {message}")
                    return
        if due_ms == BY_POLICY:
            due_ms = log_ms + self._backoff(session, max(delivery.charges, 1))
        self.store(session, Event.FAIL, change, due_ms, applied)

    def release(
        self, session: Session, change: int, log_ms: int, due_ms: int, message: str, applied: Applied, *, code: int
    ) -> None:
        """The epoch was given back without blame: due at `due_ms` (log time, capped), BY_POLICY by back-off."""
        delivery = session.delivery
        assert delivery is not None
        self.end_epoch(session, AttemptOutcome.RELEASE, False, message, log_ms, code, applied)
        delivery.releases += 1
        if due_ms == BY_POLICY:
            due_ms = log_ms + self._backoff(session, delivery.releases)
        else:
            due_ms = min(due_ms, log_ms + RELEASE_CAP_MS)
        self.store(session, Event.RELEASE, change, due_ms, applied)

    def store(self, session: Session, event: Event, change: int, due_ms: int, applied: Applied) -> None:
        """Any way into STORED: no writer, one due time, its place in the order of dispatch."""
        self._move(session, TRANSITIONS[event][session.state])
        session.writer = b""
        session.change = change
        session.due_ms = due_ms
        session.stored_index = change
        applied.timers.append(session)

    def park(self, session: Session, event: Event, change: int, reason: str) -> None:
        """Any way into PARKED: no writer, no due time, a reason."""
        self._move(session, TRANSITIONS[event][session.state])
        session.writer = b""
        session.change = change
        session.due_ms = 0
        delivery = session.delivery
        if delivery is None:
            delivery = session.delivery = Delivery()
        delivery.park_reason = reason
        order = _order(session)
        if order is not None:
            self.orders.moved[order] = None  # the kind may skip what is parked

    def end_epoch(
        self,
        session: Session,
        outcome: AttemptOutcome,
        charged: bool,
        message: str,
        log_ms: int,
        code: int,
        applied: Applied,
    ) -> None:
        """A REPEATING epoch is over: note the attempt, let go of the target; FENCED if that one must be told."""
        delivery = session.delivery
        assert delivery is not None
        took = max(0, log_ms - delivery.started_ms)
        attempt = Attempt(session.epoch, delivery.started_ms, took, outcome, charged, delivery.sidecar, message)
        delivery.attempts = (*delivery.attempts[-(ATTEMPTS_KEPT - 1) :], attempt)
        self._let_go(session, outcome, message, code, applied)

    def _let_go(self, session: Session, outcome: int, message: str, code: int, applied: Applied) -> None:
        """The target holds the session no longer."""
        delivery = session.delivery
        assert delivery is not None
        applied.runs.append((session.kind, session.index, outcome, message))
        applied.ended.append((session.term, session.index, session.epoch, delivery.target, code))
        held = self._held[delivery.target]
        held.discard(session.index)
        if not held:
            del self._held[delivery.target]
        delivery.target = b""

    def _backoff(self, session: Session, times: int) -> int:
        kind = self.kind(session.kind)
        most = min(kind.backoff_cap_ms, kind.backoff_base_ms << min(times - 1, 40))
        return draw(session.term, session.epoch, session.index, most)

    def _move(self, session: Session, state: int) -> None:
        counts = self.counts
        counts[session.kind << 3 | session.state] -= 1
        after = session.kind << 3 | state
        counts[after] = counts.get(after, 0) + 1
        if session.state == OPEN:
            self._disown(session)
        session.state = state

    def _disown(self, session: Session) -> None:
        owned = self._owned[session.writer]
        owned.discard(session.index)
        if not owned:
            del self._owned[session.writer]

    # ------------------------------------------------------------------ comparing

    def dump(self, log_ms: int = 0) -> dict[str, Any]:
        """Plain data of all that is kept here, in memory or in the file; traces as they count at a log time."""
        finished = {(term, index): epoch for term, index, epoch, _, _ in self.traces()}
        for term, index, epoch, ended_ms in self.source.traces() if self.source is not None else ():
            if ended_ms + FINISHED_TRACE_MS > log_ms:
                finished.setdefault((term, index), epoch)
        filed = ((s.kind, s.extra.key, s.index) for s in self._filed_after(0) if s.extra is not None and s.extra.key)
        keys = self._keys | {(kind, key): index for kind, key, index in filed}
        return {
            "sessions": {f"{s.term}.{s.index}": _plain(s) for s in self.all()},
            "keys": dict(sorted(keys.items())),
            "finished": {f"{term}.{index}": epoch for (term, index), epoch in sorted(finished.items())},
        }


def _order(session: Session) -> Order | None:
    extra = session.extra
    return (session.kind, extra.order_key) if extra is not None and extra.order_key else None


_NO_EXTRA: Final = Extra(0)
_NO_DELIVERY: Final = Delivery()


def _plain(session: Session) -> dict[str, Any]:
    delivery = session.delivery or _NO_DELIVERY
    extra = session.extra or _NO_EXTRA
    return {
        "kind": session.kind,
        "state": session.state,
        "epoch": session.epoch,
        "seq": session.seq,
        "writer": session.writer.hex(),
        "target": delivery.target.hex(),
        "fence": session.fence,
        "last": session.last,
        "records": [reference & 0xFFFFFFFF for reference in session.records],
        "created_ms": session.created_ms,
        "due_ms": session.due_ms,
        "change": session.change,
        "cancel": delivery.cancel,
        "paused": delivery.paused,
        "repeats": delivery.repeats,
        "charges": delivery.charges,
        "barren": delivery.barren,
        "releases": delivery.releases,
        "stored_index": session.stored_index,
        "park_reason": delivery.park_reason,
        "attempts": [(a.epoch, a.outcome, a.charged) for a in delivery.attempts],
        "key": extra.key,
        "order_key": extra.order_key,
        "schema": extra.schema,
        "trace": extra.trace.hex(),
    }
