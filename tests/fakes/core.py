"""A pipe without sockets: the real core over a memory log, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Sequence

from mpy6a import wire
from mpy6a.log.memory import MemoryLog
from mpy6a.messages import Accepted, Ack, AnyMessage, Heartbeat, KindCredit, MessageType, SidecarHello
from mpy6a.model import Extra, Op, SessionId, Verb
from mpy6a.pipe import Authorise, Pipe
from mpy6a.policy import KindPolicy, Policy, policy_of
from mpy6a.push import Pusher
from mpy6a.session import Session
from mpy6a.state import State

WALL_MS = 1_800_000_000_000
KIND = KindPolicy(1, "user-create", ("users",), delay_ms=500, backoff_base_ms=200, backoff_cap_ms=2_000)


class World:
    """One pipe and whoever talks to it. `now_ms` is monotonic; every call works until the log is quiet."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        log: MemoryLog | None = None,
        wall_ms: int = WALL_MS,
        authorise: Authorise | None = None,
        sidecars: Sequence[str] = ("users",),
    ) -> None:
        self.log = log or MemoryLog()
        self.now_ms = 1_000
        self.state = State(1)
        for frame in self.log.replay():
            self.state.apply(frame)
        self.pipe = Pipe(self.state, b"P" * 16, authorise=authorise)
        self.pusher = Pusher(self.pipe, self.log.read, dict.fromkeys(sidecars, "tcp://127.0.0.1:1"))
        self.pushed: list[tuple[bytes, AnyMessage]] = []
        self.pipe.open(policy or policy_of([KIND]), self.now_ms, wall_ms)
        self._numbers = 0
        self.requests = 0
        self.work()

    @property
    def log_ms(self) -> int:
        return self.pipe.log_ms(self.now_ms)

    def work(self) -> list[AnyMessage]:
        """One turn of the driver, and more while the log has something to decide; what was answered."""
        self.pipe.tick(self.now_ms)
        self.pusher.turn(self.now_ms)
        while frames := self.pipe.group():
            self.log.append(frames)
            for applied in self.pipe.committed(self.log.committed()):
                self.pusher.applied(applied, self.now_ms)
            self.pipe.tick(self.now_ms)
            self.pusher.turn(self.now_ms)
        answers = [wire.decode(wire.unpack(payload)[0]) for _, payload in self.pipe.outbox]
        self.pipe.outbox.clear()
        self.pushed += [(to, wire.decode(wire.unpack(payload)[0])) for to, payload in self.pusher.outbox]
        self.pusher.outbox.clear()
        return answers

    def pass_time(self, ms: int) -> list[AnyMessage]:
        """Let time go by, then work."""
        self.now_ms += ms
        return self.work()

    def tell(self, incarnation: bytes, value: AnyMessage, pipe: int = 1) -> list[AnyMessage]:
        """Have somebody send one message; what was answered."""
        message = wire.unpack(wire.encode(value, incarnation=incarnation, pipe=pipe))[0]
        answer = self.pipe.receive("door", message, self.now_ms)
        if answer is not None:
            assert self.pusher.receive("door", message, answer, self.now_ms), f"nobody takes {answer}"
        return self.work()

    def batch(
        self,
        incarnation: bytes,
        ops: Sequence[Op],
        *,
        number: int = 0,
        mark: int = 1,
        first_sent_ms: int | None = None,
        extras: Sequence[Extra] = (),
    ) -> Ack:
        """Have a client send one batch; its ack."""
        self._numbers += 1
        sent_ms = self.log_ms if first_sent_ms is None else first_sent_ms
        body = wire.encode_batch_body(number or self._numbers, mark, sent_ms, ops, extras)
        message = wire.unpack(wire.pack(MessageType.BATCH, body, incarnation=incarnation, pipe=1))[0]
        assert self.pipe.receive("door", message, self.now_ms) is None
        [answer] = self.work()
        assert isinstance(answer, Ack), answer
        return answer

    def new(self, incarnation: bytes, record: bytes | None = None, kind: int = 1) -> SessionId:
        """A client's New that has to succeed."""
        self.requests += 1
        ack = self.batch(incarnation, [Op(Verb.NEW, self.requests, argument=kind, record=record)])
        assert not ack.results
        return SessionId(1, ack.term, ack.first_index)

    def session(self, session: SessionId) -> Session | None:
        return self.state.session(session.term, session.index)

    # ------------------------------------------------------------------ a sidecar

    def sidecar(self, incarnation: bytes, name: str = "users", sessions: int = 8, held: Sequence[Session] = ()) -> int:
        """Have the pipe dial a sidecar and that one answer; the dial's number."""
        from mpy6a.messages import Greeting, SessionEpoch

        self.pusher.probed(incarnation, self.now_ms)
        self.work()
        greeting = self.pushed[-1][1]
        assert isinstance(greeting, Greeting)
        listed = tuple(SessionEpoch(s.term, s.index, s.epoch) for s in held)
        credit = (KindCredit(1, sessions, 1 << 30),)
        self.tell(incarnation, SidecarHello(greeting.dial, greeting.term, name, listed, credit))
        return greeting.dial

    def accept(self, incarnation: bytes, dial: int, through: int, sessions: int = 8) -> None:
        """Have a sidecar accept pushes and grant more credit."""
        credit = (KindCredit(1, sessions, 1 << 30),)
        self.tell(incarnation, Accepted(dial, self.state.term, through, credit))

    def heartbeat(self, incarnation: bytes, alive: Sequence[bytes] = (), gone: Sequence[bytes] = ()) -> None:
        self.tell(incarnation, Heartbeat(tuple(alive), tuple(gone)))
