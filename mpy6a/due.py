"""What is due: one sweep over the one due time of every live session, and the order of dispatch.

OPEN and REPEATING sessions that ran into their limit become proposals; STORED ones become ready, by kind, in the
order (due_ms, stored_index). Computed from the state, never logged. Source: semantics, "One session", "Two clocks".

What waits in the checkpoint's file has no timer: a window a kind goes over its due index, and brings sessions into
memory when they are next. After a checkpoint `settle_memory` lets the waiting ones go again, slice by slice.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from mpy6a import limits
from mpy6a.entries import decode_proposals
from mpy6a.framing import Frame
from mpy6a.limits import TICK_MS
from mpy6a.model import Cause, Proposal, ProposalVerb
from mpy6a.session import OPEN, PARKED, REPEATING, STORED, Session
from mpy6a.sessions import Applied
from mpy6a.state import State
from mpy6a.timers import Wheel

WINDOW: Final = 128  # sessions of a kind brought in from the file at a time: 2 to 3 ms
PAGES: Final = 4  # windows looked at in one turn, if all that is in them waits for others of its order
_START: Final = (-1, -1)


@dataclass(slots=True)
class _Window:
    """How far the sweep of one kind went over the file's due index."""

    after: tuple[int, int]  # (due_ms, stored_index) of the last row looked at
    next_ms: int | None  # due time of the row behind it


@dataclass(slots=True)
class _Settling:
    """A pass over the sessions in memory after a checkpoint at log index `before`."""

    before: int
    shards: deque[int]
    wheel: Wheel = field(default_factory=Wheel)  # what stays: takes the place of the sweep's at the end
    ready: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    # Of the shard begun, as plain numbers: a new list of so many objects is walked through by Python's collector.
    at_hand: array[int] = field(default_factory=lambda: array("Q"))


