"""Pushing: which sidecar gets which session, and what travels over the pipe's dials. Without sockets.

A dial is one greeted connection to one sidecar incarnation. Nothing is pushed before its hello; the hello is
reconciled with what the log says that incarnation holds; pushes go against the credit it granted in this dial.
Losing a message costs nothing: without Accepted in time the pipe greets anew, and the next hello tells what came.
Source: semantics, "Pushing".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from mpy6a import limits
from mpy6a.errors import Code
from mpy6a.messages import (
    Accepted,
    AnyMessage,
    Error,
    Greeting,
    KindCredit,
    Message,
    MessageType,
    Push,
    RepeatPart,
    SessionEpoch,
    SidecarHello,
    Stop,
)
from mpy6a.model import Extra, Proposal, ProposalVerb
from mpy6a.pipe import Pipe
from mpy6a.session import REPEATING, Session
from mpy6a.sessions import Applied
from mpy6a.wire import encode

Read = Callable[[int, int], bytes]  # Log.read
PUSH_BYTES = limits.MIB  # records in one push message; a longer session travels in parts of this
_ATTEMPT_BYTES = 128 + limits.LABEL_BYTES_MAX + limits.TEXT_BYTES_MAX
_NO_EXTRA = Extra(0)
_NEVER_MS = 1 << 62


class Dial:
    """One greeted connection to a sidecar incarnation."""

    def __init__(self, incarnation: bytes, number: int, now_ms: int) -> None:
        self.incarnation = incarnation
        self.number = number
        self.greeted_ms = now_ms
        self.name = ""  # of the sidecar, from its hello; "" before it
        self.granted: dict[int, tuple[int, int]] = {}  # kind -> sessions, bytes: totals
        self.used: dict[int, tuple[int, int]] = {}  # pushed or reserved by a proposal
        self.pushed = 0  # number of the last push
        self.waiting: deque[tuple[int, int]] = deque()  # (number, ms) not accepted yet
        self.queue: list[RepeatPart] = []
        self.stops: list[SessionEpoch] = []

    def room(self, kind: int) -> int:
        """Sessions of the kind that may still be pushed; 0 once the granted bytes are used up."""
        sessions, size = self.granted.get(kind, (0, 0))
        used_sessions, used_size = self.used.get(kind, (0, 0))
        return sessions - used_sessions if used_size < size else 0

    def use(self, kind: int, sessions: int, size: int) -> None:
        """Count against the credit (or, with negative numbers, give a reservation back)."""
        before = self.used.get(kind, (0, 0))
        self.used[kind] = (before[0] + sessions, before[1] + size)


class Pusher:
    """The pushing side of a pipe. `outbox` holds (sidecar incarnation, packed message): yours to empty."""

    def __init__(self, pipe: Pipe, read: Read, sidecars: Mapping[str, str]) -> None:
        self.outbox: list[tuple[bytes, bytes]] = []
        self._pipe = pipe
        self._read = read
        self._sidecars = sidecars
        self._dials: dict[bytes, Dial] = {}
        self._names: dict[str, bytes] = {}  # sidecar -> incarnation of its last hello
        self._dial_number = 0
        self._reserved: dict[int, tuple[Dial, int, int]] = {}  # session -> dial, kind, bytes that its proposal holds
        self._turn = 0
        self.now_ms = 0  # of the last turn: breakers and rates count from it
        self._log_ms = 0  # of this turn, where a kind is paused
        self._more = False  # the last turn left what is ready and has room: its share of the frame was used up

    # ------------------------------------------------------------------ connections

    def probed(self, incarnation: bytes, now_ms: int) -> None:
        """A new connection to that incarnation stands: greet it."""
        if len(incarnation) != 16:
            self._pipe.count_dropped("probe")
            return
        self._dial_number += 1
        self._dials[incarnation] = dial = Dial(incarnation, self._dial_number, now_ms)
        pipe = self._pipe
        state = pipe.state
        greeting = Greeting(dial.number, state.term, state.policy.lease_ms, pipe.log_ms(now_ms), "")
        self._send(incarnation, greeting)

    def undeliverable(self, incarnation: bytes) -> None:
        """The connection is gone; what it held is settled by the next hello, or by the lease."""
        self._dials.pop(incarnation, None)

    def reroute(self, sidecars: Mapping[str, str]) -> dict[str, bytes]:
        """These are the pipe's sidecars from now on. Of those that are let go: the incarnation, whose sessions are
        released; its dial stands, so that it is told to stop, until `let_go`. One with another address is dialed anew,
        and keeps what it holds if the same process answers there."""
        leaving: dict[str, bytes] = {}
        for name, address in self._sidecars.items():
            incarnation = self._names.get(name)
            if incarnation is None or sidecars.get(name) == address:
                continue
            if name in sidecars:
                self._dials.pop(incarnation, None)
            else:
                del self._names[name]
                self._pipe.gone(incarnation)
                leaving[name] = incarnation
        self._sidecars = sidecars
        self._more = True  # what waited for a new route, or for a sidecar's, is due already
        return leaving

    def let_go(self, incarnation: bytes) -> bool:
        """Whether an incarnation that `reroute` named holds nothing any more: then its dial is gone."""
        dial = self._dials.get(incarnation)
        if self._pipe.state.sessions.held(incarnation):
            self._pipe.gone(incarnation)  # what was void by a write of its handler's is judged anew
            return False
        if dial is not None and dial.stops:
            return False
        self._dials.pop(incarnation, None)
        return True

    def knows(self, incarnation: bytes) -> bool:
        """Whether a dial to that incarnation stands."""
        return incarnation in self._dials

    def receive(self, sender: Hashable, message: Message, value: AnyMessage, now_ms: int) -> bool:
        """Take a sidecar's hello or Accepted; False for anything else."""
        match value:
            case SidecarHello():
                self._hello(sender, message.incarnation, value, now_ms)
            case Accepted():
                dial = self._current(message.incarnation, value.dial, value.term)
                if dial is not None and dial.name:
                    self._pipe.hear_sidecar(dial.incarnation, now_ms)
                    while dial.waiting and dial.waiting[0][0] <= value.through:
                        dial.waiting.popleft()
                    self._grant(dial, value.credit)
            case _:
                return False
        return True

    def _current(self, incarnation: bytes, number: int, term: int) -> Dial | None:
        dial = self._dials.get(incarnation)
        if dial is None or dial.number != number or term != self._pipe.state.term:
            self._pipe.count_dropped("old_dial")
            return None
        return dial

    def _hello(self, sender: Hashable, incarnation: bytes, hello: SidecarHello, now_ms: int) -> None:
        dial = self._current(incarnation, hello.dial, hello.term)
        if dial is None:  # if it is not late: somebody greeted in this pipe's name, and has to be forgotten
            sentence = f"(term, dial) ({hello.term}, {hello.dial}) is no dial of this pipe"
            refusal = Error(Code.BAD_REQUEST, sentence, MessageType.SIDECAR_HELLO, hello.dial)
            self._pipe.reply(sender, incarnation, refusal)
            standing = self._dials.get(incarnation)
            if standing is not None and standing.name:  # else a greeting is on its way already
                self.probed(incarnation, now_ms)
            return
        if dial.name:
            return
        if hello.name not in self._sidecars:
            known = ", ".join(sorted(self._sidecars)) or "none"
            sentence = f"no sidecar {hello.name!r} in this pipe's `sidecars:`; known are: {known}"
            self._pipe.reply(sender, incarnation, Error(Code.DENIED, sentence[: limits.TEXT_BYTES_MAX]))
            self._pipe.count_dropped("unknown_sidecar")
            return
        before = self._names.get(hello.name)
        if before is not None and before != incarnation:
            self._pipe.gone(before)
            self._dials.pop(before, None)
        if before is None:  # the first one of this name since this process began: whoever held for it before is gone
            for target in self._pipe.state.sessions.targets():
                if target != incarnation and self._held_for(target, hello.name):
                    self._pipe.gone(target)
        self._names[hello.name] = incarnation
        self._pipe.hear_sidecar(incarnation, now_ms)
        dial.name = hello.name
        self._grant(dial, hello.credit)
        self._reconcile(dial, hello.held, now_ms)

    def _held_for(self, target: bytes, name: str) -> bool:
        """Whether that incarnation was dispatched to under this name: the log has it in every session it holds."""
        sessions = self._pipe.state.sessions
        held = sessions.at(next(iter(sessions.held(target)), 0))
        return held is not None and held.delivery is not None and held.delivery.sidecar == name

    def _reconcile(self, dial: Dial, listed: Iterable[SessionEpoch], now_ms: int) -> None:
        """What the log says it holds and it does not is pushed again; what it holds no longer by right is stopped."""
        sessions = self._pipe.state.sessions
        right = {(s.term, s.index, s.epoch) for s in map(sessions.at, sessions.held(dial.incarnation)) if s}
        held = {tuple(one) for one in listed}
        dial.stops.extend(SessionEpoch(*one) for one in sorted(held - right))
        for term, index, _ in sorted(right - held):
            session = sessions.find(term, index)
            assert session is not None
            dial.use(session.kind, 1, session.size)
            self._push(dial, session, now_ms)

    def _grant(self, dial: Dial, credit: Iterable[KindCredit]) -> None:
        for kind, sessions, size in credit:
            # Of kinds that are in no route too: a reload may bring them, and the credit is not told again.
            if kind in dial.granted or len(dial.granted) < limits.KINDS_MAX:
                dial.granted[kind] = (sessions, size)  # the latest word: a lower total takes back what is not used yet

    # ------------------------------------------------------------------ pushing

    def applied(self, applied: Applied, now_ms: int) -> None:
        """Push what a frame dispatched; tell targets whose epoch others ended; free the credit of void proposals."""
        pacing = self._pipe.pacing
        for session in applied.dispatched:
            self._reserved.pop(session.index, None)
            pacing.settled(session.kind, session.index, void=False)
            assert session.delivery is not None
            dial = self._dials.get(session.delivery.target)
            if dial is not None and dial.name:
                self._push(dial, session, now_ms)
        for proposal in applied.void:
            reserved = self._reserved.pop(proposal.index, None)
            if reserved is not None:
                held_by, kind, size = reserved
                held_by.use(kind, -1, -size)
                pacing.settled(kind, proposal.index, void=True)
        for term, index, epoch, target, code in applied.ended:
            dial = self._dials.get(target)
            if code == Code.FENCED and dial is not None:
                dial.stops.append(SessionEpoch(term, index, epoch))

    def turn(self, now_ms: int) -> None:
        """Propose dispatches for what is ready and has room; kinds take turns. Then flush what is to be sent."""
        pipe = self._pipe
        self.now_ms = now_ms
        kinds = pipe.due.ready_kinds() if pipe.disk_level < 2 else []
        self._log_ms = pipe.log_ms(now_ms) if pipe.state.paused_kinds else 0
        proposals: list[Proposal] = []
        sweeping = pipe.due.woken = False
        for kind in kinds:
            self._note_away(kind, now_ms)
        kinds = [kind for kind in kinds if self._could(kind, now_ms)]  # the others take no share
        for place in range(len(kinds)):
            kind = kinds[(place + self._turn) % len(kinds)]
            pipe.due.is_sweeping = False
            left = limits.DISPATCHES_MAX - len(proposals)
            if not left:
                break
            proposals.extend(self._dispatch(kind, max(1, left // (len(kinds) - place)), now_ms))
            sweeping |= pipe.due.is_sweeping
        self._turn += 1
        self._more = sweeping or (len(proposals) > 0 and any(self._could(kind, now_ms) for kind in kinds))
        if proposals:
            pipe.propose(proposals, now_ms)
        self._overdue(now_ms)
        self.flush()

    def _dispatch(self, kind: int, most: int, now_ms: int) -> list[Proposal]:
        policy, pacing = self._pipe.state.policy.kinds.get(kind), self._pipe.pacing
        if policy is None or self._pipe.is_kind_paused(kind, self._log_ms):
            return []
        connected = self._connected(policy.sidecars)
        room = {dial: left for dial in connected if (left := dial.room(kind)) > 0}
        proposals: list[Proposal] = []
        dial = next(iter(room), None)
        for session in self._pipe.due.take(kind, min(most, sum(room.values()), pacing.room(policy, now_ms))):
            if len(room) > 1:
                dial = max(room, key=lambda one: (room[one], one.number))
                room[dial] -= 1
            assert dial is not None, "there is room"
            dial.use(kind, 1, session.size)
            pacing.took(policy, session.index, now_ms)
            self._reserved[session.index] = (dial, kind, session.size)
            proposals.append(
                Proposal(
                    ProposalVerb.DISPATCH,
                    session.term,
                    session.index,
                    session.epoch,
                    session.change,
                    target=dial.incarnation,
                    sidecar=dial.name,
                )
            )
        return proposals

    def _note_away(self, kind: int, now_ms: int) -> None:
        """Sessions of the kind are due: whether anybody is there for them."""
        policy, pacing = self._pipe.state.policy.kinds.get(kind), self._pipe.pacing
        if policy is None:
            return
        if self._connected(policy.sidecars):
            pacing.back(kind, now_ms)
        else:
            pacing.away(kind, now_ms)

    def _could(self, kind: int, now_ms: int) -> bool:
        policy = self._pipe.state.policy.kinds.get(kind)
        return (
            policy is not None
            and not self._pipe.is_kind_paused(kind, self._log_ms)
            and self._pipe.due.ready(kind) > 0
            and self._pipe.pacing.room(policy, now_ms) > 0
            and self.has_room(policy.sidecars, kind)
        )

    def _connected(self, sidecars: Iterable[str]) -> list[Dial]:
        dials = ((name, self._dials.get(self._names.get(name, b""))) for name in sidecars)
        heard = self._pipe.is_heard  # a dial may stand for a machine that lost its power: ask the lease too
        return [dial for name, dial in dials if dial is not None and dial.name == name and heard(dial.incarnation)]

    def connected(self, sidecars: Iterable[str]) -> list[str]:
        """Those of the named sidecars that said hello on a dial that stands."""
        return [dial.name for dial in self._connected(sidecars)]

    def has_room(self, sidecars: Iterable[str], kind: int) -> bool:
        """Whether any of them granted credit for the kind that is not used up."""
        return any(dial.room(kind) > 0 for dial in self._connected(sidecars))

    def _overdue(self, now_ms: int) -> None:
        """A dial that does not answer its greeting, or does not accept in time, is greeted anew."""
        for dial in list(self._dials.values()):
            since = dial.waiting[0][1] if dial.name and dial.waiting else now_ms if dial.name else dial.greeted_ms
            if now_ms - since >= limits.ACCEPT_TIMEOUT_MS:
                self._pipe.count_dropped("dial_timeout")
                self.probed(dial.incarnation, now_ms)

    def look_again(self) -> None:
        """Something that kept ready sessions back is gone: have the next turn come at once."""
        self._more = True

    def deadline(self, now_ms: int) -> int | None:
        """Monotonic time at which `turn` has to be called next for what is not answered."""
        if self._more or self._pipe.due.woken:
            return now_ms
        ends_ms = min(self._pause_ends_ms(now_ms), self._paced_ms(now_ms))
        since = [
            dial.waiting[0][1] if dial.waiting else dial.greeted_ms
            for dial in self._dials.values()
            if dial.waiting or not dial.name
        ]
        if since:
            ends_ms = min(ends_ms, min(since) + limits.ACCEPT_TIMEOUT_MS)
        return ends_ms if ends_ms < _NEVER_MS else None

    def _pause_ends_ms(self, now_ms: int) -> int:
        """Monotonic time at which a pause that holds back something is over by itself."""
        pipe, ends_ms = self._pipe, _NEVER_MS
        for kind, (until_ms, _, _) in pipe.state.paused_kinds.items():
            ahead_ms = until_ms - pipe.log_ms(now_ms)
            if until_ms and ahead_ms > 0 and pipe.due.ready(kind):
                ends_ms = min(ends_ms, now_ms + ahead_ms)
        return ends_ms

    def _paced_ms(self, now_ms: int) -> int:
        """Monotonic time at which a rate or a breaker lets go of something that is ready."""
        pipe, ends_ms = self._pipe, _NEVER_MS
        for kind in pipe.pacing.timed():
            policy = pipe.state.policy.kinds.get(kind)
            next_ms = pipe.pacing.next_ms(policy, now_ms) if policy is not None and pipe.due.ready(kind) else None
            if next_ms is not None:
                ends_ms = min(ends_ms, next_ms)
        return ends_ms

    def _push(self, dial: Dial, session: Session, now_ms: int) -> None:
        assert session.state == REPEATING
        dial.pushed += 1
        dial.waiting.append((dial.pushed, now_ms))
        dial.queue.extend(self.parts(session, dial.pushed))

    def parts(self, session: Session, number: int = 0) -> list[RepeatPart]:
        """RepeatData of a session, its records read from the log, in parts of at most one message."""
        delivery, extra = session.delivery, session.extra or _NO_EXTRA
        records = self._pipe.state.sessions.records(session, self._read)
        pages = [records] if session.size <= PUSH_BYTES else _pages(records)
        return [
            RepeatPart(
                session.term,
                session.index,
                session.epoch,
                session.fence,
                session.kind,
                number,
                session.created_ms,
                delivery.repeats if delivery else 0,
                part,
                len(pages),
                delivery.cancel if delivery else False,
                tuple(page),
                delivery.attempts if delivery and part == 0 else (),
                extra.key,
                extra.order_key,
                extra.schema,
                extra.trace,
            )
            for part, page in enumerate(pages)
        ]

    def flush(self) -> None:
        """Pack queued parts and stops into messages."""
        term = self._pipe.state.term
        for dial in self._dials.values():
            if dial.stops:
                stops, dial.stops = dial.stops, []
                for start in range(0, len(stops), limits.HELD_SESSIONS_MAX):
                    page = tuple(stops[start : start + limits.HELD_SESSIONS_MAX])
                    self._send(dial.incarnation, Stop(dial.number, term, Code.FENCED, page))
            queue, dial.queue = dial.queue, []
            first = 0
            while first < len(queue):
                end, size = first, 0
                most = min(len(queue), first + limits.PUSH_SESSIONS_MAX)
                while end < most and size <= PUSH_BYTES:
                    size += _weight(queue[end])
                    end += 1
                self._send(dial.incarnation, Push(dial.number, term, dial.incarnation, tuple(queue[first:end])))
                first = end

    def _send(self, incarnation: bytes, value: AnyMessage) -> None:
        packed = encode(value, incarnation=self._pipe.incarnation, pipe=self._pipe.state.pipe)
        self.outbox.append((incarnation, packed))

    def status(self) -> list[dict[str, object]]:
        """What is known of each sidecar of the config, for operators."""
        facts: list[dict[str, object]] = []
        for name, address in self._sidecars.items():
            dial = self._dials.get(self._names.get(name, b""))
            live = dial is not None and dial.name == name
            held = len(self._pipe.state.sessions.held(dial.incarnation)) if live and dial else 0
            kinds = self._pipe.state.policy.kinds
            credit = {str(kind): dial.room(kind) for kind in dial.granted if kind in kinds} if live and dial else {}
            facts.append({"name": name, "address": address, "connected": live, "held": held, "credit": credit})
        return facts


def _pages(records: Sequence[bytes]) -> list[list[bytes]]:
    """The records in pages of at most PUSH_BYTES, or of one record."""
    pages: list[list[bytes]] = [[]]
    size = 0
    for record in records:
        if pages[-1] and size + len(record) > PUSH_BYTES:
            pages.append([])
            size = 0
        pages[-1].append(record)
        size += len(record)
    return pages


def _weight(part: RepeatPart) -> int:
    """An upper bound of the part's bytes in a message."""
    attempts, records = part.attempts, part.records
    size = 2 * limits.KIB + 16 * len(records) + sum(map(len, records))
    return size + len(attempts) * _ATTEMPT_BYTES if attempts else size
