"""What becomes of a live session: the table of transitions, endings, proposals and operators' words."""

from __future__ import annotations

from collections.abc import Sequence

from mpy6a.model import AdminVerb, AttemptOutcome, Cause, Op, Proposal, ProposalVerb, SessionState, Verb

from .values import (
    ATTEMPTS_KEPT,
    BY_POLICY,
    ENDED,
    FENCED,
    LOG_BEHIND,
    LOST,
    NOBODY,
    OK,
    RETRY_AFTER_MAX_MS,
    STORE_MAX_MS,
    Kind,
    Session,
    SessionKey,
    Trace,
    draw,
)


class Transitions:
    """All sessions of one pipe, and the ways from state to state."""

    def __init__(self) -> None:
        self.log_ms = 0
        self.term = 0
        self.first_of_term: dict[int, int] = {}
        self.kinds: dict[int, Kind] = {}
        self.session_bytes_max = 16 * 1024 * 1024
        self.session_records_max = 4_096
        self.sessions: dict[SessionKey, Session] = {}
        self.keys: dict[tuple[int, str], SessionKey] = {}
        self.traces: dict[SessionKey, Trace] = {}

    def place(self, first_index: int, session_key: SessionKey) -> int:
        """Whether this log can know the id at all: OK, LOG_BEHIND or LOST."""
        term, index = session_key
        if term > self.term:
            return LOG_BEHIND
        if term not in self.first_of_term or index < self.first_of_term[term]:
            return LOST
        if term == self.term:
            return LOG_BEHIND if index >= first_index else OK
        return LOST if index >= min(first for t, first in self.first_of_term.items() if t > term) else OK

    # ------------------------------------------------------------------ endings, proposals, operators

    def end(self, index: int, first_index: int, origin: bytes, op: Op, refusal: int) -> int:
        """An ending by the target: the first applied wins. Returns its code."""
        session_key = (op.term, op.index)
        session = self.sessions.get(session_key)
        if session is None:
            place = self.place(first_index, session_key)
            return ENDED if place == OK else place
        if op.epoch > session.epoch:
            return LOG_BEHIND
        if op.epoch < session.epoch or session.state != SessionState.REPEATING:
            return ENDED
        if origin != session.target:
            return FENCED
        if refusal != OK:
            return refusal
        if op.verb == Verb.FAIL:
            self.fail(index, session_key)
        elif op.verb == Verb.RELEASE:
            due_ms = None
            if op.argument != BY_POLICY:
                due_ms = self.log_ms + min(op.argument, RETRY_AFTER_MAX_MS)
            self.release(index, session_key, due_ms)
        else:
            self.note(session, AttemptOutcome.PARK)
            self.park(index, session_key, (op.record or b"").decode("utf-8", "replace"))
        return OK

    def propose(self, index: int, proposal: Proposal) -> bool:
        """A proposal of the pipe; False where it is void."""
        session_key = (proposal.term, proposal.index)
        session = self.sessions.get(session_key)
        if session is None or (session.epoch, session.change) != (proposal.epoch, proposal.change):
            return False
        verb, state = proposal.verb, session.state
        writes = session.writer == proposal.target
        if verb == ProposalVerb.DISPATCH and state == SessionState.STORED:
            self.dispatch(index, session, proposal.target)
        elif verb == ProposalVerb.EXPIRE and state == SessionState.OPEN:
            self.store_after(index, session_key, BY_POLICY)
        elif verb == ProposalVerb.EXPIRE and state == SessionState.REPEATING:
            self.fail(index, session_key)
        elif verb == ProposalVerb.OWNER_GONE and state == SessionState.OPEN and writes:
            self.store_after(index, session_key, BY_POLICY)
        elif verb == ProposalVerb.RELEASE and state == SessionState.REPEATING:
            self.release(index, session_key, self.released_until(proposal))
        elif verb == ProposalVerb.FAIL and state == SessionState.REPEATING:
            self.fail(index, session_key, proposal.charged, proposal.due_ms)
        elif verb == ProposalVerb.PARK and state in (SessionState.STORED, SessionState.REPEATING):
            if state == SessionState.REPEATING:
                self.note(session, AttemptOutcome.PARK)
            self.park(index, session_key, proposal.reason)
        else:
            return False
        return True

    def command(self, index: int, verb: int, session_key: SessionKey, reason: str) -> bool:
        """An operator's word on one session; False where it does not fit the session's state."""
        session = self.sessions.get(session_key)
        if session is None:
            return False
        if verb in (AdminVerb.PAUSE, AdminVerb.RESUME):
            session.paused = verb == AdminVerb.PAUSE
            session.change = index
            return True
        if verb == AdminVerb.KICK and session.state not in (SessionState.STORED, SessionState.PARKED):
            return False
        if verb == AdminVerb.CANCEL and session.state == SessionState.PARKED:
            return False
        if session.state == SessionState.REPEATING:
            self.note(session, AttemptOutcome.CANCELLED)
        if verb == AdminVerb.DELETE:
            self.finish(session_key, session.epoch + 1)
        elif verb == AdminVerb.PARK:
            self.park(index, session_key, reason)
        elif verb == AdminVerb.KICK:
            session.charges = 0
            session.barren = 0
            self.store(index, session_key, self.log_ms)
        else:
            assert verb == AdminVerb.CANCEL
            session.cancel = True
            self.store(index, session_key, self.log_ms)
        return True

    # ------------------------------------------------------------------ transitions

    def dispatch(self, index: int, session: Session, target: bytes) -> None:
        """STORED to REPEATING: a new epoch, with a fence above every earlier one, and no writer yet."""
        session.state = SessionState.REPEATING
        session.epoch += 1
        session.repeats += 1
        session.seq = 0
        session.writer = NOBODY
        session.target = target
        session.fence = self.term * 2**32 + session.epoch
        session.grown = False
        session.due_ms = self.log_ms + self.limit_ms(session)
        session.change = index

    def store(self, index: int, session_key: SessionKey, due_ms: int) -> None:
        """Any to STORED: nobody's, until it is due."""
        session = self.sessions[session_key]
        session.state = SessionState.STORED
        session.writer = NOBODY
        session.target = NOBODY
        session.park_reason = ""
        session.due_ms = due_ms
        session.stored_index = index
        session.change = index

    def store_after(self, index: int, session_key: SessionKey, after_ms: int) -> None:
        """Store by the writer, or for it because it is gone or idle: then BY_POLICY. Never charged."""
        kind = self.kind_of(session_key)
        wait_ms = kind.delay_ms if after_ms == BY_POLICY else min(after_ms, STORE_MAX_MS)
        self.store(index, session_key, self.log_ms + wait_ms + self.drawn(session_key, kind.jitter_ms))

    def fail(self, index: int, session_key: SessionKey, charged: bool = True, due_ms: int = BY_POLICY) -> None:
        """A repeat that came to nothing by the handler's doing; only the pipe may decide not to charge it."""
        kind, session = self.kind_of(session_key), self.sessions[session_key]
        self.note(session, AttemptOutcome.FAIL, charged)
        if charged:
            session.charges += 1
            session.barren = 0 if session.grown else session.barren + 1
            session.releases = 0
            if session.charges >= kind.charge_limit:
                return self.park(index, session_key, "CHARGE_LIMIT")
            if session.barren >= kind.barren_limit:
                return self.park(index, session_key, "BARREN_LIMIT")
        if due_ms == BY_POLICY:
            due_ms = self.log_ms + self.backoff_ms(session_key, max(session.charges, 1))
        return self.store(index, session_key, due_ms)

    def release(self, index: int, session_key: SessionKey, due_ms: int | None) -> None:
        """Not charged: nobody's fault, or not the handler's."""
        session = self.sessions[session_key]
        self.note(session, AttemptOutcome.RELEASE)
        session.releases += 1
        if due_ms is None:
            due_ms = self.log_ms + self.backoff_ms(session_key, session.releases)
        self.store(index, session_key, due_ms)

    def released_until(self, proposal: Proposal) -> int | None:
        """The due time that a release was decided with; None: by back-off."""
        if proposal.cause in (Cause.DRAIN, Cause.SIDECAR_LOST):
            return self.log_ms
        if proposal.due_ms == BY_POLICY:
            return None
        return min(proposal.due_ms, self.log_ms + RETRY_AFTER_MAX_MS)

    def park(self, index: int, session_key: SessionKey, reason: str) -> None:
        """Any to PARKED: waits for an operator, so it has no due time."""
        session = self.sessions[session_key]
        session.state = SessionState.PARKED
        session.writer = NOBODY
        session.target = NOBODY
        session.park_reason = reason
        session.due_ms = 0
        session.change = index

    def note(self, session: Session, outcome: AttemptOutcome, charged: bool = False) -> None:
        """A repeat is over: the last attempts are remembered."""
        attempt = (session.epoch, int(outcome), charged)
        session.attempts = [*session.attempts, attempt][-ATTEMPTS_KEPT:]

    def finish(self, session_key: SessionKey, known_as_epoch: int | None) -> None:
        """Any to gone, with a trace of that epoch if there is to be one."""
        session = self.sessions.pop(session_key)
        if session.key:
            del self.keys[(session.kind, session.key)]
        if known_as_epoch is not None:
            self.traces[session_key] = Trace(known_as_epoch, self.log_ms)

    # ------------------------------------------------------------------ figures

    def kind(self, number: int) -> Kind:
        """The policy of a kind in force."""
        return self.kinds.get(number, Kind())

    def kind_of(self, session_key: SessionKey) -> Kind:
        """The policy of a session's kind in force."""
        return self.kind(self.sessions[session_key].kind)

    def limit_ms(self, session: Session) -> int:
        """How long the session may be without an accepted operation."""
        kind = self.kind(session.kind)
        return kind.idle_ms if session.state == SessionState.OPEN else kind.silence_ms

    def drawn(self, session_key: SessionKey, most: int) -> int:
        """A draw of 0..most for the session's present epoch."""
        return draw(session_key[0], self.sessions[session_key].epoch, session_key[1], most)

    def backoff_ms(self, session_key: SessionKey, in_a_row: int) -> int:
        """Full jitter below a bound that doubles each time."""
        kind = self.kind_of(session_key)
        bound_ms = min(kind.backoff_cap_ms, kind.backoff_base_ms * 2 ** min(in_a_row - 1, 40))
        return self.drawn(session_key, bound_ms)

    def fits(self, records: Sequence[bytes]) -> bool:
        """Whether a session may hold these records."""
        return sum(map(len, records)) <= self.session_bytes_max and len(records) <= self.session_records_max
