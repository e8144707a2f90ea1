"""What every entry of the log has to be told, by the four questions of semantics "One writer" and the table of
transitions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mpy6a.errors import Code

from .decoding import BatchSeen, OpSeen
from .model import (
    ADMIN,
    BY_POLICY,
    DAY_MS,
    DRAIN,
    HOUR_MS,
    OPEN,
    PARKED,
    PROPOSALS,
    REPEATING,
    SIDECAR_LOST,
    STATES,
    STORED,
    TEN_MINUTES_MS,
    VERBS,
    Client,
    Key,
    Model,
    Session,
)
from .paces import GOOD, OTHER

NEW: Final = 0
APPEND: Final = 1
REPLACE: Final = 2
DELETE: Final = 4
STORE: Final = 5
FAIL: Final = 6
RELEASE: Final = 7

Answer = tuple[int, int, int, int]  # code, and the index, term, state that a New's answer may name
_PLAIN: Final = (0, 0, 0, 0)
_NAMES: Final = {int(code): code.name for code in Code}


class Group:
    """A session's operations in one batch."""

    __slots__ = ("answers", "count", "deleted", "deletes_at", "epoch", "first", "given", "refusal", "verdicts")

    def __init__(self, epoch: int, first: int) -> None:
        self.epoch = epoch
        self.first = first
        self.count = 0
        self.deletes_at = 0  # how many operations up to and with its first Delete; 0: it has none
        self.answers: list[int] | None = None  # where questions 1 to 3 settled it
        self.given = 0
        self.verdicts: list[int] | None = None  # where it came to question 4: those kept in `last`
        self.refusal = 0
        self.deleted = False


