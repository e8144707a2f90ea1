"""A sidecar's process: the real agent, and what `sidecar.runner` does around it without its sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mpy6a.errors import Mpy6aError
from mpy6a.model import BY_POLICY, Verb
from sidecar.agent import Agent
from sidecar.values import (
    AgentSetup,
    Effect,
    Ended,
    KindSetup,
    RunKey,
    SendPipe,
    SendService,
    StartRun,
    StopRun,
    Told,
    Wrote,
)

from .network import Line
from .oracle import Violation
from .process import Process

if TYPE_CHECKING:
    from .clients import ClientProcess
    from .world import World

SETTLE_MS: Final = 50  # from a process's death to the moment when a pidfd has told


class DialedEnd:
    """The sidecar's bound DEALER that the pipe dials: it only receives."""

    def __init__(self, sidecar: SidecarProcess) -> None:
        self._sidecar = sidecar

    @property
    def reachable(self) -> bool:
        return self._sidecar.reachable

    def arrived(self, line: Line, payload: bytes) -> None:
        self._sidecar.arrived(line, payload)

    def came_up(self, line: Line) -> None:
        """The pipe is greeted by a probe."""

    def went_down(self, line: Line) -> None:
        self._sidecar.disturbed()


class SidecarProcess(Process):
    """One sidecar. Clients connect to it; it connects to the pipe, and the pipe dials it."""

    def __init__(self, world: World, name: str, kinds: tuple[KindSetup, ...], skew_ms: int) -> None:
        super().__init__(world, name, skew_ms)
        self.kinds = kinds
        self.incarnation = b""
        self.http: dict[RunKey, int] = {}  # runs at the http handler -> what it is about to do
        self.clients: dict[bytes, tuple[Line, ClientProcess]] = {}  # identity of the connection -> who is there
        self._token = 0
        self._wrote: dict[int, tuple[RunKey, Verb, bytes]] = {}
        self.link = Line(world.network, f"{name}>pipe", self, world.pipe, queues=True)
        self.dialed = Line(world.network, f"pipe>{name}", world.pipe, DialedEnd(self), queues=True)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        super().start()
        self.incarnation = self.world.chance.randbytes(16)
        self.agent = Agent(AgentSetup(self.name, self.incarnation, 1, self.kinds, 1 << 20), self.clock())
        self.http.clear()
        self._wrote.clear()
        self.clients.clear()
        self.world.oracle_of_life(self)
        self.link.dial(self.world.chance.randrange(20))
        self.dialed.dial(self.world.chance.randrange(20))
        self.world.redial()
        self.wake()

    def tell_counts(self) -> None:
        """What this life dropped, and why."""
        for name, times in self.agent.counts.items():
            self.world.marks[f"agent: {name}"] += times
        self.agent.counts.clear()

    def die(self) -> None:
        self.tell_counts()
        super().die()
        self.clients.clear()
        self.link.cut(wait_ms=30)
        self.dialed.cut(wait_ms=30)
        self.world.hang_up(self)

    def drain(self) -> None:
        """SIGTERM: intake stops."""
        self.agent.drain(self.clock())
        self.wake()

    # ------------------------------------------------------------------ turns

    def turn(self) -> None:
        now_ms, agent = self.clock(), self.agent
        for _ in range(min(len(self.inbox), 512)):
            line, identity, payload = self.inbox.popleft()
            if line is self.link:
                agent.from_pipe(0, payload, now_ms)
            elif line is self.dialed:
                agent.from_dial(payload, now_ms)
            else:
                agent.from_service(identity, payload, now_ms, line.principal)
        if self.inbox:
            self.wake()
        for effect in agent.pass_on():
            self._carry(effect, now_ms)
        agent.tick(now_ms)
        for effect in agent.flush(now_ms):
            self._carry(effect, now_ms)
        self._judge()

    def _judge(self) -> None:
        """What holds after every turn: nobody who is heard is told gone, and no run waits beside room for it."""
        agent = self.agent
        for link in agent.links:
            if any(agent.clients.get(one) is not None for one in link.gone):
                raise Violation("sidecar", f"{self.name} tells the pipe that a client is gone, and hears it")
        handing = agent.handing
        for setup in self.kinds:
            if setup.handler == "attached" and setup.id not in handing._fresh and handing.runs.waiting(setup.id):
                client = agent.clients.least_busy(setup.id)
                if client is not None:
                    what = f"a run of kind {setup.id} waits at {self.name}"
                    raise Violation("sidecar", f"{what}, and {client.name} has room")

    def deadline(self) -> int:
        return self.agent.deadline()

    def _carry(self, effect: Effect, now_ms: int) -> None:
        match effect:
            case SendPipe():
                if not self.link.up and self.world.chance.random() < 0.3:
                    self.agent.unsent(effect.link, effect.payload)
                    self.world.note("sidecar", "unsent")
                else:
                    self.world.copy(effect.payload)
                    self.link.send(self, effect.payload)
            case SendService():
                for key in effect.pushes:
                    self.world.oracle.handed(self.incarnation, key.session.term, key.session.index, key.epoch)
                line = self.clients.get(effect.identity)
                if line is not None and line[0].up and line[0].identity == effect.identity:
                    line[0].send(self, effect.payload)
                elif effect.pushes:
                    self.world.note("sidecar", "push undelivered")
                    self.agent.undelivered(effect.pushes, now_ms)
            case StartRun():
                key = effect.key
                self.world.oracle.handed(self.incarnation, key.session.term, key.session.index, key.epoch)
                self.http[key] = 0
                self._later(key)
            case StopRun():
                self.world.note("sidecar", "http run stopped")
                self.http.pop(effect.key, None)
            case Wrote():
                self._told(effect.token, effect.error, now_ms)
            case Ended():
                self.world.note("sidecar", "ending answered OK" if effect.error is None else "ending answered late")
            case Told():
                pass

    # ------------------------------------------------------------------ http handlers

    def _later(self, key: RunKey) -> None:
        wait_ms = 1 if self.world.calm else self.world.chance.choice((1, 5, 50, 400))
        self.world.agenda.at(self.world.agenda.now_ms + wait_ms, self._run, self.lives, key)

    def _run(self, life: int, key: RunKey) -> None:
        """The next thing that the http handler of a run does."""
        if life != self.lives or not self.alive or key not in self.http:
            return
        if self.paused:
            self._later(key)
            return
        chance, now_ms, agent = self.world.chance, self.clock(), self.agent
        step = self.http[key]
        self.http[key] = step + 1
        what = "delete" if self.world.calm else chance.choice(
            ("append", "append", "touch", "delete", "delete", "delete", "store", "fail", "release", "park", "hang")
        )  # fmt: skip
        try:
            match what:
                case "append":
                    record = self.world.record()
                    self._write(key, Verb.APPEND, record, 0)
                    self._later(key)
                    return
                case "touch":
                    self._write(key, Verb.TOUCH, None, 0)
                    self._later(key)
                    return
                case "delete":
                    self._write(key, Verb.DELETE, None, 0)
                case "store":
                    self._write(key, Verb.STORE, None, chance.choice((0, 500, 5_000, BY_POLICY)))
                case "fail":
                    del self.http[key]
                    agent.finished(key, now_ms, Verb.FAIL, 0, "the handler answered 500")
                case "release":
                    del self.http[key]
                    agent.finished(key, now_ms, Verb.RELEASE, chance.choice((0, 700, BY_POLICY)), "busy")
                case "park":
                    del self.http[key]
                    agent.finished(key, now_ms, Verb.PARK, 0, "not for me")
                case "hang":
                    self.world.agenda.at(self.world.agenda.now_ms + 9_000, self._run, self.lives, key)
        except Mpy6aError:
            self.http.pop(key, None)
            agent.finished(key, now_ms, Verb.FAIL, 0, "refused")
        self.wake()

    def _write(self, key: RunKey, verb: Verb, record: bytes | None, argument: int) -> None:
        self._token += 1
        self._wrote[self._token] = key, verb, b"" if record is None else record[:12]
        self.agent.write(key, verb, self._token, self.clock(), record, argument)
        self.wake()

    def _told(self, token: int, error: Mpy6aError | None, now_ms: int) -> None:
        key, verb, tag = self._wrote.pop(token)
        code = 0 if error is None else int(getattr(error, "code", 0) or 0)
        self.world.answered(self.incarnation, tag, (key.session.term, key.session.index), key.epoch, verb.name, code)
        if key not in self.http:
            return
        if code:
            del self.http[key]
            self.agent.finished(key, now_ms, Verb.FAIL, 0, "refused")
            self.wake()
        elif verb in (Verb.DELETE, Verb.STORE):
            del self.http[key]
            self.agent.finished(key, now_ms, None)
            self.wake()

    # ------------------------------------------------------------------ lines

    def came_up(self, line: Line) -> None:
        if line is self.link:
            self.disturbed()
            self.agent.connected(0, self.clock())
        else:
            client = self.world.client_of(line)
            if client is not None:
                self.clients[line.identity] = line, client
        self.wake()

    def went_down(self, line: Line) -> None:
        if line is self.link:
            self.disturbed()
        if line is not self.link and line is not self.dialed:
            self.clients.pop(line.identity, None)

    def client_died(self, identity: bytes) -> None:
        """A pidfd says that the process behind a connection is dead."""
        if self.alive:
            self.agent.died(identity, self.clock())
            self.wake()
