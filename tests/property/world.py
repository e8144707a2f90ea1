"""Clients, sidecars, operators and the pipe as the state machine's test plays them: one method, one logged frame.

Most of what is done is right, so that histories get deep; the rest is late, stale, foreign, wrong or hostile. All
choices come from one random.Random: Hypothesis hands in one that it controls (and shrinks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, TypeVar

from mpy6a.model import BY_POLICY, NOBODY, AdminVerb, Cause, Extra, Op, Proposal, ProposalVerb, SessionState, Verb
from mpy6a.policy import KindPolicy
from mpy6a.state import State

from .pair import NewState, Pair, Sent
from .reference import SessionKey, Verdict
from .reference.values import DAY_MS, HOUR_MS, Session

T = TypeVar("T")

KINDS: Final = (1, 2, 3, 7)  # 7 is in no policy
KEYS: Final = ("", "", "", "a", "b")
REFUSALS: Final = (7, 8, 13, 14)  # TOO_LARGE, UNKNOWN_KIND, DENIED, DISK_LOW: decided before the log
TARGETS: Final = (b"S" * 16, b"T" * 16)
SENT_KEPT: Final = 40
WRITES: Final = (Verb.APPEND, Verb.APPEND, Verb.REPLACE, Verb.TOUCH)
SENT_BEFORE_MS: Final = (HOUR_MS - 1, HOUR_MS, DAY_MS - 1, DAY_MS)


@dataclass
class Writer:
    """One client incarnation: numbers its batches and its News, and knows which are answered."""

    incarnation: bytes
    batches: int = 0
    requests: int = 0
    unanswered: dict[int, Op] = field(default_factory=dict)
    extras: dict[int, Extra] = field(default_factory=dict)

    @property
    def mark(self) -> int:
        """The lowest request number that is not answered."""
        return min(self.unanswered, default=self.requests + 1)


class World:
    """Everybody around one log. `r` is where the choices of the next step come from."""

    def __init__(self, new_state: NewState = State, tell: Callable[[str], None] | None = None) -> None:
        self.pair = Pair(new_state, tell)
        self.r = Random(0)
        self._incarnations = 0
        self.writers = [self._writer() for _ in range(3)]
        self.sent: list[Sent] = []
        self.ids: list[SessionKey] = []  # of every session there ever was

    # ------------------------------------------------------------------ clients

    def new(self) -> None:
        """A client makes sessions."""
        writer = self._one(self.writers)
        self._send(writer.incarnation, [[self._new(writer)] for _ in range(1 + self._rare(4))])

    def write(self) -> None:
        """A group on one session."""
        key = self._key()
        if key is not None:
            session = self._live(key)
            self._send(self._origin(session), [self._group(key, session)])

    def mixed(self) -> None:
        """Several groups, News and endings in one batch of one origin, interleaved."""
        keys = self._some(self._keys(), 3)
        sessions = [self._live(key) for key in keys]
        first = sessions[0] if sessions else None
        origin = self._origin(first) if first is not None else self._one(self.writers).incarnation
        if first is not None and first.target != NOBODY and self._rare(2):
            origin = first.target
        parts = [self._group(key, session) for key, session in zip(keys, sessions, strict=True)]
        parts += [[self._ending(key, self._live(key))] for key in self._some(keys, 2)]
        for writer in self.writers:
            if writer.incarnation == origin:
                parts.append([self._new(writer)])
        self._send(origin, [part for part in parts if part])

    def on_gone(self) -> None:
        """A late group or ending on a session that is finished, or was never there."""
        keys = [key for key in self.ids if key not in self.pair.reference.sessions]
        if not keys or self._rare(8):
            key = (self._one((1, 3, self.pair.term)), self.r.randrange(1, self.pair.next_index + 3))
        else:
            key = self._one(keys[-12:])
        trace = self.pair.reference.traces.get(key)
        ghost = replace(GHOST, epoch=1 if trace is None else trace.epoch, seq=self.r.randrange(3))
        if self._rare(4):
            ghost.epoch = self._one((1, 2, 3))
        parts = [self._group(key, ghost, deciding=3)]
        if self.r.randrange(2):
            parts.append([self._ending(key, ghost)])
        self._send(self._one(self.writers).incarnation, parts, old=True)

    def no_such_id(self) -> None:
        """Ids beyond the log's end, of terms to come, outside of their term's range, of a live one's index."""
        pair, live = self.pair, self._key()
        if live is not None and self.r.randrange(2):
            session = self._live(live)
            key = (max(1, live[0] + self._one((-1, 1))), live[1])
            self._send(self._origin(session), [self._group(key, session), [self._ending(key, session)]])
            return
        terms = list(pair.reference.first_of_term.items())
        term, first = self._one(terms)
        key = self._one(
            (
                (pair.term, pair.next_index + self.r.randrange(3)),
                (pair.term + 1, max(1, pair.next_index - 1)),
                (term, max(1, first - 1)),
                (term, first),
                (max(1, term - 1), first),
                (terms[0][0], terms[-1][1] + self.r.randrange(2)),
            )
        )
        if key not in pair.reference.sessions:
            self._send(self._one(self.writers).incarnation, [self._group(key, GHOST), [self._ending(key, GHOST)]])

    def resend(self) -> None:
        """A batch comes again as it was: its answer was lost, or a copy was late."""
        if self.sent:
            sent = self.sent[-1 - self._rare(len(self.sent))]
            self._log(sent, self._refusals(sent.ops))

    def resend_otherwise(self) -> None:
        """What no library does, and a library's packing again: grown, split, under other marks and times."""
        if not self.sent:
            return
        sent = self.sent[-1 - self._rare(len(self.sent))]
        ops, extras = list(sent.ops), sent.extras
        change = self.r.randrange(5)
        if change == 0 and len(ops) > 1:
            ops = ops[: self.r.randrange(1, len(ops))]
        elif change == 1 and ops[-1].seq:
            ops.append(ops[-1]._replace(verb=Verb.TOUCH, seq=ops[-1].seq + 1, argument=0, record=None))
        elif change == 2 and len(ops) > 1:
            ops, extras = ops[1:], tuple(e._replace(position=e.position - 1) for e in extras if e.position)
        mark = max(1, min([op.index for op in ops if op.verb == Verb.NEW], default=sent.mark) - self._rare(3))
        origin = self._one(self.writers).incarnation if change == 3 else sent.origin
        again = Sent(
            origin,
            sent.number,
            mark,
            self._sent_ms(old=False),
            tuple(ops),
            tuple(extra for extra in extras if extra.position < len(ops)),
        )
        self._log(again, self._refusals(again.ops))

    def resend_news(self) -> None:
        """A client sends every New that it has no answer to once more, packed together."""
        writer = self._one(self.writers)
        if writer.unanswered:
            ops = [op for _, op in sorted(writer.unanswered.items())][:8]
            self._send(writer.incarnation, [[op] for op in ops])

    def restart(self) -> None:
        """A client process dies, and another begins."""
        self.writers[self.r.randrange(len(self.writers))] = self._writer()

    # ------------------------------------------------------------------ checkpoints

    def checkpoint(self) -> None:
        """The checkpoint is written; all, some or none of what waits leaves memory."""
        of = self._one((1, 1, 2, 100))
        self.pair.checkpoint(lambda _: self.r.randrange(of) == 0)

    def keyed(self) -> None:
        """A New with the key of a session that waits, and left memory or finished a moment ago."""
        self.pair.checkpoint(lambda _: True)
        waiting = [(id, self._live(id)) for id in self._keys(SessionState.STORED)]
        named = [(id, session.kind, session.key) for id, session in waiting if session.key]
        if not named:
            return
        id, kind, key = self._one(named)
        if self._rare(2):
            self.pair.admin(AdminVerb.DELETE, [id])
        writer = self._one(self.writers)
        op = self._new(writer)
        writer.unanswered[op.index] = op = op._replace(argument=kind)
        writer.extras[op.index] = writer.extras[op.index]._replace(key=key)
        self._send(writer.incarnation, [[op]])

    def start(self) -> None:
        """The pipe dies and starts again."""
        self.pair.start_from_checkpoint()

    # ------------------------------------------------------------------ sidecars

    def end(self) -> None:
        """An ending by the target, or by somebody who takes himself for it."""
        key = self._key(SessionState.REPEATING)
        if key is not None:
            session = self._live(key)
            origin = session.target if session.target != NOBODY and not self._rare(6) else self._one(TARGETS)
            self._send(origin, [[self._ending(key, session)] for _ in range(1 + self._rare(2))])

    # ------------------------------------------------------------------ the pipe and its operators

    def dispatch(self) -> None:
        """Stored sessions are pushed."""
        keys = self._some(self._keys(SessionState.STORED), 3)
        if keys:
            self.pair.proposals([self._proposal(key, ProposalVerb.DISPATCH) for key in keys])

    def propose(self) -> None:
        """Expiry, owner gone, release, fail and park, where the state asks for it, and where it does not."""
        keys = self._some(self._keys(), 3)
        if keys:
            self.pair.proposals([self._proposal(key, self._verb(self._live(key).state)) for key in keys])

    def repeat(self) -> None:
        """A session is repeated some times over, as it should be: limits, back-off and growth are reached."""
        key = self._key()
        for _ in range(self.r.randrange(1, 4)):
            if key is None or key not in self.pair.reference.sessions:
                return
            session = self._live(key)
            if session.state == SessionState.OPEN:
                self.pair.proposals([self._proposal(key, ProposalVerb.EXPIRE, honest=True)])
            if session.state == SessionState.STORED:
                self.pair.proposals([self._proposal(key, ProposalVerb.DISPATCH, honest=True)])
            if session.state == SessionState.REPEATING and self.r.randrange(2):
                self._send(self._origin(session), [self._group(key, session, deciding=4)])
            if session.state == SessionState.REPEATING and key in self.pair.reference.sessions:
                verb = self._one((ProposalVerb.FAIL, ProposalVerb.EXPIRE, ProposalVerb.RELEASE))
                self.pair.proposals([self._proposal(key, verb, honest=True)])

    def operate(self) -> None:
        """An operator kicks, parks, cancels, deletes, pauses and resumes."""
        verbs = [verb for verb in AdminVerb if verb != AdminVerb.CLOCK_ACCEPT]
        verbs += [AdminVerb.KICK, AdminVerb.CANCEL]
        keys = self._keys()
        if self.r.randrange(2):
            keys = [key for key in keys if self._live(key).repeats] or keys
        keys = self._some(keys, 2) + self._some(self.ids, self._rare(2))
        if keys:
            self.pair.admin(self._one(verbs), keys, self._one(("", "because")))

    def reopen(self) -> None:
        """Another leader, or the same one after a restart, a repair or a restore."""
        self.pair.opening(self.pair.term + self._one((1, 1, 7, 1_000_000)))

    def reload(self) -> None:
        """Other routes, other limits."""
        kinds = [self._kind(number) for number in self._some(KINDS[:3], 3)]
        self.pair.policy(kinds, self._one((16 << 20, 100, 40)), self._one((4096, 5, 2)))

    def wait(self) -> None:
        """Log time goes on, often to the very moment at which something is forgotten."""
        pair = self.pair
        clients = [client.last_frame_ms + HOUR_MS for client in pair.reference.clients.values()]
        traces = [trace.since_ms + DAY_MS for trace in pair.reference.traces.values()]
        moments = self._one((traces, clients))
        if moments and self.r.randrange(2):
            pair.log_ms = max(pair.log_ms, self._one(moments) - self._rare(3))
        else:
            pair.log_ms += self._one((1, 999, 60_000, HOUR_MS - 1, HOUR_MS, DAY_MS - HOUR_MS, DAY_MS))
        self.new()

    # ------------------------------------------------------------------ parts

    def _new(self, writer: Writer) -> Op:
        writer.requests += 1
        record = None if self._rare(2) else self._record()
        op = Op(Verb.NEW, writer.requests, argument=self._one(KINDS), record=record)
        extra = Extra(0, key=self._one(KEYS), order_key=self._one(("", "o")), schema=self._one(("", "s")))
        writer.unanswered[op.index] = op
        writer.extras[op.index] = extra
        return op

    def _group(self, key: SessionKey, session: Session, *, deciding: int = 12) -> list[Op]:
        """1 to 4 operations, nearly always of the present epoch and from the next seq on. One in `deciding`, or in
        four at the end, is a Delete or Store."""
        epoch = max(1, session.epoch + self._unless((-1, 1), 16))
        first = max(1, session.seq + 1 + self._unless((-2, -1, 1, 3), 12))
        count = self._one((1, 1, 2, 3, 4))
        ops: list[Op] = []
        for position in range(count):
            verb = self._one(WRITES)
            if self._rare(min(4, deciding) if position == count - 1 else deciding):
                verb = self._one((Verb.STORE, Verb.DELETE))
            argument = 0
            if verb == Verb.STORE:
                argument = self._one((BY_POLICY, 0, 500, 2**63))
            record = self._record() if verb in (Verb.APPEND, Verb.REPLACE) else None
            ops.append(Op(verb, key[1], key[0], epoch, first + position, argument, record))
        return ops

    def _ending(self, key: SessionKey, session: Session) -> Op:
        verb = self._one((Verb.FAIL, Verb.FAIL, Verb.RELEASE, Verb.PARK))
        epoch = max(1, session.epoch + self._unless((-1, 1), 8))
        argument = self._one((BY_POLICY, BY_POLICY, 0, 5_000, 86_400_000)) if verb == Verb.RELEASE else 0
        return Op(verb, key[1], key[0], epoch, 0, argument, self._one((None, b"why", b"\xff\xfe")))

    def _proposal(self, key: SessionKey, verb: ProposalVerb, *, honest: bool = False) -> Proposal:
        session = self._live(key)
        target = self._one(TARGETS)
        if verb == ProposalVerb.OWNER_GONE:
            target = session.writer if not self._rare(4) else self._one(self.writers).incarnation
        causes = (Cause.NONE, Cause.DRAIN, Cause.SIDECAR_LOST, Cause.NO_ROOM, Cause.BREAKER)
        due_ms = BY_POLICY
        if verb in (ProposalVerb.RELEASE, ProposalVerb.FAIL):
            due_ms = self._one((BY_POLICY, BY_POLICY, self.pair.log_ms + 5_000, self.pair.log_ms + HOUR_MS))
        return Proposal(
            verb,
            key[0],
            key[1],
            session.epoch + (0 if honest else self._unless((-1, 1), 16)),
            session.change + (0 if honest else self._unless((-1, 1), 10)),
            self._one(causes) if verb == ProposalVerb.RELEASE else Cause.NONE,
            verb != ProposalVerb.FAIL or not self._rare(5),
            due_ms,
            target,
            reason=self._one(("", "so it was")),
        )

    def _verb(self, state: SessionState) -> ProposalVerb:
        if not self._rare(8):
            return self._one(PROPOSED[state])
        return self._one(tuple(ProposalVerb))

    def _kind(self, number: int) -> KindPolicy:
        return KindPolicy(
            id=number,
            name=f"kind-{number}",
            sidecars=("s",),
            delay_ms=self._one((0, 700, 90_000)),
            jitter_ms=self._one((0, 1, 5_000)),
            backoff_base_ms=self._one((1, 1_000, 7_200_000)),
            backoff_cap_ms=self._one((600_000, 10_800_000, 50)),
            idle_ms=self._one((300_000, 1_000)),
            silence_ms=self._one((300_000, 2_000)),
            barren_limit=self._one((200, 1, 2, 3)),
            charge_limit=self._one((1_000, 2, 3, 5)),
        )

    def _record(self) -> bytes:
        return b"r" * self._one((0, 1, 8, 21, 41))

    # ------------------------------------------------------------------ sending

    def _send(self, origin: bytes, parts: Sequence[Sequence[Op]], *, old: bool = False) -> None:
        """Pack the parts, each in its own order, into one batch, and log it."""
        left = [list(part) for part in parts]
        ops: list[Op] = []
        while any(left):
            ops.append(self._one([part for part in left if part]).pop(0))
        requests = sorted(op.index for op in ops if op.verb == Verb.NEW)
        writer = next((w for w in self.writers if w.incarnation == origin), None)
        extras: list[Extra] = []
        for position, op in enumerate(ops):
            if op.verb == Verb.NEW and writer is not None:
                ops[position] = op = writer.unanswered[requests.pop(0)]
                extra = writer.extras[op.index]._replace(position=position)
                if extra[1:] != Extra(0)[1:]:
                    extras.append(extra)
        number, mark = 1, 1
        if writer is not None:
            writer.batches += 1
            number, mark = writer.batches, writer.mark
        sent = Sent(origin, number, mark, self._sent_ms(old=old), tuple(ops), tuple(extras))
        self.sent = [*self.sent[1 - SENT_KEPT :], sent]
        self._log(sent, self._refusals(ops))

    def _log(self, sent: Sent, refused: dict[int, int]) -> None:
        answers = self.pair.batch(sent, refused)
        self._heard(sent, answers)

    def _heard(self, sent: Sent, answers: Sequence[Verdict]) -> None:
        """The answer reaches the client, unless it is lost on the way."""
        writer = next((w for w in self.writers if w.incarnation == sent.origin), None)
        lost = self._rare(4)
        for op, answer in zip(sent.ops, answers, strict=True):
            if op.verb != Verb.NEW:
                continue
            if answer.code == 0 and (answer.term, answer.index) not in self.ids:
                self.ids.append((answer.term, answer.index))
            if writer is not None and not lost:
                writer.unanswered.pop(op.index, None)

    def _refusals(self, ops: Sequence[Op]) -> dict[int, int]:
        if not self._rare(8):
            return {}
        return {self.r.randrange(len(ops)): self._one(REFUSALS)}

    def _sent_ms(self, *, old: bool) -> int:
        if self._rare(2 if old else 8):
            return self.pair.log_ms - self._one(SENT_BEFORE_MS)
        return self.pair.log_ms - self._one((0, 50, 2_000))

    # ------------------------------------------------------------------ choices

    def _writer(self) -> Writer:
        self._incarnations += 1
        return Writer(self._incarnations.to_bytes(16, "big"))

    def _origin(self, session: Session) -> bytes:
        """Its writer, mostly; where it has none, anybody may come."""
        if session.writer != NOBODY and not self._rare(10):
            return session.writer
        return self._one(self.writers).incarnation

    def _live(self, key: SessionKey) -> Session:
        return self.pair.reference.sessions[key]

    def _keys(self, state: SessionState | None = None) -> list[SessionKey]:
        sessions = self.pair.reference.sessions
        return [key for key, session in sessions.items() if state is None or session.state == state]

    def _key(self, state: SessionState | None = None) -> SessionKey | None:
        keys = self._keys(state) or self._keys()
        return self._one(keys[-8:]) if keys else None

    def _one(self, choices: Sequence[T]) -> T:
        return choices[self.r.randrange(len(choices))]

    def _some(self, choices: Sequence[T], most: int) -> list[T]:
        """Up to `most` different ones, at least one if there are any and `most` allows it."""
        left = list(choices)
        chosen: list[T] = []
        while left and len(chosen) < most and (not chosen or self._rare(2)):
            chosen.append(left.pop(self.r.randrange(len(left))))
        return chosen

    def _rare(self, n: int) -> int:
        """0 but once in n times; then 1 to n - 1, or 1. The plain case is drawn as 0: Hypothesis shrinks to it."""
        if n < 2 or self.r.randrange(n) < n - 1:
            return 0
        return self.r.randrange(1, n) if n > 2 else 1

    def _unless(self, choices: Sequence[int], n: int) -> int:
        """0, but once in n times one of the choices."""
        return self._one(choices) if self.r.randrange(n) == n - 1 else 0


GHOST: Final = Session(0, SessionState.OPEN, NOBODY, 0, 0, 0, 0, [])
PROPOSED: Final = {
    SessionState.OPEN: (ProposalVerb.EXPIRE, ProposalVerb.OWNER_GONE),
    SessionState.STORED: (ProposalVerb.DISPATCH, ProposalVerb.DISPATCH, ProposalVerb.PARK),
    SessionState.REPEATING: (
        ProposalVerb.EXPIRE,
        ProposalVerb.RELEASE,
        ProposalVerb.FAIL,
        ProposalVerb.PARK,
        ProposalVerb.OWNER_GONE,
    ),
    SessionState.PARKED: tuple(ProposalVerb),
}
