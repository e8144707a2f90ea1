"""One pipe, one sidecar and their clients' lines, in memory and in step: nothing here waits, and time is told.

`pump` carries messages until nobody has anything more to say. The pipe's core, its log contract, the pusher and the
sidecar's agent are the real ones; this stands where sockets, segment files and poll loops stand otherwise.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Final, Protocol

from mpy6a.entries import Admin, SessionKey
from mpy6a.errors import Code
from mpy6a.log.memory import MemoryLog
from mpy6a.model import AdminVerb, SessionId, SessionState
from mpy6a.pipe import Pipe
from mpy6a.policy import Policy
from mpy6a.push import Pusher
from mpy6a.session import OPEN, PARKED, Session
from mpy6a.state import State
from mpy6a.testing.kinds import SIDECAR
from mpy6a.why import why
from mpy6a.wire import unpack

try:
    from sidecar.agent import Agent
    from sidecar.runs import Stage
    from sidecar.values import AgentSetup, Effect, Ended, KindSetup, RunKey, SendPipe, SendService, Told
except ImportError as problem:
    raise ImportError(
        "the `sidecar` that Python finds is not mpy6a's: a foreign package of that name is installed; remove it"
    ) from problem

_log: Final = logging.getLogger("mpy6a.testing")

NUMBER: Final = 1  # of the pipe
START_MS: Final = 1_000  # monotonic time at which a world begins
START_WALL_MS: Final = 1_800_000_000_000  # a fixed day: ids, draws and times are the same in every run
AGENT: Final = b"embedded sidecar"
PIPE: Final = b"embedded pipe..."


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that is not finished, as of now. `state`: OPEN, STORED, REPEATING or PARKED; `due`: seconds until it
    is due (its idle or silence limit while somebody writes; None while PARKED); `why`: the one reason why it is not
    running, as `mpy6a sessions list` has it."""

    id: str
    kind: str
    state: str
    epoch: int
    records: tuple[bytes, ...]
    repeats: int
    due: float | None
    why: str


class Inbox(Protocol):
    """Where what the sidecar sends to one client arrives."""

    def deliver(self, payload: bytes) -> None: ...


