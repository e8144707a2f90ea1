"""A pipe as its clients see it: answers batches as semantics.md "One writer" says, and keeps everything it
got.

`FakePipe` is sans-IO and honest: groups answered once, copies by their original verdicts, New by request
number. What a test may plant: answers that are lost, BUSY, verdicts for records with a given content. `Hop`
puts it behind a ROUTER in a thread.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import zmq

from mpy6a import wire
from mpy6a.errors import Code
from mpy6a.messages import (
    Ack,
    AnyMessage,
    Batch,
    Goodbye,
    Heartbeat,
    Hello,
    Kind,
    Limits,
    Message,
    Outcomes,
    PipeInfo,
    Pong,
    Role,
    Serve,
    Welcome,
)
from mpy6a.model import BY_POLICY, NOBODY, Op, Result, Verb

KINDS: Final = (Kind(1, "user-create"), Kind(2, "invoice"))
LIMITS: Final = Limits(1 << 20, 16 << 20, 4096, 4 << 20, 1024, (4 << 20) + 65536)


@dataclass(slots=True)
class FakeSession:
    """A session as the fake remembers it, also after it is finished."""

    kind: int
    writer: bytes
    epoch: int = 1
    seq: int = 0
    state: str = "OPEN"
    records: list[bytes] = field(default_factory=list)
    touches: int = 0
    store_after_ms: int = -1
    last: tuple[bytes, int, int, int] | None = None  # incarnation, epoch, first seq, count
    verdicts: list[int] = field(default_factory=list)
    endings: list[tuple[int, int, bytes]] = field(default_factory=list)


class FakePipe:
    """The state of one pipe and what is planted in it; `receive` is one packed message in, answers out."""

    def __init__(self, number: int = 1, term: int = 3, role: Role = Role.PIPE) -> None:
        self.number = number
        self.term = term
        self.role = role
        self.hop = os.urandom(16)
        self.log_ms = 1_700_000_000_000
        self.kinds: tuple[Kind, ...] = KINDS
        self.pipes: tuple[PipeInfo, ...] | None = None  # None: itself, live
        self.limits = LIMITS
        self.lease_ms = 15_000
        self.index = 100
        self.sessions: dict[tuple[int, int], FakeSession] = {}
        self.requests: dict[tuple[bytes, int], Result] = {}
        self.batches: list[tuple[bytes, Batch]] = []  # incarnation and every batch that came, copies too
        self.bodies: dict[tuple[bytes, int], bytes] = {}  # by incarnation and number
        self.got: list[tuple[bytes, AnyMessage]] = []  # everything else
        self.violations: list[str] = []  # what a client must never do
        self.lose_acks = 0  # the next so many acks are not sent
        self.ignore_batches = 0  # the next so many batches are not even applied
        self.answer_with: deque[Ack] = deque()  # instead of taking the next batches
        self.refuse: Callable[[Op], int] = lambda op: 0
        self._open_groups: dict[tuple[bytes, int, int], tuple[int, int, int]] = {}
        self._lost: set[tuple[bytes, int]] = set()
        self._marks: dict[bytes, int] = {}

    def welcome(self) -> Welcome:
        itself = (PipeInfo(self.number, self.term, True, self.log_ms),)
        pipes = itself if self.pipes is None else self.pipes
        return Welcome(1, self.role, self.lease_ms, self.log_ms, self.limits, self.kinds, pipes, self.hop)

    def receive(self, message: Message) -> list[bytes]:
        """Answers to one packed message."""
        value = wire.decode(message)
        answers: list[AnyMessage] = []
        if isinstance(value, Batch):
            ack = self._batch(message, value)
            if ack is not None:
                answers.append(ack)
        else:
            self.got.append((message.incarnation, value))
            if isinstance(value, Hello):
                answers.append(self.welcome())
            elif isinstance(value, Heartbeat):
                answers.append(Pong(self.log_ms, self.term))
            else:
                assert isinstance(value, (Goodbye, Serve, Outcomes)), value
        return [wire.encode(answer, incarnation=message.incarnation, pipe=self.number) for answer in answers]

    def named(self, kind: type[AnyMessage]) -> list[AnyMessage]:
        """The messages of one kind that came, batches excluded."""
        return [value for _, value in self.got if type(value) is kind]

    def _batch(self, message: Message, batch: Batch) -> Ack | None:
        incarnation = message.incarnation
        self.batches.append((incarnation, batch))
        self._check(incarnation, batch, message.body)
        if self.ignore_batches:
            self.ignore_batches -= 1
            return None
        if self.answer_with:
            return self.answer_with.popleft()._replace(number=batch.number)
        ack = self._apply(incarnation, batch)
        if self.lose_acks:
            self.lose_acks -= 1
            return None
        for key, (number, _, _) in list(self._open_groups.items()):
            if key[0] == incarnation and number == batch.number:
                del self._open_groups[key]
        return ack

    def _check(self, incarnation: bytes, batch: Batch, body: bytes) -> None:
        """Notes what a client must never do, whatever was lost."""
        known = self.bodies.setdefault((incarnation, batch.number), body)
        if known != body:
            self.violations.append(f"batch {batch.number} was resent with other bytes")
        if not batch.ops:
            self.violations.append(f"batch {batch.number} is empty")
        mark = self._marks.get(incarnation, 0)
        self._marks[incarnation] = max(mark, batch.mark)
        for _, key, (first, count) in self._groups(incarnation, batch):
            open_group = self._open_groups.setdefault(key, (batch.number, first, count))
            if open_group != (batch.number, first, count):
                self.violations.append(f"two groups in flight: {key[1:]} {open_group} and {batch.number}")

    @staticmethod
    def _groups(incarnation: bytes, batch: Batch) -> list[tuple[list[int], tuple[bytes, int, int], tuple[int, int]]]:
        """Positions, (incarnation, term, index) and (first seq, count) of each group."""
        positions: dict[tuple[int, int], list[int]] = {}
        for position, op in enumerate(batch.ops):
            if op.seq:
                positions.setdefault((op.term, op.index), []).append(position)
        return [(found, (incarnation, *key), (batch.ops[found[0]].seq, len(found))) for key, found in positions.items()]

    def _apply(self, incarnation: bytes, batch: Batch) -> Ack:
        self.log_ms += 1
        first = self.index
        self.index += len(batch.ops)
        results: list[Result] = []
        for position, op in enumerate(batch.ops):
            if op.verb == Verb.NEW:
                results += self._new(incarnation, batch, position, op, first)
            elif not op.seq:
                self.sessions[op.term, op.index].endings.append((op.verb, op.argument, op.record or b""))
        for positions, key, (first_seq, count) in self._groups(incarnation, batch):
            ops = [batch.ops[position] for position in positions]
            codes = self._group(incarnation, key[1:], ops, first_seq, count)
            results += [Result(position, code) for position, code in zip(positions, codes, strict=True) if code]
        results.sort()
        return Ack(batch.number, first, self.log_ms, self.term, results=tuple(results))

    def _new(self, incarnation: bytes, batch: Batch, position: int, op: Op, first: int) -> list[Result]:
        before = self.requests.get((incarnation, op.index))
        if before is not None:
            return [before._replace(position=position)]
        if op.index < self._marks.get(incarnation, 0):
            return [Result(position, Code.STALE_COPY)]
        if batch.first_sent_ms < self.log_ms - 3_600_000:
            return [Result(position, Code.OUTCOME_UNKNOWN)]
        code = self.refuse(op)
        result = Result(position, code, 0 if code else first + position, 0 if code else self.term)
        self.requests[incarnation, op.index] = result
        if code:
            return [result]
        records = [] if op.record is None else [op.record]
        self.sessions[self.term, first + position] = FakeSession(op.argument, incarnation, records=records)
        return []

    def _group(self, incarnation: bytes, key: tuple[int, int], ops: list[Op], first_seq: int, count: int) -> list[int]:
        session = self.sessions.get(key)
        epoch = ops[0].epoch
        if session is None:
            return [Code.GONE] * count
        if session.last == (incarnation, epoch, first_seq, count):
            return session.verdicts
        if session.state == "GONE":
            return [Code.GONE if epoch == session.epoch else Code.FENCED] * count
        if session.writer == NOBODY:
            session.writer = incarnation
        if session.state not in ("OPEN", "REPEATING") or (session.writer, session.epoch) != (incarnation, epoch):
            return [Code.FENCED] * count
        if first_seq != session.seq + 1:
            return [Code.STALE_COPY if first_seq <= session.seq else Code.SEQ_GAP] * count
        verdicts: list[int] = []
        for op in ops:
            session.seq += 1
            verdicts.append(Code.AFTER_REFUSAL if any(verdicts) else self._one(session, op))
        session.last, session.verdicts = (incarnation, epoch, first_seq, count), verdicts
        return verdicts

    def _one(self, session: FakeSession, op: Op) -> int:
        if session.state == "GONE":
            return Code.GONE
        code = self.refuse(op)
        if code:
            return code
        match op.verb:
            case Verb.APPEND:
                session.records.append(op.record or b"")
            case Verb.REPLACE:
                session.records = [op.record or b""]
            case Verb.TOUCH:
                session.touches += 1
            case Verb.DELETE:
                session.state = "GONE"
            case Verb.STORE:
                session.state = "STORED"
                session.store_after_ms = op.argument
                session.writer = NOBODY
        return Code.OK

    def stored_by_policy(self) -> list[FakeSession]:
        return [each for each in self.sessions.values() if each.store_after_ms == BY_POLICY]


class Hop:
    """A FakePipe behind a ROUTER bound to `address`, in a thread of its own until `close`."""

    def __init__(self, address: str, pipe: FakePipe | None = None) -> None:
        self.address = address
        self.pipe = pipe if pipe is not None else FakePipe()
        self.changed = threading.Condition()  # after each envelope that came
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._peers: dict[bytes, bytes] = {}  # incarnation -> routing id of the socket that said hello
        self._outbox: deque[tuple[bytes, AnyMessage]] = deque()
        self._start()

    def _start(self) -> None:
        self._stop = threading.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fake-hop")
        self._thread.start()
        assert ready.wait(5)

    def tell(self, incarnation: bytes, message: AnyMessage) -> None:
        """Sends a message (push, stop, welcome) to the client that said hello with `incarnation`."""
        self._outbox.append((incarnation, message))

    def wait_for(self, condition: Callable[[FakePipe], bool], timeout_s: float = 5.0) -> None:
        """Returns when `condition` holds of what came; fails when it does not in time."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.pipe), timeout_s), self.pipe.got

    def close(self) -> None:
        """Ends the thread and its socket."""
        self._stop.set()
        self._thread.join()
        self._context.term()

    def restart(self) -> None:
        """Closes the socket and binds it again, as a process does that was killed; what the fake knows stays."""
        self._stop.set()
        self._thread.join()
        self._start()

    def __enter__(self) -> Hop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, ready: threading.Event) -> None:
        router = self._context.socket(zmq.ROUTER)
        try:
            router.linger = 0
            router.bind(self.address)
            ready.set()
            while not self._stop.is_set():
                while self._outbox:
                    incarnation, message = self._outbox.popleft()
                    payload = wire.encode(message, incarnation=incarnation, pipe=self.pipe.number)
                    router.send_multipart([self._peers[incarnation], payload])
                if router.poll(5):
                    self._serve(router)
        finally:
            router.close(0)

    def _serve(self, router: zmq.Socket[bytes]) -> None:
        peer, payload = router.recv_multipart()
        with self.changed:
            for message in wire.unpack(payload):
                if message.type == 1:
                    self._peers[message.incarnation] = peer
                for answer in self.pipe.receive(message):
                    router.send_multipart([peer, answer])
            self.changed.notify_all()
