"""A client's process: the real connection and exchange of the library, and the program around them.

It opens sessions and writes them; where it serves kinds, it also runs what its sidecar pushes, as the library's
`Service` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from mpy6a import errors, wire
from mpy6a.client.connection import Connection
from mpy6a.client.exchange import Completion
from mpy6a.client.runs import Assembly, RunKey
from mpy6a.client.writer import NEVER, Decision, Writer
from mpy6a.errors import Mpy6aError
from mpy6a.messages import Ending, Error, Heartbeat, Outcomes, Push, Serve, Stop
from mpy6a.model import BY_POLICY, AttemptOutcome, Extra, SessionId, Verb

from .network import Line
from .oracle import Violation
from .process import Process

if TYPE_CHECKING:
    from .sidecars import SidecarProcess
    from .world import World

WAYS: Final = (
    "delete", "delete", "delete", "delete", "store", "fail", "release", "park", "undecided", "hang", "write", "write",
    "much",
)  # fmt: skip
SERVED: Final = 6  # runs at a time


class Token(NamedTuple):
    """What an operation was, to be told when it is answered."""

    verb: Verb
    work: Work | None
    tag: bytes
    key: tuple[int, int]
    epoch: int
    number: int = 0  # of the call, in its work


class Work:
    """A session that this process writes."""

    __slots__ = ("calls", "kind", "refused", "run", "unanswered", "writer")

    def __init__(self, kind: int, writer: Writer[Token], run: RunKey | None) -> None:
        self.kind = kind
        self.writer = writer
        self.run = run
        self.unanswered = 0
        self.calls = 0
        self.refused = 0  # calls made by the time when a refusal was told last: what is told after it is not OK


class Run:
    """A pushed session at this process's handler."""

    __slots__ = ("stopped", "wish", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.stopped = False
        self.wish: tuple[int, int, str] | None = None


class ClientProcess(Process):
    """One life of one client: it is never started again, another one takes its place."""

    def __init__(
        self, world: World, name: str, door: Process, skew_ms: int, serves: tuple[int, ...] = (), principal: int = 1_001
    ) -> None:
        super().__init__(world, name, skew_ms)
        self.door = door
        self.serves = serves
        self.incarnation = world.chance.randbytes(16)
        timeout_ms = world.chance.choice((None, None, 30_000))
        self.connection: Connection[Token] = Connection(
            self.incarnation, door=door.name, name=name, timeout_ms=timeout_ms
        )
        self.works: list[Work] = []
        self.runs: dict[RunKey, Run] = {}
        self.identities: list[bytes] = []  # of its connections, for a pidfd
        self.line = Line(world.network, name, self, door, queues=False)
        self.beats = Line(world.network, f"beat {name}", _Beats(self), door, queues=False)
        self.line.principal = self.beats.principal = principal
        self._assembly = Assembly(64)
        self._links = 0
        self._fresh: list[tuple[int, Ending]] = []
        self._kept: list[tuple[int, Ending]] = []
        self._hop = b""
        self.start()
        self.line.dial(1)
        self.beats.dial(2)

    # ------------------------------------------------------------------ life

    def die(self) -> None:
        """As by kill -9; a pidfd may tell the sidecar."""
        super().die()
        self.line.close()
        self.beats.close()
        self.world.client_died(self)

    def goodbye(self) -> None:
        """Leaves in order."""
        for payload in self.connection.outgoing(self.clock()):
            self.line.send(self, payload)
        self.line.send(self, self.connection.goodbye())
        super().die()
        self.beats.close()
        self.line.close()

    # ------------------------------------------------------------------ turns

    def turn(self) -> None:
        now_ms, connection = self.clock(), self.connection
        while self.inbox:
            _, _, payload = self.inbox.popleft()
            self._complete(connection.receive(payload, now_ms))
        if connection.has_events or connection.links != self._links:
            self._events(now_ms)
        self._complete(connection.expire(now_ms))
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._fresh and self._links:
            self._say_outcomes()
        for payload in self.connection.outgoing(self.clock()):
            self.world.copy(payload)
            self.line.send(self, payload)

    def deadline(self) -> int:
        due = self.connection.deadline()
        return NEVER if due is None else due

    def came_up(self, line: Line) -> None:
        self.disturbed()
        self.identities.append(line.identity)
        self.connection.link_up(self.clock())
        self.wake()

    def went_down(self, line: Line) -> None:
        self.disturbed()
        if self.alive:
            self.connection.link_down()

    # ------------------------------------------------------------------ the program

    def new(self, kind: int, record: bytes | None, extra: Extra | None = None) -> None:
        """Open a session."""
        tag = b"" if record is None else record[:12]
        token = Token(Verb.NEW, Work(kind, _NO_WRITER, None), tag, (0, 0), 1)
        try:
            self.connection.new(kind, record, extra, token, self.clock())
        except Mpy6aError as problem:
            self.world.note("client", type(problem).__name__)

    def write(self, work: Work, verb: Verb, record: bytes | None = None, argument: int = 0) -> bool:
        """Call an operation; False where the library refuses it."""
        writer = work.writer
        tag = b"" if record is None else record[:12]
        work.calls += 1
        token = Token(verb, work, tag, (writer.term, writer.index), writer.epoch, work.calls)
        try:
            self.connection.submit(writer, verb, token, self.clock(), record, argument)
        except Mpy6aError as problem:
            self.world.note("client", type(problem).__name__)
            return False
        work.unanswered += 1
        return True

    def busy(self, chance: Random, most: int) -> None:
        """Some work: open a few sessions, write many, finish some."""
        world = self.world
        for _ in range(chance.randrange(1 + most // 2)):
            if len(self.works) > 120:
                break
            extra = None
            if chance.random() < 0.15:
                extra = Extra(0, key=f"key {chance.randrange(6)}")
            kind = chance.choice(world.kinds_to_open)
            world.opened += 1
            if world.opened % 5 == 0:  # a few orders, so that several of one are live at a time
                extra = (extra or Extra(0))._replace(order_key=f"order {world.opened // 5 % 7}")
            self.new(kind, world.record(chance) if chance.random() < 0.9 else None, extra)
        for work in chance.sample(self.works, min(len(self.works), most)):
            if work.run is None:
                self._some(chance, work)
        self.flush()
        self.wake()

    def _some(self, chance: Random, work: Work) -> None:
        world = self.world
        for _ in range(chance.choice((1, 2, 4, 8, 12, 16))):
            what = chance.random()
            if what < 0.5:
                done = self.write(work, Verb.APPEND, world.record(chance))
            elif what < 0.75:
                done = self.write(work, Verb.REPLACE, world.record(chance))
            elif what < 0.97:
                done = self.write(work, Verb.TOUCH)
            else:
                break
            if not done:
                return
        end = chance.random()
        if end < 0.1:
            self.write(work, Verb.DELETE)
        elif end < 0.16:
            after_ms = chance.choice((0, 0, 50, 700, 4_000, 20_000, BY_POLICY))
            self.write(work, Verb.STORE, argument=after_ms)

    def finish_all(self) -> None:
        """Nothing is left open."""
        for work in list(self.works):
            if work.run is None and not work.writer.decision and work.writer.final is None:
                self.write(work, Verb.DELETE)
        self.flush()
        self.wake()

    def _complete(self, done: Iterable[Completion[Token]]) -> None:
        for token, value in done:
            work, code = token.work, 0
            key = token.key
            if isinstance(value, Mpy6aError):
                code = int(getattr(value, "code", 0) or -1)
                if isinstance(value, (errors.OutcomeUnknown, errors.NoPipe)):
                    self.world.note("client", type(value).__name__)
                    continue  # it may still be answered
            elif isinstance(value, SessionId):
                key = (value.term, value.index)
            self.world.answered(self.incarnation, token.tag, key, token.epoch, token.verb.name, code)
            if work is None:
                continue
            if token.verb is Verb.NEW:
                if isinstance(value, SessionId):
                    work.writer = self.connection.open(value)
                    self.works.append(work)
                continue
            work.unanswered -= 1
            if code:
                self.world.note("client told", type(value).__name__)
                work.refused = work.calls
            elif token.number <= work.refused:
                what = f"{token.verb.name} on {key} was called behind an operation that was refused"
                raise Violation("callers", f"{what}, and is told OK")
            if not work.unanswered and (work.writer.decision is Decision.DONE or work.writer.final is not None):
                self._over(work)

    def _over(self, work: Work) -> None:
        if work in self.works:
            self.works.remove(work)
        if work.run is not None:
            run = self.runs.get(work.run)
            if run is not None:
                self._finish(work.run, run, (int(AttemptOutcome.DECIDED), 0, ""))

    # ------------------------------------------------------------------ handlers

    def _events(self, now_ms: int) -> None:
        connection, welcome = self.connection, self.connection.welcome
        if welcome is not None and self.serves and connection.links != self._links:
            self._links = connection.links
            self._assembly.clear()
            if self._hop == welcome.hop:
                self._fresh[:0] = self._kept
            self._kept.clear()
            self._hop = welcome.hop
            connection.tell(Serve(self.serves, SERVED))
            self._say_outcomes()
        for pipe, message in connection.events():
            match message:
                case Push():
                    for part in message.sessions:
                        whole = self._assembly.add(pipe, part)
                        if whole is not None:
                            self._begin(whole.key, part.kind)
                case Stop():
                    for one in message.sessions:
                        self._stop(RunKey.of(pipe, one.term, one.index, one.epoch))
                case Error():
                    self.world.note("client", "serve refused")
                case _:
                    self.world.note("client", "notice")

    def _begin(self, key: RunKey, kind: int) -> None:
        if key in self.runs:
            return
        work = Work(kind, self.connection.open(key.session, key.epoch), key)
        run = self.runs[key] = Run(work)
        self.works.append(work)
        self._later(key, run)

    def _later(self, key: RunKey, run: Run) -> None:
        world = self.world
        wait_ms = 1 if world.calm else world.chance.choice((1, 1, 5, 40, 400))
        world.agenda.at(world.agenda.now_ms + wait_ms, self._go_on, key, run)

    def _go_on(self, key: RunKey, run: Run) -> None:
        """The next thing that the handler of a run does."""
        if not self.alive or run.stopped or self.runs.get(key) is not run:
            return
        world = self.world
        if self.paused:
            world.agenda.at(self._paused_until_ms + 1, self._go_on, key, run)
            return
        chance, work = world.chance, run.work
        way = "delete" if world.calm else chance.choice(WAYS)
        if world.disk_level == 2 and chance.random() < 0.6:
            way = "write"
        if way == "write":
            for _ in range(chance.randrange(1, 4)):
                verb = chance.choice((Verb.APPEND, Verb.TOUCH, Verb.REPLACE))
                self.write(work, verb, None if verb is Verb.TOUCH else world.record())
            self._later(key, run)
        elif way == "much":  # beyond what a session holds: the rest of the group is refused with it
            for _ in range(5):
                self.write(work, Verb.APPEND, world.record() + bytes(850))
            self.write(work, Verb.REPLACE if chance.random() < 0.5 else Verb.APPEND, world.record() + bytes(100))
            self.write(work, Verb.TOUCH)
            self._decide(key, run, chance.choice((Verb.DELETE, Verb.STORE)), 0)
        elif way == "delete":
            self._decide(key, run, Verb.DELETE, 0)
        elif way == "store":
            self._decide(key, run, Verb.STORE, chance.choice((0, 100, 3_000, BY_POLICY)))
        elif way == "hang":
            world.agenda.at(world.agenda.now_ms + 12_000, self._go_on, key, run)
        else:
            wishes = {
                "fail": (AttemptOutcome.FAIL, 0, "boom"),
                "release": (AttemptOutcome.RELEASE, chance.choice((0, 900, BY_POLICY)), "not now"),
                "park": (AttemptOutcome.PARK, 0, "for a person"),
                "undecided": (AttemptOutcome.FAIL, 0, "undecided"),
            }
            outcome, retry_ms, text = wishes[way]
            self._finish(key, run, (int(outcome), retry_ms, text))
        if self.alive:
            self.flush()
            self.wake()

    def _decide(self, key: RunKey, run: Run, verb: Verb, argument: int) -> None:
        if not self.write(run.work, verb, argument=argument):
            self._finish(key, run, (int(AttemptOutcome.DECIDED), 0, ""))

    def _finish(self, key: RunKey, run: Run, wish: tuple[int, int, str]) -> None:
        del self.runs[key]
        if run.work in self.works:
            self.works.remove(run.work)
        if not run.stopped:
            ending = Ending(key.session.term, key.session.index, key.epoch, *wish)
            self._fresh.append((key.session.pipe, ending))

    def _stop(self, key: RunKey) -> None:
        run = self.runs.pop(key, None)
        if run is not None:
            self.world.note("client", "run stopped")
            run.stopped = True
            if run.work in self.works:
                self.works.remove(run.work)

    def _say_outcomes(self) -> None:
        by_pipe: dict[int, list[Ending]] = {}
        for pipe, ending in self._fresh:
            by_pipe.setdefault(pipe, []).append(ending)
        for pipe, endings in by_pipe.items():
            self.connection.tell(Outcomes(tuple(endings)), pipe)
        self._kept.extend(self._fresh)
        del self._kept[:-64]
        self._fresh.clear()


class _Beats:
    """The library's heartbeat thread: a connection of its own, which hears nothing."""

    def __init__(self, client: ClientProcess) -> None:
        self._client = client
        self._message = wire.encode(Heartbeat(), incarnation=client.incarnation)
        self._beating = False

    @property
    def reachable(self) -> bool:
        return self._client.reachable

    def arrived(self, line: Line, payload: bytes) -> None:
        """A pong: nothing in it that the other connection does not hear."""

    def came_up(self, line: Line) -> None:
        self._client.disturbed()
        self._client.identities.append(line.identity)
        if not self._beating:
            self._beating = True
            self._beat()

    def went_down(self, line: Line) -> None:
        self._client.disturbed()

    def _beat(self) -> None:
        client = self._client
        if not client.alive:
            return
        agenda = client.world.agenda
        if client.paused:
            agenda.at(client._paused_until_ms + 1, self._beat)
            return
        if client.connection.welcome is not None:
            client.beats.send(self, self._message)
        agenda.at(agenda.now_ms + client.world.lease_ms // 3, self._beat)


_NO_WRITER: Final[Writer[Token]] = Writer(0, 0, 0, 0)


def door_of(client: ClientProcess, sidecars: Iterable[SidecarProcess]) -> SidecarProcess | None:
    """The sidecar that a client is connected to, if it is one."""
    return next((sidecar for sidecar in sidecars if sidecar is client.door), None)
