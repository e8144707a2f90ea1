"""The frames of the log, one method each, and the verdict on every operation of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mpy6a.model import AttemptOutcome, Extra, Op, Proposal, SessionState, Verb

from .transitions import Transitions
from .values import (
    AFTER_REFUSAL,
    DAY_MS,
    ENDINGS,
    FENCED,
    GONE,
    HOUR_MS,
    IN_SEQ,
    KEY_LIVE,
    LOG_BEHIND,
    NOBODY,
    OK,
    OUTCOME_UNKNOWN,
    SEQ_GAP,
    STALE_COPY,
    TOO_LARGE,
    Client,
    Kind,
    Last,
    Session,
    SessionKey,
    Verdict,
    plain,
)


@dataclass
class Group:
    """A session's operations in one batch, and how far they have come."""

    epoch: int
    first_seq: int
    positions: list[int] = field(default_factory=list)
    answers: dict[int, int] | None = None  # by position, where questions 1 to 3 settled it
    last: Last | None = None  # where it came to question 4
    deleted: bool = False

    @property
    def asked(self) -> bool:
        """Whether questions 1 to 3 were asked already, at the group's first operation."""
        return self.answers is not None or self.last is not None


class Reference(Transitions):
    """All sessions of one pipe, and the verdicts on what was asked of them. Frames come in log order."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: dict[bytes, Client] = {}

    # ------------------------------------------------------------------ frames

    def apply_opening(self, first_index: int, log_ms: int, term: int) -> None:
        """A new leader: its term begins at this frame's index."""
        self._advance(log_ms)
        assert term > self.term, "an opening raises the term"
        self.term = term
        self.first_of_term[term] = first_index

    def apply_policy(
        self,
        first_index: int,
        log_ms: int,
        kinds: Mapping[int, Kind],
        session_bytes_max: int = 16 * 1024 * 1024,
        session_records_max: int = 4_096,
    ) -> None:
        """In force from here; due times that stand are left as they are."""
        self._advance(log_ms)
        self.kinds = dict(kinds)
        self.session_bytes_max = session_bytes_max
        self.session_records_max = session_records_max

    def apply_batch(
        self,
        first_index: int,
        log_ms: int,
        origin: bytes,
        number: int,
        mark: int,
        first_sent_ms: int,
        ops: Sequence[Op],
        extras: Iterable[Extra] = (),
        refused: Mapping[int, int] | None = None,
    ) -> list[Verdict]:
        """A client's or sidecar's batch; `refused`: codes by position that were decided before the log."""
        self._advance(log_ms)
        client = self._heard(origin, mark, any(op.verb == Verb.NEW for op in ops))
        rare = {extra.position: extra for extra in extras}
        refusals = refused or {}
        groups = groups_of(ops)
        verdicts: list[Verdict] = []
        for position, op in enumerate(ops):
            index, refusal = first_index + position, refusals.get(position, OK)
            if op.verb == Verb.NEW:
                extra = rare.get(position, Extra(position))
                verdicts.append(self._new(index, origin, client, first_sent_ms, op, extra, refusal))
                continue
            if op.verb in ENDINGS:
                verdicts.append(Verdict(self.end(index, first_index, origin, op, refusal)))
                continue
            group = groups[(op.term, op.index)]
            if not group.asked:
                self._ask(first_index, origin, first_sent_ms, group, [ops[p] for p in group.positions])
            if group.answers is not None:
                verdicts.append(Verdict(group.answers[position]))
            else:
                verdicts.append(Verdict(self._decide(index, origin, group, op, refusal)))
        return verdicts

    def apply_proposals(self, first_index: int, log_ms: int, proposals: Iterable[Proposal]) -> list[bool]:
        """What the pipe proposed; False where it was void."""
        self._advance(log_ms)
        return [self.propose(first_index + i, proposal) for i, proposal in enumerate(proposals)]

    def apply_admin(
        self,
        first_index: int,
        log_ms: int,
        verb: int,
        sessions: Iterable[SessionKey],
        who: str = "",
        reason: str = "",
    ) -> list[bool]:
        """An operator's word on some sessions; False where it does not fit the session's state."""
        self._advance(log_ms)
        return [self.command(first_index + i, verb, key, reason) for i, key in enumerate(sessions)]

    def snapshot(self) -> dict[str, object]:
        """Everything that a later verdict can depend on, as plain data; `State.dump` has the same and more."""
        return {
            "sessions": {f"{t}.{i}": plain(session) for (t, i), session in self.sessions.items()},
            "keys": {key: index for key, (_, index) in self.keys.items()},
            "finished": {f"{t}.{i}": trace.epoch for (t, i), trace in self.traces.items()},
            "outcomes": {
                origin.hex(): {n: (v.code, v.index, v.term) for n, v in client.outcomes.items()}
                for origin, client in self.clients.items()
                if client.outcomes
            },
            "term": self.term,
            "terms": list(self.first_of_term.items()),
        }

    def _advance(self, log_ms: int) -> None:
        """Log time never goes back; what was to be known for a time only is forgotten when it is over."""
        assert log_ms >= self.log_ms, "log time went back"
        self.log_ms = log_ms
        self.traces = {i: trace for i, trace in self.traces.items() if log_ms < trace.since_ms + DAY_MS}
        self.clients = {o: c for o, c in self.clients.items() if log_ms < c.last_frame_ms + HOUR_MS}

    def _heard(self, origin: bytes, mark: int, makes_new: bool) -> Client:
        """A frame of this client: outcomes below the highest mark it named are answered, and forgotten."""
        if not makes_new and origin not in self.clients:
            return Client()
        client = self.clients.setdefault(origin, Client())
        client.last_frame_ms = self.log_ms
        client.mark = max(client.mark, mark)
        client.outcomes = {number: v for number, v in client.outcomes.items() if number >= client.mark}
        return client

    # ------------------------------------------------------------------ New

    def _new(
        self,
        index: int,
        origin: bytes,
        client: Client,
        first_sent_ms: int,
        op: Op,
        extra: Extra,
        refusal: int,
    ) -> Verdict:
        request = op.index
        if request in client.outcomes:
            return client.outcomes[request]
        if request < client.mark:
            return Verdict(STALE_COPY)
        verdict = self._make(index, origin, first_sent_ms, op, extra, refusal)
        client.outcomes[request] = verdict  # refusals too: a New is answered once
        return verdict

    def _make(self, index: int, origin: bytes, first_sent_ms: int, op: Op, extra: Extra, refusal: int) -> Verdict:
        if self.log_ms - first_sent_ms >= HOUR_MS:
            return Verdict(OUTCOME_UNKNOWN)
        if refusal != OK:
            return Verdict(refusal)
        records = [] if op.record is None else [op.record]
        if not self.fits(records):
            return Verdict(TOO_LARGE)
        kind, key = op.argument, (op.argument, extra.key)
        if extra.key and key in self.keys:
            term, holder = self.keys[key]
            return Verdict(KEY_LIVE, index=holder, term=term)
        self.sessions[(self.term, index)] = Session(
            kind=kind,
            state=SessionState.OPEN,
            writer=origin,
            fence=self.term * 2**32 + 1,
            created_ms=self.log_ms,
            change=index,
            due_ms=self.log_ms + self.kind(kind).idle_ms,
            records=records,
            key=extra.key,
            order_key=extra.order_key,
            schema=extra.schema,
            trace=extra.trace,
        )
        if extra.key:
            self.keys[key] = (self.term, index)
        return Verdict(OK, index=index, term=self.term)

    # ------------------------------------------------------------------ groups

    def _ask(self, first_index: int, origin: bytes, first_sent_ms: int, group: Group, ops: Sequence[Op]) -> None:
        """Questions 1 to 3, asked of the whole group at its first operation."""
        answers = self._answers(first_index, origin, first_sent_ms, group, ops)
        if answers is not None:
            group.answers = dict(zip(group.positions, answers, strict=True))
            return
        session = self.sessions[(ops[0].term, ops[0].index)]
        session.last = group.last = Last(origin, group.epoch, group.first_seq, len(ops))
        session.seq = group.first_seq + len(ops) - 1  # each takes its seq, applied or refused
        if session.writer == NOBODY:
            session.writer = origin  # the first that writes under a pushed epoch

    def _answers(
        self, first_index: int, origin: bytes, first_sent_ms: int, group: Group, ops: Sequence[Op]
    ) -> list[int] | None:
        """The verdicts that questions 1 to 3 give. None: it goes on to question 4."""
        count, session_key = len(ops), (ops[0].term, ops[0].index)
        session = self.sessions.get(session_key)
        if session is None:
            place = self.place(first_index, session_key)
            if place != OK:
                return [place] * count
            return self._of_the_gone(session_key, first_sent_ms, group.epoch, [op.verb for op in ops])
        last = session.last
        if last is not None and last.is_group(origin, group.epoch, group.first_seq, count):
            return last.replay()
        if group.epoch > session.epoch:
            return [LOG_BEHIND] * count
        if group.epoch < session.epoch or not session.is_written_by(origin):
            return [FENCED] * count
        if group.first_seq <= session.seq:
            return [STALE_COPY] * count
        if group.first_seq > session.seq + 1:
            return [SEQ_GAP] * count
        return None

    def _of_the_gone(self, session_key: SessionKey, first_sent_ms: int, epoch: int, verbs: list[int]) -> list[int]:
        """A group on a finished session: its verdicts are told from what the group itself holds."""
        trace = self.traces.get(session_key)
        if trace is not None:
            if epoch != trace.epoch:
                return [FENCED] * len(verbs)
        elif epoch > 1:
            return [GONE] * len(verbs)
        elif self.log_ms - first_sent_ms >= DAY_MS:
            return [OUTCOME_UNKNOWN] * len(verbs)
        through = verbs.index(Verb.DELETE) + 1 if Verb.DELETE in verbs else 0
        return [OK] * through + [GONE] * (len(verbs) - through)

    def _decide(self, index: int, origin: bytes, group: Group, op: Op, refusal: int) -> int:
        """Question 4: one operation, applied or refused."""
        if group.deleted:
            return GONE
        last, session = group.last, self.sessions[(op.term, op.index)]
        assert last is not None
        if last.code != OK:
            return AFTER_REFUSAL
        if session.epoch != op.epoch or not session.is_written_by(origin):
            last.code = FENCED  # an earlier operation of this batch ended the epoch
            return FENCED
        session.change = index
        last.code = refusal if refusal != OK else self._write(index, session, op, group)
        if last.code == OK:
            last.number_ok += 1
        return last.code

    def _write(self, index: int, session: Session, op: Op, group: Group) -> int:
        """What an accepted operation of the writer does."""
        session_key = (op.term, op.index)
        if op.verb in (Verb.APPEND, Verb.REPLACE):
            kept = [] if op.verb == Verb.REPLACE else session.records
            records = [*kept, op.record or b""]
            if not self.fits(records):
                return TOO_LARGE
            session.records = records
            session.grown = True
        session.releases = 0
        if op.verb == Verb.DELETE:
            group.deleted = True
            self.finish(session_key, session.epoch if session.epoch > 1 else None)
        elif op.verb == Verb.STORE:
            if session.state == SessionState.REPEATING:
                self.note(session, AttemptOutcome.DECIDED)
            self.store_after(index, session_key, op.argument)
        else:
            session.due_ms = self.log_ms + self.limit_ms(session)
        return OK


def groups_of(ops: Sequence[Op]) -> dict[SessionKey, Group]:
    """A batch's groups: per session the operations that carry a seq. Any other shape is malformed."""
    groups: dict[SessionKey, Group] = {}
    for position, op in enumerate(ops):
        if op.verb not in IN_SEQ:
            continue
        group = groups.setdefault((op.term, op.index), Group(op.epoch, op.seq))
        expected = (group.epoch, group.first_seq + len(group.positions))
        assert (op.epoch, op.seq) == expected, "the operations of one session in a batch are one group"
        group.positions.append(position)
    return groups