class Alarm:
    """A call at a time of the world's clock."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class World:
    """The pipe and its sidecar. `now_ms` is monotonic; `moves` counts what went to or came from clients."""

    def __init__(self, policy: Policy) -> None:
        self.now_ms = START_MS
        self.moves = 0
        self._policy = policy
        self._inboxes: dict[bytes, Inbox] = {}
        self._inbound: deque[tuple[bytes, bytes]] = deque()
        self._alarms: list[tuple[int, int, Alarm]] = []
        self._order = count()
        self._carried = 0
        self._log = MemoryLog()
        kinds = tuple(
            KindSetup(kind.id, kind.name, "attached", kind.concurrency, kind.timeout_ms)
            for kind in policy.kinds.values()
        )
        self.agent = Agent(AgentSetup(SIDECAR, AGENT, 1, kinds), self.now_ms)
        self._start()

    def _start(self) -> None:
        """A pipe's process begins: it replays its log, opens a new term, and dials its sidecar."""
        state = State(NUMBER)
        for frame in self._log.replay():
            state.apply(frame)
            frame.decoded = None
        self.pipe = Pipe(state, PIPE, durable=self._log.durable)
        self.pusher = Pusher(self.pipe, self._log.read, {SIDECAR: "in this process"})
        wall_ms = START_WALL_MS + self.now_ms - START_MS
        self.pipe.open(self._policy, self.now_ms, wall_ms, node=SIDECAR)
        self.agent.connected(0, self.now_ms)
        self._work()
        self.pusher.probed(AGENT, self.now_ms)
        self.pump()

    # ------------------------------------------------------------------ clients

    def connect(self, inbox: Inbox) -> bytes:
        """A client's connection; the identity to send with."""
        identity = b"client %d" % next(self._order)
        self._inboxes[identity] = inbox
        return identity

    def disconnect(self, identity: bytes, *, died: bool) -> None:
        """The connection is no more; a dead process's sessions are stored at once, as by a pidfd."""
        self._inboxes.pop(identity, None)
        if died:
            self.agent.died(identity, self.now_ms)

    def send(self, identity: bytes, payload: bytes) -> None:
        """What a client sends; taken by the next `pump`."""
        self.moves += 1
        self._inbound.append((identity, payload))

    def beat(self, identity: bytes, payload: bytes) -> None:
        """A heartbeat, over a connection of its own as the library's: the pong finds nobody, and is dropped."""
        self.agent.from_service(b"beat " + identity, payload, self.now_ms)

    @property
    def busy(self) -> bool:
        """Whether `pump` has something to take."""
        return bool(self._inbound)

    @property
    def runs(self) -> frozenset[RunKey]:
        """What handlers run now, as the sidecar knows it."""
        return frozenset(run.key for run in self.agent.handing.runs.all() if run.stage is Stage.RUNNING)

    # ------------------------------------------------------------------ messages

    def pump(self) -> None:
        """Carry messages between clients, sidecar and pipe until nobody has anything more to say."""
        agent, now_ms = self.agent, self.now_ms
        while True:
            before = self._carried
            while self._inbound:
                self._carried += 1
                agent.from_service(*self._inbound.popleft(), now_ms)
            agent.tick(now_ms)
            for effect in agent.flush(now_ms):
                self._carry(effect)
            self._work()
            self._answer()
            if self._carried == before:
                return

    def _carry(self, effect: Effect) -> None:
        match effect:
            case SendPipe():
                self._carried += 1
                self._receive(effect.payload)
            case SendService():
                inbox = self._inboxes.get(effect.identity)
                if inbox is not None:
                    self._carried += 1
                    self.moves += 1
                    inbox.deliver(effect.payload)
                elif effect.pushes:
                    self.agent.undelivered(effect.pushes, self.now_ms)
            case Told():
                _log.debug(effect.message, extra={"facts": effect.facts})
            case Ended():
                pass  # the pipe has answered an ending: nobody here waits for that
            case _:
                raise AssertionError(f"all kinds are attached: {effect!r}")

    def _receive(self, payload: bytes) -> None:
        pipe = self.pipe
        for message in unpack(payload):
            value = pipe.receive(AGENT, message, self.now_ms)
            if value is not None and not self.pusher.receive(AGENT, message, value, self.now_ms):
                pipe.drop(AGENT, message, Code.MALFORMED, f"message type {message.type} is not for a pipe")

    def _work(self) -> None:
        """Turns of the pipe's loop until the log has nothing more to decide."""
        pipe, pusher, log = self.pipe, self.pusher, self._log
        while True:
            pipe.tick(self.now_ms)
            pusher.turn(self.now_ms)
            frames = pipe.group()
            if not frames:
                return
            log.append(frames)
            for applied in pipe.committed(log.committed()):
                pusher.applied(applied, self.now_ms)

    def _answer(self) -> None:
        answers, self.pipe.outbox = self.pipe.outbox, []
        pushes, self.pusher.outbox = self.pusher.outbox, []
        self._carried += len(answers) + len(pushes)
        for _, payload in answers:
            self.agent.from_pipe(0, payload, self.now_ms)
        for _, payload in pushes:
            self.agent.from_dial(payload, self.now_ms)

    # ------------------------------------------------------------------ time

    def call_at(self, when_ms: int, call: Callable[[], None]) -> Alarm:
        """Have `call` made by `move_to` once the time is reached."""
        alarm = Alarm(call)
        heappush(self._alarms, (when_ms, next(self._order), alarm))
        return alarm

    def next_ms(self) -> int:
        """When something is due next; always after now."""
        while self._alarms and self._alarms[0][2].call is None:
            heappop(self._alarms)
        due = self.agent.deadline()
        if self._alarms:
            due = min(due, self._alarms[0][0])
        accept_ms = self.pusher.deadline(self.now_ms)
        if accept_ms is not None:
            due = min(due, accept_ms)
        session_ms = self.pipe.due.next_ms()
        if session_ms is not None:
            due = min(due, self.now_ms + session_ms - self.pipe.log_ms(self.now_ms))
        return max(due, self.now_ms + 1)

    def move_to(self, now_ms: int) -> None:
        """Let it be `now_ms`: make the calls that are due, then pump."""
        self.now_ms = now_ms
        while self._alarms and self._alarms[0][0] <= now_ms:
            call = heappop(self._alarms)[2].call
            if call is not None:
                call()
        self.pump()

    # ------------------------------------------------------------------ deaths and operators

    def restart(self) -> None:
        """The pipe's process dies between its log and its answers, and another one replays the log."""
        while self._inbound:
            self.agent.from_service(*self._inbound.popleft(), self.now_ms)
        for effect in self.agent.flush(self.now_ms):
            self._carry(effect)
        frames = self.pipe.group()
        if frames:
            self._log.append(frames)  # and never answered: the outbox dies with the process
        self._log = self._log.restarted()
        self._start()

    def say(self, verb: AdminVerb, session: str, reason: str) -> None:
        """An operator's word about one session. Raises ValueError for a text that is no id."""
        key = SessionId.parse(session)
        word = Admin(verb, "test", reason, (SessionKey(key.term, key.index),))
        self.pipe.say(word, self.now_ms, lambda applied: None)
        self.pump()

    # ------------------------------------------------------------------ sight

    def sessions(self) -> list[LiveSession]:
        """Every live session, in the order in which they were made."""
        return [self._seen(session) for session in sorted(self.pipe.state.sessions.all(), key=lambda one: one.index)]

    def _seen(self, session: Session) -> LiveSession:
        state, log_ms = self.pipe.state, self.pipe.log_ms(self.now_ms)
        kind, delivery = state.policy.kinds.get(session.kind), session.delivery
        reason, detail = why(self.pipe, self.pusher, session, log_ms)
        if session.state == OPEN:  # an incarnation is chance; its name says more to whoever reads a test's output
            client = self.agent.clients.get(session.writer)
            detail = client.name if client is not None else "a client that is gone"
        return LiveSession(
            id=str(SessionId(NUMBER, session.term, session.index)),
            kind=kind.name if kind is not None else str(session.kind),
            state=SessionState(session.state).name,
            epoch=session.epoch,
            records=tuple(self._log.read(each >> 32, each & 0xFFFF_FFFF) for each in session.records),
            repeats=delivery.repeats if delivery is not None else 0,
            due=None if session.state == PARKED else (session.due_ms - log_ms) / 1000,
            why=f"{reason} {detail}".strip(),
        )