class Due:
    """The wheel of a pipe and its ready sessions. Log time throughout."""

    def __init__(self, state: State) -> None:
        self.proposed: set[int] = set()  # sessions with a proposal in flight
        self.clock_held = False  # the wall clock leapt: nothing is dispatched until an operator says so
        self.opened_ms = 0
        self._state = state
        self._wheel = Wheel()
        self._ready: dict[int, list[tuple[int, int, int]]] = {}  # kind -> heap of (due_ms, stored_index, index)
        self._windows: dict[int, _Window] = {}  # kind -> of the file; none without rows of it
        self._settling: _Settling | None = None
        self._worn: list[list[tuple[int, int, int]]] = []  # heaps that nobody needs
        self._worn_wheels: list[Wheel] = []
        self._log_ms = 0  # the last sweep reached so far
        self.woken = False  # something is ready, or has room, since the last dispatch: no timer will say so
        self.is_sweeping = False  # the last look at the file was not at its end: what it passed over waits in an order

    def open(self, log_ms: int) -> None:
        """Arm every live session after a replay. Limits that ran out meanwhile get half of their length from here."""
        self.opened_ms = self._log_ms = log_ms
        self._state.sessions.loaded.clear()
        self._state.sessions.orders.moved.clear()
        for session in self._state.sessions.in_memory():
            session.timer_ms = 0
            self.arm(session)
        self._open_windows()

    def arm(self, session: Session) -> None:
        """Have the sweep look at the session when it is due (an entry that comes earlier will do)."""
        due_ms = session.due_ms
        if session.state == PARKED or (0 < session.timer_ms <= due_ms):
            return
        self._add(due_ms, session)

    def arm_loaded(self) -> None:
        """Arm what came from the file into memory since the last call."""
        loaded = self._state.sessions.loaded
        for session in loaded:
            self.arm(session)
        loaded.clear()

    def reorder(self) -> None:
        """Whoever is first now in an order that moved may be next: make it ready, if it is due."""
        sessions = self._state.sessions
        moved = sessions.orders.moved
        while moved:
            session = sessions.first_of(moved.popitem()[0])
            if session is None or session.state != STORED or session.index in self.proposed:
                continue
            if session.timer_ms == 0:  # it was due, and left out as one that waits for others of its order
                self._make_ready(session)
                self.woken = True

    def judge_anew(self, kinds: Collection[int]) -> None:
        """Other sessions of these kinds may stand first in their orders: look at all, in memory and in the file."""
        for session in self._state.sessions.in_memory():
            ordered = session.extra is not None and session.extra.order_key
            if ordered and session.kind in kinds and session.state == STORED and session.timer_ms == 0:
                self._make_ready(session)
        self._open_windows()

    def _add(self, time_ms: int, session: Session) -> None:
        self._wheel.add(time_ms, session.index)
        session.timer_ms = time_ms
        if self._settling is not None:
            self._settling.wheel.add(time_ms, session.index)

    def settle(self, frame: Frame, applied: Applied) -> None:
        """A frame of proposals was applied: sessions whose proposal was void are judged anew at once."""
        decoded = frame.decoded  # as `apply` left it
        for proposal in decoded if isinstance(decoded, tuple) else decode_proposals(frame.batch):
            self.proposed.discard(proposal.index)
        for proposal in applied.void:
            session = self._state.session(proposal.term, proposal.index)
            if session is not None:
                self._add(session.due_ms, session)

    def expired(self, log_ms: int, most: int) -> list[Proposal]:
        """Take out what is due now, up to `most`: limits as proposals, STORED sessions into `ready`."""
        proposals: list[Proposal] = []
        if self._settling is not None:
            most = min(most, limits.SETTLE_DUE)  # each may have to come back from the file, at 40 us
        indexes = self._wheel.due(log_ms, most)
        # Rows of the file are due as far as the wheel was emptied, so that none overtakes what is still on it.
        self._log_ms = min(log_ms // TICK_MS * TICK_MS, (self._wheel.next_ms() or log_ms + TICK_MS) - TICK_MS)
        for index in indexes:
            session = self._at(index)
            if session is None or session.timer_ms == 0 or session.timer_ms > log_ms:
                continue  # finished, or an entry that an earlier one superseded
            session.timer_ms = 0
            if session.state == STORED and session.due_ms <= log_ms:
                self._make_ready(session)
                continue
            limit_ms = self._limit_ms(session)
            if limit_ms > log_ms:
                self._add(limit_ms, session)
            elif session.state in (OPEN, REPEATING) and index not in self.proposed:
                cause = Cause.IDLE if session.state == OPEN else Cause.SILENCE
                proposals.append(
                    Proposal(ProposalVerb.EXPIRE, session.term, index, session.epoch, session.change, cause)
                )
        return proposals

    def _at(self, index: int) -> Session | None:
        """The session of an entry. One that was let go in a pass that is not at its end comes back for its turn: no
        window shows it yet, and others would overtake it."""
        sessions = self._state.sessions
        session = sessions.at(index)
        if session is None and self._settling is not None and index in sessions.filed:
            assert sessions.source is not None, "filed sessions have a file"
            session = sessions.source.load(index)
            sessions.take_in(session)
            self.arm(session)
        return session

    def _limit_ms(self, session: Session) -> int:
        """When the session is due in truth: no idle or silence limit ends before half of its length after opening."""
        if session.state == STORED:
            return session.due_ms
        kind = self._state.sessions.kind(session.kind)
        length_ms = kind.idle_ms if session.state == OPEN else kind.silence_ms
        return max(session.due_ms, self.opened_ms + length_ms // 2)

    def _make_ready(self, session: Session) -> None:
        entry = (session.due_ms, session.stored_index, session.index)
        heappush(self._ready.setdefault(session.kind, []), entry)
        if self._settling is not None:
            heappush(self._settling.ready.setdefault(session.kind, []), entry)

    def ready_kinds(self) -> list[int]:
        """Kinds with sessions that may be ready."""
        if self.clock_held:
            return []
        kinds = [kind for kind, heap in self._ready.items() if heap and heap[0][0] <= self._log_ms]
        if self._windows:
            kinds += [kind for kind in self._windows if kind not in kinds and self._is_due(kind)]
        return kinds

    def take(self, kind: int, most: int) -> list[Session]:
        """Take up to `most` ready sessions of a kind, in the order of dispatch. Propose them, or give them back."""
        heap, ahead = self._ready.setdefault(kind, []), self._state.sessions.ahead
        taken: dict[int, Session] = {}  # a heap may name a session twice
        self.is_sweeping = False
        while len(taken) < most:
            if kind in self._windows:
                self._bring_in(kind, heap)
            if self.is_sweeping:  # rows that nobody has looked at may come before what is ready
                break
            if not heap or heap[0][0] > self._log_ms:  # the sweep took out some of a tick, and one before it is left
                break
            due_ms, stored_index, index = heappop(heap)
            session = self._at(index)
            if session is None or session.state != STORED or index in self.proposed:
                continue
            delivery = session.delivery
            if session.due_ms != due_ms:
                continue  # an operator put it off: its timer brings it back
            if session.extra is not None and session.extra.order_key and ahead(session):
                continue  # `reorder` brings it back
            if session.stored_index == stored_index and not (delivery is not None and delivery.paused):
                taken[index] = session
        return list(taken.values())

    def give_back(self, session: Session) -> None:
        """A session that was taken and could not be proposed."""
        self._make_ready(session)

    def ready(self, kind: int) -> int:
        """How many entries wait for dispatch in a kind: some may have become stale, of those in the file one counts."""
        return len(self._ready.get(kind, ())) + (kind in self._windows and self._is_due(kind))

    def oldest_ms(self) -> int | None:
        """Due time of the session that waits longest, over all kinds."""
        heads = [self.oldest_of(kind) for kind in {*self._ready, *self._windows}]
        return min((head for head in heads if head is not None), default=None)

    def oldest_of(self, kind: int) -> int | None:
        """Due time of the session of a kind that waits longest; None if none is due."""
        heap, window = self._ready.get(kind), self._windows.get(kind)
        heads = [heap[0][0]] if heap else []
        if window is not None and window.next_ms is not None and self._is_due(kind):
            heads.append(window.next_ms)
        return min(heads, default=None)

    def next_ms(self) -> int | None:
        """Log time at which something is due next."""
        next_ms = self._wheel.next_ms()
        for window in self._windows.values():
            head = window.next_ms
            if head is not None and head > self._log_ms:
                head = -(-head // TICK_MS) * TICK_MS
                next_ms = head if next_ms is None else min(next_ms, head)
        return next_ms

    # ------------------------------------------------------------------ the checkpoint's file

    def _open_windows(self) -> None:
        """Begin the sweep of the file anew: its rows, or which of them count, have changed."""
        sessions = self._state.sessions
        self._windows.clear()
        if sessions.source is None or not sessions.filed.count:
            return
        for kind in {count >> 3 for count, live in sessions.counts.items() if live and count & 7 == STORED}:
            next_ms = sessions.source.next_due(kind, _START)
            if next_ms is not None:
                self._windows[kind] = _Window(_START, next_ms)

    def _is_due(self, kind: int) -> bool:
        head = self._windows[kind].next_ms
        return head is not None and head <= self._log_ms

    def _bring_in(self, kind: int, heap: list[tuple[int, int, int]]) -> None:
        """Have the heap begin with what is due first, wherever it was: rows of the file come in, window by window."""
        window, sessions = self._windows[kind], self._state.sessions
        source = sessions.source
        assert source is not None, "a window is over a file"
        pages = 0
        while window.next_ms is not None and window.next_ms <= self._log_ms:
            if heap and (heap[0][0] < window.next_ms or heap[0][:2] <= window.after):
                return
            if pages == PAGES:
                self.is_sweeping = True
                return
            pages += 1
            rows = source.due(kind, window.after, self._log_ms, WINDOW)
            for session in rows:
                if session.index in sessions.filed and not sessions.ahead(session):
                    sessions.take_in(session)
                    self._make_ready(session)
            if rows:
                window.after = (rows[-1].due_ms, rows[-1].stored_index)
            window.next_ms = source.next_due(kind, window.after)
        if window.next_ms is None:
            del self._windows[kind]

    def settle_memory(self, before: int) -> None:
        """The checkpoint holds all that was changed below this log index: begin to let it go from memory."""
        if self._settling is not None:  # it was not at its end: what it made so far is not needed
            self._wear(self._settling.wheel, self._settling.ready)
        self._settling = _Settling(before, deque(sorted(self._state.sessions.shards)))

    @property
    def is_settling(self) -> bool:
        """Whether `settle_some` has more to do."""
        return self._settling is not None or bool(self._worn or self._worn_wheels)

    def settle_some(self, most: int) -> None:
        """Look at up to so many traces and sessions: STORED and PARKED ones that have not changed since leave memory,
        at about 1.5 us each. At the end the sweep goes over the file anew."""
        settling, sessions = self._settling, self._state.sessions
        if self._worn or self._worn_wheels:
            self._wear_down(most)
            return
        if settling is None or not sessions.drop_traces(settling.before, most):
            return
        for _ in range(most):
            while not settling.at_hand and settling.shards:
                settling.at_hand = array("Q", sessions.shards.get(settling.shards.popleft(), ()))
                settling.at_hand.reverse()  # the oldest first: they come in the heap's order, more or less
            if not settling.at_hand:
                break
            session = sessions.at(settling.at_hand.pop())
            if session is None:
                continue  # finished meanwhile
            waits = session.state in (STORED, PARKED) and session.index not in self.proposed
            if waits and session.change < settling.before:
                sessions.drop(session)
            elif session.timer_ms:
                settling.wheel.add(session.timer_ms, session.index)
            elif session.state == STORED:
                entry = (session.due_ms, session.stored_index, session.index)
                heappush(settling.ready.setdefault(session.kind, []), entry)
        if settling.at_hand or settling.shards:
            return
        self._wear(self._wheel, self._ready)
        self._settling, self._wheel, self._ready = None, settling.wheel, settling.ready
        self._open_windows()

    def _wear(self, wheel: Wheel, ready: dict[int, list[tuple[int, int, int]]]) -> None:
        self._worn += ready.values()
        self._worn_wheels.append(wheel)

    def _wear_down(self, most: int) -> None:
        """Give back so many entries of heaps that nobody needs, then ticks of wheels: all at once would take 10 ms at
        100,000."""
        if self._worn:
            del self._worn[-1][-most:]
            if not self._worn[-1]:
                self._worn.pop()
        elif not self._worn_wheels[-1].wear_down(most):
            self._worn_wheels.pop()
