"""A sidecar's agent on a desk: what its peers would send is handed to it, what it sends is read back as
values."""

from __future__ import annotations

from collections.abc import Sequence

from mpy6a import limits, wire
from mpy6a.messages import (
    AnyMessage,
    Greeting,
    Hello,
    Kind,
    Limits,
    Message,
    PipeInfo,
    Push,
    RepeatPart,
    Serve,
    Welcome,
)
from mpy6a.model import NOBODY, fence
from sidecar.agent import Agent
from sidecar.values import (
    AgentSetup,
    Effect,
    KindSetup,
    RunKey,
    SendPipe,
    SendService,
    StartRun,
    StopRun,
    Told,
    Wrote,
)

OWN = bytes([9] * 16)
PIPE = bytes([7] * 16)  # the pipe's own incarnation
ANN, BOB = bytes([1] * 16), bytes([2] * 16)
ATTACHED, HTTP, PYTHON, EXEC = 1, 2, 3, 4
LIMITS = Limits(1 << 20, 16 << 20, 4096, 4 << 20, 1024, limits.ENVELOPE_BYTES_MAX)
KINDS = (
    KindSetup(ATTACHED, "attached-kind", "attached", 4),
    KindSetup(HTTP, "http-kind", "http", 3),
    KindSetup(PYTHON, "python-kind", "python", 4),
)


def welcome(pipe: int = 1, term: int = 5, log_ms: int = 1000) -> Welcome:
    kinds = tuple(Kind(kind.id, kind.name) for kind in KINDS)
    return Welcome(1, 0, 15_000, log_ms, LIMITS, kinds, (PipeInfo(pipe, term, True, log_ms),), PIPE)


def part(index: int, number: int, kind: int = ATTACHED, epoch: int = 2, **more: object) -> RepeatPart:
    """A session of term 5 as it is pushed."""
    made = RepeatPart(5, index, epoch, fence(5, epoch), kind, number, records=(b"r",))
    return made._replace(**more)  # type: ignore[arg-type]  # fields by name


class Desk:
    """An agent with one pipe (or more), a clock that the test moves, and everything it did."""

    def __init__(self, links: int = 1, kinds: Sequence[KindSetup] = KINDS) -> None:
        self.now_ms = 0
        self.agent = Agent(AgentSetup("users", OWN, links, tuple(kinds)), 0)
        self.effects: list[Effect] = []

    # ---- what peers do

    def service(self, who: bytes, *values: AnyMessage, pipe: int = 0, identity: bytes | None = None) -> None:
        payload = b"".join(wire.encode(value, incarnation=who, pipe=pipe) for value in values)
        self.agent.from_service(identity or who[:4], payload, self.now_ms)

    def pipe(self, value: AnyMessage, to: bytes = OWN, pipe: int = 1, link: int = 0) -> None:
        self.agent.from_pipe(link, wire.encode(value, incarnation=to, pipe=pipe), self.now_ms)

    def dial(self, value: AnyMessage, pipe: int = 1) -> None:
        self.agent.from_dial(wire.encode(value, incarnation=PIPE, pipe=pipe), self.now_ms)

    def push(self, *parts: RepeatPart, dial: int = 1, term: int = 5, target: bytes = OWN) -> None:
        self.dial(Push(dial, term, target, parts))

    # ---- how things usually stand

    def heard(self) -> Desk:
        """The pipe has answered the first hello."""
        self.tick()
        self.pipe(welcome())
        self.flush()
        return self

    def dialed(self, dial: int = 1) -> Desk:
        """The pipe is heard, has dialed, and its greeting is answered."""
        if not self.agent.links[0].pipe:
            self.heard()
        self.dial(Greeting(dial, 5, 15_000, 1000, "users"))
        self.flush()
        return self

    def serving(self, who: bytes = ANN, kinds: tuple[int, ...] = (ATTACHED,), concurrency: int = 8) -> Desk:
        """A service says hello and takes runs."""
        self.service(who, Hello(name="app"), Serve(kinds, concurrency))
        return self

    # ---- what the agent does

    def tick(self, after_ms: int = 0) -> list[Effect]:
        self.now_ms += after_ms
        self.agent.tick(self.now_ms)
        return self.flush()

    def flush(self) -> list[Effect]:
        self.effects = self.agent.pass_on() + self.agent.flush(self.now_ms)
        return self.effects

    def to_pipe(self, kind: type[AnyMessage] | None = None, link: int = 0) -> list[AnyMessage]:
        """What the last flush sent to a pipe, decoded."""
        sent = [one for one in self.effects if isinstance(one, SendPipe) and one.link == link]
        values = [wire.decode(message) for one in sent for message in wire.unpack(one.payload)]
        return [value for value in values if kind is None or isinstance(value, kind)]

    def packed_to_pipe(self) -> list[Message]:
        sent = [one for one in self.effects if isinstance(one, SendPipe)]
        return [message for one in sent for message in wire.unpack(one.payload)]

    def to_service(self, who: bytes, kind: type[AnyMessage] | None = None) -> list[AnyMessage]:
        """What the last flush sent to a client, decoded."""
        sent = [one for one in self.effects if isinstance(one, SendService) and one.identity == who[:4]]
        messages = [message for one in sent for message in wire.unpack(one.payload)]
        assert all(message.incarnation in (who, NOBODY) for message in messages)
        return [value for value in map(wire.decode, messages) if kind is None or isinstance(value, kind)]

    def started(self) -> list[RunKey]:
        return [one.key for one in self.effects if isinstance(one, StartRun)]

    def stopped(self) -> list[RunKey]:
        return [one.key for one in self.effects if isinstance(one, StopRun)]

    def told(self) -> list[str]:
        return [one.message for one in self.effects if isinstance(one, Told)]

    def wrote(self) -> list[Wrote]:
        return [one for one in self.effects if isinstance(one, Wrote)]
