"""What is due: one sweep over the one due time of every live session, and the order of dispatch.

OPEN and REPEATING sessions that ran into their limit become proposals; STORED ones become ready, by kind, in the
order (due_ms, stored_index). Computed from the state, never logged. Source: semantics, "One session", "Two clocks".
"""

from __future__ import annotations

from heapq import heappop, heappush

from mpy6a.entries import decode_proposals
from mpy6a.framing import Frame
from mpy6a.model import Cause, Proposal, ProposalVerb
from mpy6a.session import OPEN, PARKED, REPEATING, STORED, Session
from mpy6a.sessions import Applied
from mpy6a.state import State
from mpy6a.timers import Wheel


class Due:
    """The wheel of a pipe and its ready sessions. Log time throughout."""

    def __init__(self, state: State) -> None:
        self.proposed: set[int] = set()  # sessions with a proposal in flight
        self.clock_held = False  # the wall clock leapt: nothing is dispatched until an operator says so
        self.opened_ms = 0
        self._state = state
        self._wheel = Wheel()
        self._ready: dict[int, list[tuple[int, int, int]]] = {}  # kind -> heap of (due_ms, stored_index, index)

    def open(self, log_ms: int) -> None:
        """Arm every live session after a replay. Limits that ran out meanwhile get half of their length from here."""
        self.opened_ms = log_ms
        for session in self._state.sessions.all():
            session.timer_ms = 0
            self.arm(session)

    def arm(self, session: Session) -> None:
        """Have the sweep look at the session when it is due (an entry that comes earlier will do)."""
        due_ms = session.due_ms
        if session.state == PARKED or (0 < session.timer_ms <= due_ms):
            return
        self._wheel.add(due_ms, session.index)
        session.timer_ms = due_ms

    def settle(self, frame: Frame, applied: Applied) -> None:
        """A frame of proposals was applied: sessions whose proposal was void are judged anew at once."""
        for proposal in decode_proposals(frame.batch):
            self.proposed.discard(proposal.index)
        for proposal in applied.void:
            session = self._state.session(proposal.term, proposal.index)
            if session is not None:
                self._wheel.add(session.due_ms, session.index)
                session.timer_ms = session.due_ms

    def expired(self, log_ms: int, most: int) -> list[Proposal]:
        """Take out what is due now, up to `most`: limits as proposals, STORED sessions into `ready`."""
        proposals: list[Proposal] = []
        for index in self._wheel.due(log_ms, most):
            session = self._state.sessions.at(index)
            if session is None or session.timer_ms == 0 or session.timer_ms > log_ms:
                continue  # finished, or an entry that an earlier one superseded
            session.timer_ms = 0
            if session.state == STORED and session.due_ms <= log_ms:
                self._make_ready(session)
                continue
            limit_ms = self._limit_ms(session)
            if limit_ms > log_ms:
                self._wheel.add(limit_ms, index)
                session.timer_ms = limit_ms
            elif session.state in (OPEN, REPEATING) and index not in self.proposed:
                cause = Cause.IDLE if session.state == OPEN else Cause.SILENCE
                proposals.append(
                    Proposal(ProposalVerb.EXPIRE, session.term, index, session.epoch, session.change, cause)
                )
        return proposals

    def _limit_ms(self, session: Session) -> int:
        """When the session is due in truth: no idle or silence limit ends before half of its length after opening."""
        if session.state == STORED:
            return session.due_ms
        kind = self._state.sessions.kind(session.kind)
        length_ms = kind.idle_ms if session.state == OPEN else kind.silence_ms
        return max(session.due_ms, self.opened_ms + length_ms // 2)

    def _make_ready(self, session: Session) -> None:
        delivery = session.delivery
        assert delivery is not None
        heap = self._ready.setdefault(session.kind, [])
        heappush(heap, (session.due_ms, delivery.stored_index, session.index))

    def ready_kinds(self) -> list[int]:
        """Kinds with sessions that may be ready."""
        return [] if self.clock_held else [kind for kind, heap in self._ready.items() if heap]

    def take(self, kind: int, most: int) -> list[Session]:
        """Take up to `most` ready sessions of a kind, in the order of dispatch. Propose them, or give them back."""
        heap = self._ready.get(kind, [])
        taken: list[Session] = []
        while heap and len(taken) < most:
            _, stored_index, index = heappop(heap)
            session = self._state.sessions.at(index)
            if session is None or session.state != STORED or index in self.proposed:
                continue
            delivery = session.delivery
            assert delivery is not None
            if delivery.stored_index == stored_index and not delivery.paused:
                taken.append(session)
        return taken

    def give_back(self, session: Session) -> None:
        """A session that was taken and could not be proposed."""
        self._make_ready(session)

    def ready(self, kind: int) -> int:
        """How many entries wait for dispatch in a kind (some may have become stale)."""
        return len(self._ready.get(kind, ()))

    def oldest_ms(self) -> int | None:
        """Due time of the session that waits longest, over all kinds."""
        return min((heap[0][0] for heap in self._ready.values() if heap), default=None)

    def next_ms(self) -> int | None:
        """Log time at which something is due next."""
        return self._wheel.next_ms()