class Verdicts(Model):
    """Applies entries and says what each has to be told."""

    def batch(
        self,
        first_index: int,
        origin: bytes,
        batch: BatchSeen,
        refused: dict[int, int],
        uncharged: Collection[int] = (),
    ) -> dict[int, Answer]:
        """Answers by position; what is not there is plain OK. `uncharged`: positions of failures that cost nothing."""
        groups: dict[Key, Group] = {}
        makes_new = False
        for op in batch.ops:
            if op.verb == NEW:
                makes_new = True
            elif op.verb <= STORE:
                group = groups.get((op.term, op.index))
                if group is None:
                    group = groups[op.term, op.index] = Group(op.epoch, op.seq)
                group.count += 1
                if op.verb == DELETE and not group.deletes_at:
                    group.deletes_at = group.count
        client = self.heard(origin, batch.mark, makes_new)
        answers: dict[int, Answer] = {}
        notes = self.notes
        for position, op in enumerate(batch.ops):
            refusal = refused.get(position, 0)
            if op.verb == NEW:
                key = batch.keys.get(position, "")
                answer = self._new(first_index + position, origin, client, batch.first_sent_ms, op, key, refusal)
                if answer[0] or answer[1]:
                    answers[position] = answer
                continue
            session = self.sessions.get((op.term, op.index))
            state = STATES[0 if session is None else session.state]
            if op.verb > STORE:
                at, forgiven = first_index + position, position in uncharged
                code = self._ending(at, first_index, origin, op, session, refusal, forgiven)
            else:
                group = groups[op.term, op.index]
                code = self._write(first_index, position, origin, batch.first_sent_ms, op, session, group, refusal)
            notes[state, VERBS[op.verb], _NAMES[code]] += 1
            if code:
                answers[position] = (code, 0, 0, 0)
        return answers

    def _new(
        self, index: int, origin: bytes, client: Client, sent_ms: int, op: OpSeen, key: str, refusal: int
    ) -> Answer:
        request, kind = op.index, op.argument
        kept = client.outcomes.get(request)
        if kept is not None:
            self.notes["RESENT", "NEW", _NAMES[kept[0]]] += 1
            return kept
        answer: Answer = (0, index, self.term, 0)
        holder = self.keys.get((kind, key)) if key else None
        size = 0 if op.record is None else len(op.record)
        if request < client.mark:
            self.notes["NONE", "NEW", "STALE_COPY"] += 1
            return (Code.STALE_COPY, 0, 0, 0)
        if self.log_ms - sent_ms >= HOUR_MS:
            answer = (Code.OUTCOME_UNKNOWN, 0, 0, 0)
        elif refusal:
            answer = (refusal, 0, 0, 0)
        elif size > self.session_bytes_max:
            answer = (Code.TOO_LARGE, 0, 0, 0)
        elif holder is not None:
            answer = (Code.KEY_LIVE, holder.index, holder.term, holder.state)
        client.outcomes[request] = answer
        self.notes["NONE", "NEW", _NAMES[answer[0]]] += 1
        if answer[0]:
            return answer
        session = Session(self.term, index, kind, origin, self.log_ms + self.kind(kind).idle_ms)
        if op.record is not None:
            session.records.append(op.record)
            session.size = size
        if key:
            session.key = key
            self.keys[kind, key] = session
        self.sessions[session.id] = session
        self.accepted.append((NEW, session.id, 1, origin, op.record))
        return _PLAIN

    # ------------------------------------------------------------------ groups

    def _write(
        self,
        first_index: int,
        position: int,
        origin: bytes,
        sent_ms: int,
        op: OpSeen,
        session: Session | None,
        group: Group,
        refusal: int,
    ) -> int:
        if group.answers is None and group.verdicts is None:
            self._ask(first_index, origin, sent_ms, (op.term, op.index), session, group)
        if group.answers is not None:
            group.given += 1
            return group.answers[group.given - 1]
        assert group.verdicts is not None
        code = self._decide(first_index + position, origin, op, session, group, refusal)
        group.verdicts.append(code)
        return code

    def _ask(
        self, first_index: int, origin: bytes, sent_ms: int, key: Key, session: Session | None, group: Group
    ) -> None:
        """Questions 1 to 3, asked of the whole group at its first operation."""
        count = group.count
        if session is None:
            group.answers = self._of_the_gone(first_index, sent_ms, key, group)
            return
        last = session.last
        if last is not None and last[:3] == (origin, group.epoch, group.first) and len(last[3]) == count:
            self.notes["RESENT", "GROUP", STATES[session.state]] += 1
            group.answers = list(last[3])
        elif group.epoch > session.epoch:
            group.answers = [Code.LOG_BEHIND] * count
        elif (
            group.epoch < session.epoch or session.state not in (OPEN, REPEATING) or session.writer not in (b"", origin)
        ):
            group.answers = [Code.FENCED] * count
        elif group.first <= session.seq:
            group.answers = [Code.STALE_COPY] * count
        elif group.first > session.seq + 1:
            group.answers = [Code.SEQ_GAP] * count
        else:
            group.verdicts = []
            session.writer = origin
            session.seq = group.first + count - 1
            session.last = (origin, group.epoch, group.first, group.verdicts)

    def _of_the_gone(self, first_index: int, sent_ms: int, key: Key, group: Group) -> list[int]:
        count = group.count
        place = self.place(key, first_index)
        if place:
            return [place] * count
        trace = self.traces.get(key)
        if trace is not None:
            if trace[0] != group.epoch:
                return [Code.FENCED] * count
        elif group.epoch > 1:
            return [Code.GONE] * count
        elif self.log_ms - sent_ms >= DAY_MS:
            return [Code.OUTCOME_UNKNOWN] * count
        return [0] * group.deletes_at + [Code.GONE] * (count - group.deletes_at)

    def _decide(
        self, index: int, origin: bytes, op: OpSeen, session: Session | None, group: Group, refusal: int
    ) -> int:
        """Question 4: one operation, applied or refused."""
        if group.deleted:
            return Code.GONE
        assert session is not None
        if group.refusal:
            return Code.AFTER_REFUSAL
        if session.epoch != op.epoch or session.state not in (OPEN, REPEATING) or session.writer != origin:
            group.refusal = Code.FENCED  # an earlier operation of this batch ended the epoch
            return Code.FENCED
        session.change = index
        code = refusal or self._apply(index, session, op, group)
        group.refusal = code
        return code

    def _apply(self, index: int, session: Session, op: OpSeen, group: Group) -> int:
        verb = op.verb
        if verb <= REPLACE:
            record = op.record
            assert record is not None
            size = len(record) if verb == REPLACE else session.size + len(record)
            count = 1 if verb == REPLACE else len(session.records) + 1
            if size > self.session_bytes_max or count > self.session_records_max:
                return Code.TOO_LARGE
            if verb == REPLACE:
                session.records = [record]
            else:
                session.records.append(record)
            session.size = size
            session.grew = True
        session.releases = 0
        self.accepted.append((verb, session.id, op.epoch, session.writer, op.record))
        if verb in (DELETE, STORE) and session.state == REPEATING:
            self.runs.append((session, GOOD, False))
        if verb == DELETE:
            group.deleted = True
            self.finish(session, session.epoch if session.epoch > 1 else 0)
        elif verb == STORE:
            self.store_after(session, index, op.argument)
        else:
            self.touch_limit(session)
        return 0

    # ------------------------------------------------------------------ endings, proposals, operators

    def _ending(
        self,
        index: int,
        first_index: int,
        origin: bytes,
        op: OpSeen,
        session: Session | None,
        refusal: int,
        uncharged: bool,
    ) -> int:
        if session is None:
            return self.place((op.term, op.index), first_index) or Code.ENDED
        if op.epoch > session.epoch:
            return Code.LOG_BEHIND
        if op.epoch < session.epoch or session.state != REPEATING:
            return Code.ENDED
        if session.target != origin:
            return Code.FENCED
        if refusal:
            return refusal
        if op.verb == FAIL:
            limit = self.fail(session, index, charged=not uncharged)
            if limit:
                self.notes["REPEATING", limit, "OK"] += 1
        elif op.verb == RELEASE:
            self.release(session, index, BY_POLICY if op.argument == BY_POLICY else self.log_ms + op.argument)
        else:
            self.runs.append((session, GOOD, False))
            self.park(session, index, (op.record or b"").decode("utf-8", "replace"))
        return 0

    def propose(self, index: int, item: tuple[object, ...]) -> bool:
        """A proposal of the pipe's; False where it is void."""
        verb, term, at, epoch, change, cause, charged, due_ms, target, sidecar, reason = item
        assert isinstance(verb, int)
        assert isinstance(term, int)
        assert isinstance(at, int)
        session = self.sessions.get((term, at))
        state = STATES[0 if session is None else session.state]
        applied = False
        if session is not None and session.epoch == epoch and session.change == change:
            assert isinstance(due_ms, int)
            assert isinstance(target, bytes)
            applied = self._propose(
                index, PROPOSALS[verb], session, cause, bool(charged), due_ms, target, str(sidecar), str(reason)
            )
        self.notes[state, f"proposed {PROPOSALS[verb]}", "OK" if applied else "VOID"] += 1
        return applied

    def _propose(
        self,
        index: int,
        verb: str,
        session: Session,
        cause: object,
        charged: bool,
        due_ms: int,
        target: bytes,
        sidecar: str,
        reason: str,
    ) -> bool:
        match verb, session.state:
            case "DISPATCH", 2:
                self.dispatch(session, index, target, sidecar)
            case "EXPIRE", 1:
                self.store_after(session, index, BY_POLICY)
            case "EXPIRE", 3:
                limit = self.fail(session, index)
                if limit:
                    self.notes["REPEATING", limit, "OK"] += 1
            case "OWNER_GONE", 1 if session.writer == target:
                self.store_after(session, index, BY_POLICY)
            case "RELEASE", 3:
                if cause in (DRAIN, SIDECAR_LOST):
                    due_ms = self.log_ms
                self.release(session, index, due_ms)
            case "FAIL", 3:
                self.fail(session, index, charged, due_ms)
            case "PARK", (2 | 3):
                if session.state == REPEATING:
                    self.runs.append((session, GOOD, False))
                self.park(session, index, reason)
            case _:
                return False
        return True

    def command(self, index: int, verb: int, key: Key, reason: str, until_ms: int = 0) -> int:
        """An operator's word about one session; the code it is answered with."""
        session = self.sessions.get(key)
        state = STATES[0 if session is None else session.state]
        if session is not None and session.state == REPEATING and ADMIN[verb] in ("DELETE", "PARK", "CANCEL"):
            self.runs.append((session, OTHER, False))
        code = Code.NO_SUCH_SESSION if session is None else self._command(index, ADMIN[verb], session, reason, until_ms)
        self.notes[state, f"said {ADMIN[verb]}", _NAMES[code]] += 1
        return code

    def _command(self, index: int, verb: str, session: Session, reason: str, until_ms: int) -> int:
        match verb, session.state:
            case "PAUSE", 2 if until_ms:
                session.due_ms = max(session.due_ms, until_ms)
                session.change = index
                self.stored.append(session)
            case "PAUSE", _ if until_ms:
                return Code.BAD_REQUEST
            case ("PAUSE" | "RESUME"), _:
                session.paused = verb == "PAUSE"
                session.change = index
                if session.state == STORED:
                    self.stored.append(session)  # it may be next again
            case "DELETE", _:
                self.finish(session, session.epoch + 1)
            case "PARK", _:
                self.park(session, index, reason)
            case "KICK", (2 | 4):
                session.charges = session.barren = 0
                self.store(session, index, self.log_ms)
            case "CANCEL", (1 | 2 | 3):
                session.cancel = True
                self.store(session, index, self.log_ms)
            case _:
                return Code.BAD_REQUEST
        return 0


__all__ = ["PARKED", "TEN_MINUTES_MS", "Answer", "Verdicts"]
