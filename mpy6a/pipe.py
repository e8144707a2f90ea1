"""The pipe without sockets, files or clocks: messages and time in, frames to log and messages to send out.

    receive(sender, message, now) --.                        .--> outbox: acks, welcomes, errors
    tick(now), propose(...)         +--> group() --> log --> committed(frames)
    say(admin, done)  --------------'                        '--> Applied, for whoever pushes

Nothing is answered before the log returned its frame as committed. Time is an argument: `now_ms` is monotonic; log
time is the last logged one plus what went by since (semantics, "Two clocks").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from mpy6a import limits
from mpy6a.due import Due
from mpy6a.entries import Admin, Opening, encode_admin, encode_opening, encode_policy, encode_proposals
from mpy6a.errors import Code, Malformed
from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.messages import (
    Ack,
    AnyMessage,
    Error,
    Heartbeat,
    Hello,
    Message,
    MessageType,
    Pong,
    Role,
    Welcome,
)
from mpy6a.model import NOBODY, AdminVerb, Cause, Proposal, ProposalVerb, Result, SessionId, SessionState, Verb
from mpy6a.pacing import Pacing
from mpy6a.policy import Policy
from mpy6a.refusals import Refusals
from mpy6a.sessions import Applied
from mpy6a.state import LEVEL, OK, PLAIN_LEVEL, UNCHARGED, VERDICT, State
from mpy6a.welcome import PROTOCOL_VERSION, welcome
from mpy6a.wire import RowBatch, batch_number, decode, decode_rows, encode, null_refused

Authorise = Callable[[int, int], bool]  # (principal, kind) -> may it make sessions of that kind
Done = Callable[[Applied], None]

NEW: Final = int(Verb.NEW)
APPEND: Final = int(Verb.APPEND)
REPLACE: Final = int(Verb.REPLACE)
FAIL: Final = int(Verb.FAIL)
LAPSE_CHECK_MS: Final = 1_000  # how late a lapsed lease may be noticed; a scan of 65,536 clients costs 3 ms


class Pipe:
    """One pipe. Own it from one thread; `outbox` is yours to empty."""

    def __init__(
        self,
        state: State,
        incarnation: bytes,
        *,
        durable: bool = True,
        authorise: Authorise | None = None,
    ) -> None:
        self.state = state
        self.incarnation = incarnation
        self.durable = durable
        self.disk_level = 0  # 1: New is refused; 2: whatever grows too, and dispatches
        self.disk_cause = ""  # of a level above 0, for people
        self.disk_reserve = False  # the log is down to its reserve: short groups, and no Replace either
        self.disk_spent = False  # and the reserve is used up: nothing is to be logged
        self.behind = False  # the checkpoint cannot follow: batches wait
        self.outbox: list[tuple[Hashable, bytes]] = []
        self.due = Due(state)
        self.dropped: dict[str, int] = {}  # messages not taken, by reason
        self.refusals = Refusals()
        self.greeted: dict[bytes, Hashable] = {}  # incarnation -> where its hello came from: told of new routes
        self.policy_body = b""  # of the last POLICY frame that is committed or opens the term
        self._skipping: set[int] = set()  # kinds whose orders skip what is parked
        self._coming: Policy | None = None  # queued: in force for all that is queued behind it
        self.pacing = Pacing(state)
        self._authorise = authorise
        self._frames: list[Frame] = []
        self._bytes = 0
        self._next_index = 1
        self._in_flight: deque[tuple[Frame, Hashable | None, int, Done | None]] = deque()
        self._heard: dict[bytes, int] = {}  # incarnation -> monotonic ms
        self._heard_by: dict[bytes, bytes] = {}  # client -> the sidecar that said so last
        self._dead: dict[bytes, None] = {}  # said goodbye or known dead, oldest first
        self._gone: deque[bytes] = deque()  # whose sessions are to be stored or released, slice by slice
        self._log_ahead_ms = 0  # log time - monotonic time
        self._wall_ahead_ms = 0  # wall clock at opening - monotonic time
        self._lapse_check_ms = 0
        self._turn_ms = 0  # monotonic time of this turn

    # ------------------------------------------------------------------ opening

    def open(self, policy: Policy, now_ms: int, wall_ms: int, release: str = "", node: str = "") -> None:
        """Begin a new term after the log was replayed: an OPENING and a POLICY frame are the first to be logged.

        Log time is set forward once to the wall clock, never back, and not over a leap beyond CLOCK_LEAP_MAX_MS.
        Whoever owned or held something gets one full lease from here.
        """
        state = self.state
        leap = wall_ms - state.log_ms
        start_ms = max(state.log_ms, 1)
        accepted = wall_ms - state.clock_accepted_ms <= limits.CLOCK_LEAP_MAX_MS
        self.due.clock_held = state.next_index > 1 and leap > limits.CLOCK_LEAP_MAX_MS and not accepted
        if leap > 0 and not self.due.clock_held:
            start_ms = wall_ms
        self._log_ahead_ms = start_ms - now_ms
        self._wall_ahead_ms = wall_ms - now_ms
        self._next_index = state.next_index
        opening = Opening(max(wall_ms, 0), NOBODY, state.term + 1, state.pipe, LEVEL, release, node)
        self._log(FrameType.OPENING, encode_opening(opening), 1, now_ms, term=opening.term)
        self.policy_body = encode_policy(policy)
        self._log(FrameType.POLICY, self.policy_body, 1, now_ms, term=opening.term)
        for incarnation in (*state.sessions.writers(), *state.sessions.targets()):
            self._heard[incarnation] = now_ms
        self._lapse_check_ms = now_ms
        self.due.open(self.log_ms(now_ms))

    def reload(self, policy: Policy, body: bytes, now_ms: int, done: Done) -> None:
        """Log another policy, in force from there; `body` is `encode_policy(policy)`. `done` once it is committed."""
        self._coming = policy
        self._log(FrameType.POLICY, body, 1, now_ms, done=done, decoded=policy)

    def accept_clock(self, who: str, now_ms: int, done: Done) -> None:
        """The operator says that the wall clock is right: logged; then log time is set forward, dispatch goes on."""

        def accepted(applied: Applied) -> None:
            self._log_ahead_ms = max(self._log_ahead_ms, self._wall_ahead_ms)
            self.due.clock_held = False
            self.due.woken = True
            done(applied)

        self.say(Admin(AdminVerb.CLOCK_ACCEPT, who, until_ms=now_ms + self._wall_ahead_ms), now_ms, accepted)

    def id_text(self, index: int) -> str:
        """The id of the live session that has that index."""
        sessions = self.state.sessions
        session = sessions.at(index)
        if session is None:
            assert sessions.source is not None, "a live session is in memory or in the file"
            session = sessions.source.load(index)
        return str(SessionId(self.state.pipe, session.term, index))

    def log_ms(self, now_ms: int) -> int:
        """Log time at a monotonic time."""
        return max(self.state.log_ms, now_ms + self._log_ahead_ms)

    # ------------------------------------------------------------------ what comes in

    def receive(
        self, sender: Hashable, message: Message, now_ms: int, principal: int = 0, role: Role = Role.PIPE
    ) -> AnyMessage | None:
        """Take one packed message. What is not for the pipe's core (pushes, operators) comes back decoded.

        Bad input costs its sender an error and nobody else anything; never raises for it.
        """
        try:
            if message.type == MessageType.BATCH:
                self._batch(sender, message, now_ms, principal or message.principal)
                return None
            value = decode(message)
        except Malformed as problem:
            self.drop(sender, message, Code.MALFORMED, str(problem))
            return None
        incarnation = message.incarnation
        match message.type:
            case MessageType.HELLO:
                assert isinstance(value, Hello)
                if not value.version_low <= PROTOCOL_VERSION <= value.version_high:
                    theirs = f"{value.version_low} to {value.version_high}"
                    self.drop(sender, message, Code.VERSION, f"this pipe speaks {PROTOCOL_VERSION}, not {theirs}")
                    return None
                if role == Role.PIPE:
                    self._alive(incarnation, now_ms)
                    if incarnation in self._heard:
                        self.greeted[incarnation] = sender
                self.reply(sender, incarnation, self.welcome(now_ms, role))
            case MessageType.HEARTBEAT:
                assert isinstance(value, Heartbeat)
                self._alive(incarnation, now_ms)
                for alive in value.alive:
                    if alive in self._heard or alive in self._dead or self.state.sessions.owns(alive):
                        self._alive(alive, now_ms, incarnation)
                for gone in value.gone:
                    if self._heard_by.get(gone, incarnation) == incarnation:  # else it moved to another sidecar
                        self.gone(gone)
                self.reply(sender, incarnation, Pong(self.log_ms(now_ms), self.state.term))
            case MessageType.GOODBYE:
                self.gone(incarnation)
            case _:
                self._hear(incarnation, now_ms)
                return value
        return None

    def welcome(self, now_ms: int, role: Role = Role.PIPE) -> Welcome:
        """What a hello is answered with."""
        state = self.state
        return welcome(state.policy, state.pipe, state.term, self.log_ms(now_ms), self.incarnation, role)

    def _alive(self, incarnation: bytes, now_ms: int, by: bytes = b"") -> None:
        """Its own word, or that of a sidecar that hears it: one that was only silent too long is no longer dead."""
        self._dead.pop(incarnation, None)
        self._hear(incarnation, now_ms)
        if incarnation in self._heard:
            self._heard_by[incarnation] = by or incarnation

    def hear_sidecar(self, incarnation: bytes, now_ms: int) -> None:
        """A sidecar that the config names said hello: its lease runs, however many clients are heard."""
        self._dead.pop(incarnation, None)
        self._heard[incarnation] = now_ms

    def is_kind_paused(self, kind: int, log_ms: int) -> bool:
        """Whether an operator holds the kind back at that log time; a pause with an end is over by itself."""
        pause = self.state.paused_kinds.get(kind)
        return pause is not None and (not pause[0] or pause[0] > log_ms)

    def _hear(self, incarnation: bytes, now_ms: int) -> None:
        if incarnation in self._heard or len(self._heard) < limits.CLIENTS_MAX:
            self._heard[incarnation] = now_ms

    def gone(self, incarnation: bytes) -> None:
        """A fact about an incarnation: it is dead, and what it owns or will turn out to own waits for nobody."""
        self._forget(incarnation)
        self._dead[incarnation] = None
        if len(self._dead) > limits.CLIENTS_MAX:
            del self._dead[next(iter(self._dead))]
        self._gone.append(incarnation)

    def _forget(self, incarnation: bytes) -> None:
        for known in (self._heard, self._heard_by, self.greeted):
            known.pop(incarnation, None)

    def is_heard(self, incarnation: bytes) -> bool:
        """Whether the incarnation's lease runs."""
        return incarnation in self._heard

    def _batch(self, sender: Hashable, message: Message, now_ms: int, principal: int) -> None:
        if message.pipe != self.state.pipe:
            self.drop(sender, message, Code.WRONG_PIPE, f"this is pipe {self.state.pipe}, not {message.pipe}")
            return
        origin = message.incarnation
        if self.behind:
            text = "the checkpoint is behind the log: the disk or the machine is slower than what comes in"
            number = batch_number(message.body)
            self._hear(origin, now_ms)
            self.busy(sender, origin, number, now_ms, "behind", limits.CHECKPOINT_BEHIND_MS, text)
            return
        if self.disk_spent:
            text = "the pipe's disk is full and the log's reserve is used up: make room, it goes on by itself"
            self._hear(origin, now_ms)
            self.busy(sender, origin, batch_number(message.body), now_ms, "disk", limits.DISK_BUSY_MS, text)
            return
        if now_ms < self.refusals.held_until_ms:
            wait_ms = self.refusals.wait_ms(origin, now_ms)
            if wait_ms:
                self._hear(origin, now_ms)
                number = batch_number(message.body)
                text = "too many operations of this client were refused: mend what it sends, or wait, then send again"
                self.busy(sender, origin, number, now_ms, "refusals", wait_ms, text)
                return
        batch = decode_rows(message.body)
        made = [row[0] for row in batch.rows if row[4] == NEW] if len(batch.groups) < len(batch.rows) else ()
        if made and not self.state.requests.has_room(origin, batch.mark, made):
            text = "too many unanswered New are kept for this client: wait for answers, then send again"
            self.busy(sender, origin, batch.number, now_ms, "busy", 1_000, text)
            return
        self._hear(origin, now_ms)
        self._turn_ms = now_ms  # a lone operation is answered before the tick
        refused = self._refusals(batch, principal)
        flags, data, verdicts = FLAG_REENCODED if batch.reencoded else 0, batch.data, b""
        if refused:
            data, flags = null_refused(batch, refused), FLAG_REENCODED
            verdicts = b"".join(VERDICT.pack(position, code, 0) for position, code in refused.items())
            batch = decode_rows(data, nulled=True)
        level = PLAIN_LEVEL
        uncharged = self._uncharged(batch) if self.pacing.open_kinds else ()
        if uncharged:
            level = LEVEL
            rows = {position: (code, 0) for position, code in refused.items()}
            rows |= {position: (0, UNCHARGED) for position in uncharged if position not in refused}
            verdicts = b"".join(VERDICT.pack(position, *rows[position]) for position in sorted(rows))
        frame = Frame(
            FrameType.BATCH,
            flags,
            level,
            self.state.term,
            self._next_index,
            len(batch.rows),
            self.log_ms(now_ms),
            principal,
            origin,
            data,
            verdicts,
            decoded=batch,
        )
        self._queue(frame, sender, batch.number)

    def _refusals(self, batch: RowBatch, principal: int) -> dict[int, int]:
        """What is decided before the log and rides in the frame: routes, limits, rights, disk."""
        policy, level = self._coming or self.state.policy, self.disk_level
        kinds, record_bytes_max, authorise = policy.kinds, policy.record_bytes_max, self._authorise
        refused: dict[int, int] = {}
        for position, row in enumerate(batch.rows):
            verb, length = row[4], row[7]
            if verb == NEW:
                if row[5] not in kinds:
                    refused[position] = Code.UNKNOWN_KIND
                elif authorise is not None and not authorise(principal, row[5]):
                    refused[position] = Code.DENIED
                elif level:
                    refused[position] = Code.DISK_LOW
            elif level > 1 and (verb == APPEND or (verb == REPLACE and self._grows(row[0], row[3], length))):
                refused[position] = Code.DISK_LOW
            if length > record_bytes_max and verb <= REPLACE and position not in refused:  # an ending's is its message
                refused[position] = Code.TOO_LARGE
        return refused

    def _uncharged(self, batch: RowBatch) -> list[int]:
        """Positions of failures of kinds whose breaker is open: what runs is in memory, so its kind is known."""
        open_kinds, at = self.pacing.open_kinds, self.state.sessions.at
        found: list[int] = []
        for position, row in enumerate(batch.rows):
            if row[4] == FAIL:
                session = at(row[0])
                if session is not None and session.kind in open_kinds:
                    found.append(position)
        return found

    def _grows(self, index: int, term: int, length: int) -> bool:
        """Whether a Replace brings more than its session holds. Down to its reserve the log takes none: that is for
        what ends sessions. The answer rides in the frame, so the state may be asked as it is now; a session that is
        not in memory has no writer, and `apply` says so whatever rides."""
        session = None if self.disk_reserve else self.state.sessions.at(index)
        return session is None or session.term != term or length > session.size

    # ------------------------------------------------------------------ what goes out

    def reply(self, sender: Hashable, incarnation: bytes, value: AnyMessage) -> None:
        """Queue one message for whoever sent something."""
        self.outbox.append((sender, encode(value, incarnation=incarnation, pipe=self.state.pipe)))

    def drop(self, sender: Hashable, message: Message, code: Code, sentence: str) -> None:
        """Count a message that was not taken, and tell its sender why."""
        self.count_dropped(code.name.lower())
        self.reply(sender, message.incarnation, Error(code, sentence[: limits.TEXT_BYTES_MAX], type=message.type))

    def count_dropped(self, reason: str) -> None:
        """Count input that was not taken."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def busy(
        self, sender: Hashable, origin: bytes, number: int, now_ms: int, reason: str, retry_ms: int, text: str
    ) -> None:
        """Answer a batch before the log: nothing of it was logged, it may be sent again as it is."""
        self.count_dropped(reason)
        ack = Ack(number, log_ms=self.log_ms(now_ms), code=Code.BUSY, retry_after_ms=retry_ms, message=text)
        self.reply(sender, origin, ack)

    # ------------------------------------------------------------------ what is to be logged

    @property
    def full(self) -> bool:
        """Whether one write and one sync have enough: take no more in before they are done."""
        most = limits.DISK_GROUP_BYTES if self.disk_reserve else limits.GROUP_BYTES_MAX
        return self._bytes >= most or len(self._frames) >= limits.GROUP_FRAMES_MAX

    @property
    def is_opening(self) -> bool:
        """Whether the opening of this term is not committed yet: nothing else may be proposed."""
        return bool(self._in_flight) and self._in_flight[0][0].type == FrameType.OPENING

    @property
    def is_lone(self) -> bool:
        """Whether all there is to be logged is one operation: its writer waits for the answer and asks again then."""
        frames = self._frames
        return len(frames) == 1 and frames[0].count == 1 and frames[0].type == FrameType.BATCH

    def group(self) -> list[Frame]:
        """Take out what is to be logged now, as one group."""
        frames, self._frames, self._bytes = self._frames, [], 0
        return frames

    def propose(self, proposals: Sequence[Proposal], now_ms: int) -> None:
        """Have the log decide about sessions; at most one proposal a session is in flight."""
        for proposal in proposals:
            self.due.proposed.add(proposal.index)
        self._log(FrameType.PROPOSALS, encode_proposals(proposals), len(proposals), now_ms)

    def say(self, admin: Admin, now_ms: int, done: Done) -> None:
        """Log an operator's word; `done` is called with what came of it once it is committed and applied."""
        level = LEVEL if admin.sessions and admin.until_ms else PLAIN_LEVEL
        self._log(FrameType.ADMIN, encode_admin(admin), max(1, len(admin.sessions)), now_ms, done=done, level=level)

    def _log(
        self, kind: FrameType, body: bytes, count: int, now_ms: int, *, term: int = 0, done: Done | None = None,
        level: int = PLAIN_LEVEL, decoded: object = None,
    ) -> None:
        log_ms, index = self.log_ms(now_ms), self._next_index
        frame = Frame(
            kind, 0, level, term or self.state.term, index, count, log_ms, 0, NOBODY, body, b"", decoded=decoded
        )
        self._queue(frame, None, 0, done)

    def _queue(self, frame: Frame, sender: Hashable | None, number: int, done: Done | None = None) -> None:
        self._next_index += frame.count
        self._bytes += len(frame.batch)
        self._frames.append(frame)
        self._in_flight.append((frame, sender, number, done))

    # ------------------------------------------------------------------ what is committed

    def committed(self, frames: Sequence[Frame]) -> list[Applied]:
        """Apply what the log returned, answer it, and say what came of it."""
        return [self._committed(frame) for frame in frames]

    def _committed(self, frame: Frame) -> Applied:
        expected, sender, number, done = self._in_flight.popleft()
        assert expected.first_index == frame.first_index, "the log returned frames out of order"
        if self.state.sessions.filed.count and isinstance(frame.decoded, RowBatch):
            self.state.sessions.prefetch(index for _, index in frame.decoded.groups)
        applied = self.state.apply(frame)
        for of_kind, index, outcome, message in applied.runs:
            kind = self.state.policy.kinds.get(of_kind)
            if kind is not None:
                self.pacing.ended(kind, index, outcome, message, self._turn_ms)
                if self.pacing.is_bounded(kind):
                    self.due.woken = True
        due = self.due
        if self.state.sessions.orders.moved:
            due.reorder()
        if frame.decoded is self._coming:
            self._coming = None
        if self.state.sessions.loaded:
            due.arm_loaded()
        for session in applied.timers:
            due.arm(session)
        if frame.type == FrameType.PROPOSALS:
            due.settle(frame, applied)
            for proposal in applied.void:  # what a death was the cause of is judged anew on the new change
                by_death = proposal.verb in (ProposalVerb.OWNER_GONE, ProposalVerb.RELEASE)
                if by_death and proposal.target not in self._heard and proposal.target not in self._gone:
                    self._gone.append(proposal.target)
        elif frame.type == FrameType.POLICY:
            self.pacing.reload(self._turn_ms)
            due.woken = True
            skipping = {kind.id for kind in self.state.policy.kinds.values() if kind.order_skips_parked}
            if skipping - self._skipping:
                due.judge_anew(skipping - self._skipping)
            self._skipping = skipping
        if sender is not None:
            self._ack(frame, sender, number, applied)
            if self._dead and frame.origin in self._dead:
                self._gone.append(frame.origin)
        if done is not None:
            done(applied)
        frame.decoded = None
        return applied

    def _ack(self, frame: Frame, sender: Hashable, number: int, applied: Applied) -> None:
        results = tuple(applied.results)
        if results:
            refused = sum(result.code != OK for result in results)
            if refused:
                self.refusals.count(frame.origin, refused, self._turn_ms)
        if frame.verdicts:
            results = tuple(self._explained(result, frame) for result in results)
        ack = Ack(
            number, frame.first_index, frame.log_ms, self.state.term, 0, Code.OK, self.durable, results
        )
        self.reply(sender, frame.origin, ack)

    def _explained(self, result: Result, frame: Frame) -> Result:
        if result.code != Code.UNKNOWN_KIND or not isinstance(frame.decoded, RowBatch):
            return result
        kind = frame.decoded.rows[result.position][5]
        known = ", ".join(f"{k.name} ({k.id})" for k in list(self.state.policy.kinds.values())[:8])
        return result._replace(message=f"no route names kind {kind}; known are: {known}"[: limits.TEXT_BYTES_MAX])

    # ------------------------------------------------------------------ time

    def tick(self, now_ms: int) -> None:
        """Propose what time has brought: due limits, lapsed leases, what dead incarnations leave behind."""
        self._turn_ms = now_ms
        if now_ms - self._lapse_check_ms >= LAPSE_CHECK_MS:
            late_ms = now_ms - self._lapse_check_ms - LAPSE_CHECK_MS
            if late_ms > self.state.policy.lease_ms // 6:  # this process stood still: what was said is not read yet
                self._heard = {incarnation: heard_ms + late_ms for incarnation, heard_ms in self._heard.items()}
            self._lapse_check_ms = now_ms
            before = now_ms - self.state.policy.lease_ms
            for incarnation in [i for i, heard_ms in self._heard.items() if heard_ms < before]:
                self._forget(incarnation)
                self._gone.append(incarnation)
        if self.disk_spent:
            return
        proposals = self.due.expired(self.log_ms(now_ms), limits.PROPOSALS_MAX)
        if self.pacing.open_kinds:
            proposals = list(map(self._forgiven, proposals))
        while self._gone and len(proposals) < limits.PROPOSALS_MAX:
            more = self._left_behind(self._gone[0], limits.PROPOSALS_MAX - len(proposals))
            proposals.extend(more)
            if len(proposals) < limits.PROPOSALS_MAX:
                self._gone.popleft()
        if proposals:
            self.propose(proposals, now_ms)

    def _forgiven(self, proposal: Proposal) -> Proposal:
        """While its kind's breaker is open, a run that fell silent is not charged."""
        session = self.state.sessions.at(proposal.index)
        if proposal.cause != Cause.SILENCE or session is None or session.kind not in self.pacing.open_kinds:
            return proposal
        return proposal._replace(verb=ProposalVerb.FAIL, reason="silence limit")

    def _left_behind(self, incarnation: bytes, most: int) -> list[Proposal]:
        sessions = self.state.sessions
        proposals: list[Proposal] = []
        for index in (*sessions.owned(incarnation), *sessions.held(incarnation)):
            if len(proposals) == most:
                break
            session = sessions.at(index)
            if session is None or index in self.due.proposed:
                continue
            owned = session.state == SessionState.OPEN
            verb = ProposalVerb.OWNER_GONE if owned else ProposalVerb.RELEASE
            cause, reason = (Cause.OWNER_GONE, "") if owned else (Cause.SIDECAR_LOST, "sidecar lost")
            decided_on = session.term, index, session.epoch, session.change
            proposals.append(Proposal(verb, *decided_on, cause, target=incarnation, reason=reason))
        return proposals

    def deadline(self, now_ms: int) -> int:
        """Monotonic time at which `tick` has to be called next, whatever comes in before."""
        deadline = self._lapse_check_ms + LAPSE_CHECK_MS
        if self.disk_spent and not self._frames:
            return max(deadline, now_ms)
        if self._gone or self._frames:
            return now_ms
        due_ms = self.due.next_ms()
        if due_ms is not None:
            deadline = min(deadline, due_ms - self._log_ahead_ms)
        return max(deadline, now_ms)
