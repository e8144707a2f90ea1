"""The state machine: `apply` of committed frames, the only place where a session changes.

`apply` reads the state and the frame, nothing else: no clock, no routes, no disk. What depends on the world was
decided before the log and rides in the frame (verdicts, targets, due times). So live operation, restart, a standby
and the simulator come to the same state, byte for byte. Source: semantics "The log decides", "One writer".
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Any, Final

from mpy6a.entries import Admin, decode_admin, decode_opening, decode_policy, decode_proposals
from mpy6a.errors import Code
from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.given import GivenIds
from mpy6a.limits import FINISHED_TRACE_MS, OUTCOME_KEPT_MS
from mpy6a.model import (
    BY_POLICY,
    AdminVerb,
    AttemptOutcome,
    Cause,
    Proposal,
    ProposalVerb,
    Result,
    Verb,
)
from mpy6a.policy import Policy
from mpy6a.requests import Client, Outcome, Requests
from mpy6a.session import OPEN, REFERENCE, REPEATING, STORED, TRANSITIONS, Delivery, Event, Session
from mpy6a.sessions import Applied, Sessions
from mpy6a.wire import RowBatch, decode_rows

LEVEL: Final = 2  # apply level: rises when old frames would be read with another meaning
PLAIN_LEVEL: Final = 1  # of a frame that means what it always did; 2: FORMAT.md, "Version rule"
UNCHARGED: Final = 1  # flag of a verdict: this FAIL is not charged, the kind's breaker was open
VERDICT: Final = struct.Struct("<IHH")

# Plain ints: an IntEnum's comparison costs more than the rest of the decision.
OK: Final = int(Code.OK)
_reference: Final = REFERENCE.pack
_NOBODY: Final[Collection[int]] = ()
FENCED: Final = int(Code.FENCED)
GONE_CODE: Final = int(Code.GONE)
AFTER_REFUSAL: Final = int(Code.AFTER_REFUSAL)
NEW: Final = int(Verb.NEW)
APPEND: Final = int(Verb.APPEND)
REPLACE: Final = int(Verb.REPLACE)
DELETE: Final = int(Verb.DELETE)
STORE: Final = int(Verb.STORE)


def has_new(rows: Sequence[tuple[int, ...]]) -> bool:
    """Whether a batch makes sessions."""
    return any(row[4] == NEW for row in rows)


def _verdicts(verdicts: bytes) -> tuple[dict[int, int] | None, Collection[int]]:
    """Codes of refused operations by position, and the positions of failures that are not charged."""
    refused, uncharged = {}, set()
    for position, code, flags in VERDICT.iter_unpack(verdicts):
        if code:
            refused[position] = code
        elif flags & UNCHARGED:
            uncharged.add(position)
    return refused or None, uncharged


class _Decided:
    """The rest of a group whose verdicts are fixed: codes by position within the group."""

    __slots__ = ("codes", "next")

    def __init__(self, codes: list[int]) -> None:
        self.codes = codes
        self.next = 0

    def take(self) -> int:
        code = self.codes[self.next] if self.next < len(self.codes) else AFTER_REFUSAL
        self.next += 1
        return code


class State:
    """All that the log says, at one index. Own it from one thread."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.sessions = Sessions()
        self.requests = Requests()
        self.next_index = 1
        self.log_ms = 0  # of the last frame applied
        self.paused_kinds: dict[int, tuple[int, str, str]] = {}  # kind -> until (0: no end), who, why
        self.clock_accepted_ms = 0  # wall time an operator accepted at last
        self._given = GivenIds()

    @property
    def term(self) -> int:
        """Of the last opening; 0 before the first."""
        return self.sessions.term

    @property
    def policy(self) -> Policy:
        """What is in force."""
        return self.sessions.policy

    def session(self, term: int, index: int) -> Session | None:
        """The live session of that id."""
        return self.sessions.find(term, index)

    # ------------------------------------------------------------------ apply

    def apply(self, frame: Frame) -> Applied:
        """Apply one committed frame. Frames come in log order, each once. Never raises for what a client sent."""
        assert frame.first_index == self.next_index, "the log handed a frame out of order"
        self.log_ms = max(self.log_ms, frame.log_ms)
        self.requests.forget_before(self.log_ms)
        self.sessions.forget_traces(self.log_ms)
        applied = Applied()
        match frame.type:
            case FrameType.BATCH:
                self._batch(frame, applied)
            case FrameType.PROPOSALS:
                frame.decoded = proposals = decode_proposals(frame.batch)
                for position, proposal in enumerate(proposals):
                    if not self._proposal(frame.first_index + position, proposal, applied):
                        applied.void.append(proposal)
            case FrameType.ADMIN:
                self._admin(frame.first_index, decode_admin(frame.batch), applied)
            case FrameType.POLICY:
                read = frame.decoded  # decoding 4,096 kinds takes 200 ms
                self.sessions.policy = read if isinstance(read, Policy) else decode_policy(frame.batch)
            case FrameType.OPENING:
                opening = decode_opening(frame.batch)
                self.sessions.term = opening.term
                self._given.open(opening.term, frame.first_index)
            case _:
                raise AssertionError(f"frame type {frame.type} is none of this release")
        self.next_index = frame.first_index + frame.count
        return applied

    def _batch(self, frame: Frame, applied: Applied) -> None:
        """Every operation of a batch, in order. The common case stands first: the writer's next operation."""
        batch = frame.decoded
        if not isinstance(batch, RowBatch):
            batch = decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED))
        refused, uncharged = _verdicts(frame.verdicts) if frame.verdicts else (None, _NOBODY)
        origin, log_ms, first_index = frame.origin, frame.log_ms, frame.first_index
        groups, results, rows, sessions = batch.groups, applied.results, batch.rows, self.sessions
        client = self.requests.heard(origin, batch.mark, log_ms, len(groups) < len(rows) and has_new(rows))
        decided: dict[tuple[int, int], Session | _Decided] = {}  # groups that need more than one look
        shards = sessions.shards
        for position, row in enumerate(rows):
            index, epoch, seq, term, verb, argument, offset, length = row
            if verb == NEW:
                assert client is not None
                self._new(frame, batch, position, row, client, refused, applied)
                continue
            key = (term, index)
            if verb > STORE:
                code = self._ending(frame, batch, position, row, refused, applied, charged=position not in uncharged)
                if code:
                    results.append(Result(position, code))
                elif key in groups:
                    self._cut_group(batch, position, key, origin, decided)
                continue
            shard = shards.get(index >> 16)
            session = shard.get(index) if shard is not None else None
            if (
                session is None
                or session.seq + 1 != seq
                or session.epoch != epoch
                or session.writer != origin  # "" in STORED and PARKED, and before the first write of an epoch
                or session.term != term
                or (decided and key in decided)
            ):
                verdict = decided.get(key)
                if verdict is None:
                    verdict = decided[key] = self._judge(origin, log_ms, batch, position, term, index)
                if isinstance(verdict, _Decided):
                    code = verdict.take()
                    if code:
                        now = self._epoch_now(term, index) if code == FENCED else 0
                        results.append(Result(position, code, epoch=now))
                    continue
                session = verdict
                del decided[key]  # from here on it is the writer's next operation, like any other
            _, first, count = groups[key]
            if seq == first:
                session.last = (origin, epoch, first, count, count, OK)
            session.seq = seq
            change = session.change = first_index + position
            if refused is not None and position in refused:
                code = refused[position]
            else:
                code = self._record(session, verb, frame.position + offset, length)
            if code:
                session.seq = first + count - 1
                session.last = (origin, epoch, first, count, seq - first, code)
                decided[key] = _Decided([])
                results.append(Result(position, code))
                continue
            delivery = session.delivery
            if delivery is not None:
                delivery.releases = 0
                if APPEND <= verb <= REPLACE:
                    delivery.grew = True
            if verb == DELETE:
                sessions.delete(session, log_ms, applied)
                if seq < first + count - 1:
                    decided[key] = _Decided([GONE_CODE] * (first + count - 1 - seq))
            elif verb == STORE:
                sessions.store_by_writer(session, argument, change, log_ms, applied)
                if seq < first + count - 1:
                    session.seq = first + count - 1
                    session.last = (origin, epoch, first, count, seq - first + 1, FENCED)
                    decided[key] = _Decided([FENCED])
            else:
                kind = sessions.kind(session.kind)
                session.due_ms = log_ms + (kind.idle_ms if session.state == OPEN else kind.silence_ms)

    def _record(self, session: Session, verb: int, position: int, length: int) -> int:
        """Append or Replace within the session's limits; other verbs carry no record."""
        if verb == APPEND:
            policy, positions = self.sessions.policy, session.positions
            records_max = policy.session_records_max
            if session.size + length > policy.session_bytes_max or len(positions) >= records_max * REFERENCE.size:
                return Code.TOO_LARGE
            session.positions = positions + _reference(length, position)
            session.size += length
        elif verb == REPLACE:
            if length > self.sessions.policy.session_bytes_max:
                return Code.TOO_LARGE
            session.positions = _reference(length, position)
            session.size = length
        return OK

    def _judge(
        self, origin: bytes, log_ms: int, batch: RowBatch, position: int, term: int, index: int
    ) -> Session | _Decided:
        """The four questions of semantics "One writer", asked once a group: the session if it is to be applied."""
        epoch, first, count = batch.groups[(term, index)]
        session = self.session(term, index)
        if session is None:
            return self._judge_gone(log_ms, batch, position, term, index)
        last = session.last
        if last is not None and last[2] == first and last[1] == epoch and last[3] == count and last[0] == origin:
            number_ok, code = last[4], last[5]
            return _Decided([OK] * number_ok + ([code] if number_ok < count else []))
        writer = session.writer
        if epoch > session.epoch:
            return _Decided([Code.LOG_BEHIND] * count)
        if epoch < session.epoch or session.state not in TRANSITIONS[Event.WRITE] or (writer and writer != origin):
            return _Decided([FENCED] * count)
        if first != session.seq + 1:
            return _Decided([Code.STALE_COPY if first <= session.seq else Code.SEQ_GAP] * count)
        session.writer = origin
        return session

    def _cut_group(
        self,
        batch: RowBatch,
        position: int,
        key: tuple[int, int],
        origin: bytes,
        decided: dict[tuple[int, int], Session | _Decided],
    ) -> None:
        """An ending in the middle of a group of the same batch: what of the group comes after it is FENCED."""
        epoch, first, count = batch.groups[key]
        session = self.session(*key)
        last = None if session is None else session.last
        if session is not None and last is not None and last[:5] == (origin, epoch, first, count, count):
            done = session.seq - first + 1
            if done < count:
                session.seq = first + count - 1
                session.last = (origin, epoch, first, count, done, FENCED)
                decided[key] = _Decided([FENCED])

    def _judge_gone(self, log_ms: int, batch: RowBatch, position: int, term: int, index: int) -> _Decided:
        epoch, _, count = batch.groups[(term, index)]
        beyond = self._given.judge(term, index, self.next_index)
        if beyond:
            return _Decided([beyond] * count)
        finished = self.sessions.finished_epoch(term, index, log_ms)
        if finished is None:
            if epoch > 1:
                return _Decided([GONE_CODE] * count)
            if log_ms - batch.first_sent_ms >= FINISHED_TRACE_MS:
                return _Decided([Code.OUTCOME_UNKNOWN] * count)
        elif finished != epoch:
            return _Decided([FENCED] * count)
        until = batch.deletes().get((term, index), 0)
        return _Decided([OK] * until + [GONE_CODE] * (count - until))

    def _epoch_now(self, term: int, index: int) -> int:
        session = self.session(term, index)
        return session.epoch if session is not None else 0

    def _new(
        self,
        frame: Frame,
        batch: RowBatch,
        position: int,
        row: tuple[Any, ...],
        client: Client,
        refused: dict[int, int] | None,
        applied: Applied,
    ) -> None:
        request, _, _, _, _, kind, offset, length = row
        kept = client.outcomes.get(request)
        if kept is not None:
            applied.results.append(Result(position, kept.code, kept.index, kept.term, 0, kept.state))
            return
        if request < client.mark:
            applied.results.append(Result(position, Code.STALE_COPY))
            return
        log_ms = frame.log_ms
        index = frame.first_index + position
        extra = batch.extras.get(position) if batch.extras else None
        outcome = Outcome(OK, index, self.term)
        if log_ms - batch.first_sent_ms >= OUTCOME_KEPT_MS:
            outcome = Outcome(Code.OUTCOME_UNKNOWN)
        elif refused is not None and position in refused:
            outcome = Outcome(refused[position])
        elif length > self.policy.session_bytes_max:
            outcome = Outcome(Code.TOO_LARGE)
        elif extra is not None and extra.key:
            other = self.sessions.with_key(kind, extra.key)
            if other is not None:
                outcome = Outcome(Code.KEY_LIVE, other.index, other.term, other.state)
        self.requests.keep(client, request, outcome)
        if outcome.code:
            applied.results.append(Result(position, outcome.code, outcome.index, outcome.term, 0, outcome.state))
            return
        due_ms = log_ms + self.sessions.kind(kind).idle_ms
        session = Session(self.term, index, kind, frame.origin, log_ms, due_ms)
        if length >= 0:
            session.positions = _reference(length, frame.position + offset)
            session.size = length
        session.extra = extra
        self.sessions.open(session)
        applied.timers.append(session)

    def _ending(
        self,
        frame: Frame,
        batch: RowBatch,
        position: int,
        row: tuple[Any, ...],
        refused: dict[int, int] | None,
        applied: Applied,
        *,
        charged: bool,
    ) -> int:
        """An epoch's end, said by its target: the first one applied wins."""
        index, epoch, _, term, verb, argument, offset, length = row
        session = self.session(term, index)
        if session is None:
            return self._given.judge(term, index, self.next_index) or Code.ENDED
        if epoch > session.epoch:
            return Code.LOG_BEHIND
        if epoch < session.epoch or session.state != REPEATING:
            return Code.ENDED
        delivery = session.delivery
        assert delivery is not None
        if delivery.target != frame.origin:
            return FENCED
        if refused is not None and position in refused:
            return refused[position]
        text = bytes(batch.data[offset : offset + length]).decode("utf-8", "replace") if length > 0 else ""
        change, log_ms = frame.first_index + position, frame.log_ms
        if verb == Verb.FAIL:
            self.sessions.fail(session, change, log_ms, text, applied, code=Code.ENDED, charged=charged)
        elif verb == Verb.RELEASE:
            due = BY_POLICY if argument == BY_POLICY else log_ms + argument
            self.sessions.release(session, change, log_ms, due, text, applied, code=Code.ENDED)
        else:
            self.sessions.end_epoch(session, AttemptOutcome.PARK, False, text, log_ms, Code.ENDED, applied)
            self.sessions.park(session, Event.PARK, change, text)
        return OK

    # ------------------------------------------------------------------ the pipe's own proposals

    def _proposal(self, change: int, proposal: Proposal, applied: Applied) -> bool:
        """Apply one proposal; False if it is void: (epoch, change) has moved, or the state forbids it."""
        session = self.session(proposal.term, proposal.index)
        if session is None or session.epoch != proposal.epoch or session.change != proposal.change:
            return False
        log_ms, sessions = self.log_ms, self.sessions
        match proposal.verb:
            case ProposalVerb.DISPATCH:
                if session.state not in TRANSITIONS[Event.DISPATCH]:
                    return False
                sessions.dispatch(session, change, proposal, log_ms, applied)
            case ProposalVerb.EXPIRE if session.state in TRANSITIONS[Event.IDLE]:
                sessions.idle(session, change, log_ms, applied)
            case ProposalVerb.OWNER_GONE:
                if session.state not in TRANSITIONS[Event.IDLE] or session.writer != proposal.target:
                    return False
                sessions.idle(session, change, log_ms, applied)
            case ProposalVerb.PARK if session.state in TRANSITIONS[Event.PARK]:
                if session.state == REPEATING:
                    sessions.end_epoch(session, AttemptOutcome.PARK, False, proposal.reason, log_ms, FENCED, applied)
                sessions.park(session, Event.PARK, change, proposal.reason)
            case _ if session.state != REPEATING:
                return False
            case ProposalVerb.EXPIRE:
                sessions.fail(session, change, log_ms, "silence limit", applied, code=FENCED)
            case ProposalVerb.FAIL:
                sessions.fail(
                    session,
                    change,
                    log_ms,
                    proposal.reason,
                    applied,
                    code=FENCED,
                    charged=proposal.charged,
                    due_ms=proposal.due_ms,
                )
            case ProposalVerb.RELEASE:
                due = log_ms if proposal.cause in (Cause.DRAIN, Cause.SIDECAR_LOST) else proposal.due_ms
                sessions.release(session, change, log_ms, due, proposal.reason, applied, code=FENCED)
            case _:
                return False
        return True

    # ------------------------------------------------------------------ operators

    def _admin(self, first_index: int, admin: Admin, applied: Applied) -> None:
        if admin.verb == AdminVerb.CLOCK_ACCEPT:
            self.clock_accepted_ms = admin.until_ms
        elif not admin.sessions and admin.verb == AdminVerb.PAUSE:
            self.paused_kinds[admin.kind] = (admin.until_ms, admin.who, admin.reason)
        elif not admin.sessions and admin.verb == AdminVerb.RESUME:
            self.paused_kinds.pop(admin.kind, None)
        for position, (term, index) in enumerate(admin.sessions):
            session = self.session(term, index)
            code = Code.NO_SUCH_SESSION
            if session is not None:
                code = self._admin_one(session, first_index + position, admin, applied)
            if code:
                applied.results.append(Result(position, code, state=0 if session is None else session.state))

    def _admin_one(self, session: Session, change: int, admin: Admin, applied: Applied) -> Code:
        """One session of an operator's word; BAD_REQUEST where the session's state does not allow it."""
        event = {
            AdminVerb.KICK: Event.KICK,
            AdminVerb.CANCEL: Event.CANCEL,
            AdminVerb.PARK: Event.ADMIN_PARK,
            AdminVerb.DELETE: Event.ADMIN_DELETE,
        }.get(AdminVerb(admin.verb))
        if event is None and admin.verb == AdminVerb.PAUSE and admin.until_ms:
            if session.state != STORED:
                return Code.BAD_REQUEST
            session.due_ms = max(session.due_ms, admin.until_ms)
            session.change = change
            applied.timers.append(session)
            return Code.OK
        if event is None:
            delivery = session.delivery = session.delivery or Delivery()
            delivery.paused = admin.verb == AdminVerb.PAUSE
            session.change = change
            if session.state == STORED:
                applied.timers.append(session)
            return Code.OK
        if session.state not in TRANSITIONS[event]:
            return Code.BAD_REQUEST
        if session.state == REPEATING:
            said = f"{AdminVerb(admin.verb).name.lower()} by {admin.who}: {admin.reason}"
            self.sessions.end_epoch(
                session, AttemptOutcome.CANCELLED, False, said, self.log_ms, FENCED, applied
            )
        if event == Event.ADMIN_DELETE:
            self.sessions.delete_by_operator(session, change, self.log_ms)
        elif event == Event.ADMIN_PARK:
            self.sessions.park(session, event, change, admin.reason)
        else:
            delivery = session.delivery = session.delivery or Delivery()
            if event == Event.KICK:
                delivery.charges = delivery.barren = 0
                delivery.park_reason = ""
            else:
                delivery.cancel = True
            self.sessions.store(session, event, change, self.log_ms, applied)
        return Code.OK

    # ------------------------------------------------------------------ checkpoints

    def terms(self) -> list[tuple[int, int]]:
        """(term, its first index) of each opening, ascending."""
        return list(self._given.terms)

    def restore(
        self,
        *,
        next_index: int,
        log_ms: int,
        terms: Sequence[tuple[int, int]],
        paused_kinds: dict[int, tuple[int, str, str]],
        clock_accepted_ms: int,
    ) -> None:
        """A new state becomes that of a checkpoint; `sessions` and `requests` are restored by themselves."""
        assert self.next_index == 1, "only a new state is restored"
        self.next_index = next_index
        self.log_ms = log_ms
        self._given = GivenIds(terms)
        self.paused_kinds = paused_kinds
        self.clock_accepted_ms = clock_accepted_ms

    # ------------------------------------------------------------------ comparing

    def dump(self) -> dict[str, Any]:
        """Plain data of everything `apply` reads: two states with equal dumps are equal."""
        return {
            "term": self.term,
            "next_index": self.next_index,
            "terms": list(self._given.terms),
            "outcomes": self.requests.dump(),
            "paused_kinds": dict(sorted(self.paused_kinds.items())),
            **self.sessions.dump(self.log_ms),
        }
