"""Work for a `Life`: sessions of every state, outcomes of every sort, drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from mpy6a.entries import Admin, SessionKey
from mpy6a.messages import Push
from mpy6a.model import AdminVerb, Extra, Op, SessionId, SessionState, Verb
from mpy6a.policy import KindPolicy, policy_of
from tests.crash.lives import Life

CLIENTS: Final = (b"client one......", b"client two......")
SIDECAR: Final = b"sidecar of users"
USERS: Final = KindPolicy(1, "user-create", ("users",), delay_ms=500, backoff_base_ms=200, backoff_cap_ms=2_000)
ORDERS: Final = KindPolicy(2, "order", ("users",))
POLICY: Final = policy_of([USERS, ORDERS])
LATER_MS: Final = 3_600_000  # a session stored for so long is not due while the work goes on
STATES: Final = frozenset(state.name.lower() for state in SessionState)
_WORDS: Final = (AdminVerb.PAUSE, AdminVerb.RESUME, AdminVerb.PARK, AdminVerb.CANCEL, AdminVerb.DELETE)


@dataclass(slots=True)
class _Held:
    """A session that somebody writes."""

    id: SessionId
    writer: bytes
    epoch: int = 1
    seq: int = 0


class Work:
    """Does things to a pipe, one after the other. What it holds goes with its life: others are stored by the next."""

    def __init__(self, life: Life, chance: Random, first_request: int = 1) -> None:
        self._life = life
        self._chance = chance
        self._request = first_request
        self._held: list[_Held] = []
        self._waiting: list[SessionId] = []
        self._seen = 0
        life.sidecar(SIDECAR, sessions=1 << 20)

    @property
    def next_request(self) -> int:
        """The number of the next New."""
        return self._request

    def do(self, steps: int) -> None:
        """So many steps, each one batch or one word of an operator; time goes by in between."""
        for _ in range(steps):
            step = self._chance.choices(
                (self._new, self._write, self._end, self._refused, self._handle, self._word), (12, 30, 22, 6, 20, 8)
            )[0]
            step()
            self._life.pass_time(self._chance.randrange(40))
            self._life.heartbeat(SIDECAR, alive=CLIENTS)

    def _record(self) -> bytes:
        """No other is the same, and all can be packed."""
        return (b"%08x " % self._chance.getrandbits(32) * 100)[: self._chance.choice((0, 20, 60, 300, 900))]

    def _new(self) -> None:
        chance, writer, ops = self._chance, self._chance.choice(CLIENTS), []
        extras: list[Extra] = []
        for position in range(chance.randint(1, 4)):
            request, self._request = self._request, self._request + 1
            kind = chance.choice((USERS.id, USERS.id, ORDERS.id))
            ops.append(Op(Verb.NEW, request, argument=kind, record=None if chance.random() < 0.2 else self._record()))
            if chance.random() < 0.3:
                extras.append(Extra(position, f"key-{request}", f"line-{request % 3}", "v1", b"trace"))
        ack = self._life.batch(writer, ops, extras=extras)
        assert not ack.results
        self._held += [
            _Held(SessionId(1, ack.term, ack.first_index + position), writer) for position in range(len(ops))
        ]

    def _write(self) -> None:
        if not self._held:
            return
        held = self._chance.choice(self._held)
        ops = []
        for _ in range(self._chance.randint(1, 3)):
            held.seq += 1
            verb = self._chance.choices((Verb.APPEND, Verb.REPLACE, Verb.TOUCH), (6, 1, 1))[0]
            record = None if verb == Verb.TOUCH else self._record()
            ops.append(Op(verb, held.id.index, held.id.term, held.epoch, held.seq, record=record))
        assert not self._life.batch(held.writer, ops).results

    def _end(self) -> None:
        """Delete it, or store it: for now, or for later."""
        if len(self._held) < 4:
            return
        held = self._held.pop(self._chance.randrange(len(self._held)))
        ends = (Verb.DELETE, 0), (Verb.STORE, 20), (Verb.STORE, LATER_MS)
        verb, after_ms = self._chance.choices(ends, (3, 3, 4))[0]
        op = Op(verb, held.id.index, held.id.term, held.epoch, held.seq + 1, argument=after_ms)
        assert not self._life.batch(held.writer, [op]).results
        if after_ms == LATER_MS:
            self._waiting.append(held.id)

    def _refused(self) -> None:
        """What is answered with a refusal, and logged."""
        request, self._request = self._request, self._request + 1
        missing = Op(Verb.APPEND, 1, 1, 1, 1, record=b"to nothing")  # the first index is an opening's
        unknown = Op(Verb.NEW, request, argument=99, record=b"of no kind")
        assert len(self._life.batch(self._chance.choice(CLIENTS), [missing, unknown]).results) == 2

    def _handle(self) -> None:
        """A handler begins what was pushed, or its sidecar says how it ended."""
        pushed = [part for _, message in self._life.pushed if isinstance(message, Push) for part in message.sessions]
        if self._seen == len(pushed):
            return
        part = pushed[self._seen]
        self._seen += 1
        session = self._life.state.session(part.term, part.index)
        if session is None or session.state != SessionState.REPEATING or session.epoch != part.epoch:
            return
        held = _Held(SessionId(1, part.term, part.index), CLIENTS[1], part.epoch, session.seq)
        verb = self._chance.choices((Verb.APPEND, Verb.DELETE, Verb.FAIL, Verb.RELEASE, Verb.PARK), (4, 4, 3, 1, 1))[0]
        if verb in (Verb.APPEND, Verb.DELETE):
            held.seq = 1
            record = b"handled" if verb == Verb.APPEND else None
            ops = [Op(verb, part.index, part.term, part.epoch, held.seq, record=record)]
            assert not self._life.batch(held.writer, ops).results
        else:
            op = Op(verb, part.index, part.term, part.epoch, argument=LATER_MS, record=b"no good")
            assert not self._life.batch(SIDECAR, [op]).results

    def _word(self) -> None:
        """An operator pauses or resumes a kind, or parks, cancels or deletes a session that waits."""
        verb = self._chance.choice(_WORDS)
        if verb in (AdminVerb.PAUSE, AdminVerb.RESUME):
            self._say(Admin(verb, "somebody", "to see it", kind=ORDERS.id))
        elif self._waiting:
            id = self._waiting.pop(self._chance.randrange(len(self._waiting)))
            self._say(Admin(verb, "somebody", "to see it", sessions=(SessionKey(id.term, id.index),)))

    def _say(self, admin: Admin) -> None:
        life = self._life
        life.pipe.say(admin, life.now_ms, lambda _: None)
        life.work()
