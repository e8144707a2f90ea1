"""The sidecar's process: one asyncio loop between the sockets and the agent. It decides nothing.

    drain the sockets -> agent -> tick -> flush -> carry the effects out

Handlers of kinds with `http:` are called from this loop, those with `exec:` are programs that it follows; those
with `python:` run in a child process that attaches over the sidecar's own door. SIGTERM drains: `drained` of the
agent, or a deadline, ends `run`. SIGHUP has the files read anew.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpy6a import limits
from mpy6a.clock import Clock, OsClock
from mpy6a.config import Attached, ExecHandler, HandlerSpec, HttpHandler, PythonHandler, SidecarSettings
from mpy6a.errors import CannotStart, ConfigError
from sidecar import reloading
from sidecar.agent import Agent
from sidecar.doors import Doors
from sidecar.handlers import Handlers
from sidecar.peers import Peers
from sidecar.values import (
    AgentSetup,
    Effect,
    Ended,
    Handler,
    KindSetup,
    SendPipe,
    SendService,
    StartRun,
    StopRun,
    Told,
    Wrote,
)

logger = logging.getLogger(__name__)

REPORT_S: Final = 60.0  # between two lines about messages that were not taken
LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Runner:
    """One sidecar of this configuration. Constructing it binds its doors; raises CannotStart. `on_python_end`: the
    process of the python handlers is not started again when it ends, but that is called with its status."""

    def __init__(
        self,
        settings: SidecarSettings,
        clock: Clock | None = None,
        on_python_end: Callable[[int], None] | None = None,
        path: Path | None = None,
    ) -> None:
        """`path`: the sidecar.yaml that a reload reads anew."""
        self._settings = settings
        self._clock = clock or OsClock()
        self._setup = setup(settings)
        self._agent = Agent(self._setup, self._clock.monotonic_ms())
        self._doors = Doors(
            self._setup.incarnation,
            settings.listen,
            settings.socket_mode,
            _group(settings.group),
            settings.pipes,
            settings.push,
            self._agent.counts,
        )
        self._loop: asyncio.AbstractEventLoop
        self._peers: Peers
        self._handlers = Handlers(settings, self._agent, self._clock, self._wake, self._until, on_python_end)
        self._path = path
        self._reloading: asyncio.Task[None] | None = None
        self._wanted = False  # another reload
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._turn_scheduled = False
        self._failure: Exception | None = None
        self._reported: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains."""
        self._loop = asyncio.get_running_loop()
        self._peers = Peers(self._loop, self._process_died)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        descriptors = self._doors.descriptors()
        try:
            await self._handlers.open()
            for descriptor in descriptors:
                self._loop.add_reader(descriptor, self._readable, descriptor)
            self._wake()
            facts = {"name": self._settings.name, "listen": self._settings.listen, "push": self._settings.push}
            logger.info("serving", extra={"facts": facts})
            report = self._loop.create_task(self._report_forever())
            await self._stopping.wait()
            if self._reloading is not None:
                self._reloading.cancel()
                await asyncio.wait([self._reloading])
            if self._failure is None:
                await self._drain()
            report.cancel()
            if self._failure is not None:
                raise self._failure
        finally:
            for descriptor in descriptors:
                self._loop.remove_reader(descriptor)
            if self._timer is not None:
                self._timer.cancel()
            await self._handlers.close()
            self._peers.close()
            self._doors.close(limits.GOODBYE_LINGER_MS)
            self._report()
        logger.info("stopped", extra={"facts": {"name": self._settings.name}})

    def stop(self) -> None:
        """Begins the drain; a second call ends the handlers' grace."""
        if self._stopping.is_set():
            self._hurried.set()
        self._stopping.set()

    # ---- one turn

    def _readable(self, descriptor: int) -> None:
        """A socket has something: at once, one more turn of the loop would cost as much as the work."""
        self._doors.note(descriptor)
        self._turn()

    def _wake(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 -- a bug of ours: better a sidecar that ends than one that hangs
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._stopping.set()
        self._hurried.set()

    def _work(self) -> None:
        now_ms = self._clock.monotonic_ms()
        self._read(now_ms)
        for effect in self._agent.pass_on():
            self._carry_out(effect, now_ms)
        if now_ms >= self._timer_ms:  # as the last turn left it: asking again costs as much as passing a message on
            self._agent.tick(now_ms)
        for effect in self._agent.flush(now_ms):
            self._carry_out(effect, now_ms)
        if self._doors.pending():  # reading and sending took the descriptors' edges
            self._wake()
        self._arm()
        self._changed.set()

    def _read(self, now_ms: int) -> None:
        agent, doors = self._agent, self._doors
        for number in doors.connected():
            agent.connected(number, now_ms)
        end_ms = self._clock.monotonic_ms() + limits.TURN_MS
        for identity, payload, principal in doors.from_service(self._peers):
            agent.from_service(identity, payload, now_ms, principal)
            if self._clock.monotonic_ms() >= end_ms:
                break
        end_ms = self._clock.monotonic_ms() + limits.TURN_MS
        for payload in doors.from_dials():
            agent.from_dial(payload, now_ms)
            if self._clock.monotonic_ms() >= end_ms:
                break
        for link in agent.links:
            for payload in doors.from_pipe(link.number):
                agent.from_pipe(link.number, payload, now_ms)
            if not link.writable and doors.writable(link.number):
                agent.writable(link.number)

    def _carry_out(self, effect: Effect, now_ms: int) -> None:
        match effect:
            case SendService(identity, payload, pushes):
                if not self._doors.to_service(identity, payload) and pushes:
                    self._agent.undelivered(pushes, now_ms)
                    self._wake()
            case SendPipe(link, payload):
                if not self._agent.links[link].writable or not self._doors.to_pipe(link, payload):
                    self._agent.unsent(link, payload)
            case StartRun():
                self._handlers.start(effect)
            case StopRun():
                assert self._handlers.callbacks is not None
                self._handlers.callbacks.stop(effect.key, effect.code)
            case Wrote():
                assert self._handlers.callbacks is not None
                self._handlers.callbacks.wrote(effect.token, effect.error)
            case Ended():
                if self._handlers.callbacks is not None:
                    self._handlers.callbacks.ended(effect.key, effect.error)
            case Told(level, message, facts):
                logger.log(LEVELS[level], message, extra={"facts": facts})

    def _arm(self) -> None:
        due_ms = self._agent.deadline()
        if self._timer is not None:
            if self._timer_ms == due_ms:
                return
            self._timer.cancel()
        self._timer_ms = due_ms
        wait_s = max(0, due_ms - self._clock.monotonic_ms()) / 1000
        self._timer = self._loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._doors.note_all()
        self._wake()

    def _process_died(self, identity: bytes) -> None:
        now_ms = self._clock.monotonic_ms()
        self._doors.note_all()
        self._read(now_ms)  # what it had sent before counts
        self._agent.died(identity, now_ms)
        self._wake()

    # ---- handlers

    def hang_up(self) -> None:
        """Reads the files anew; what comes while they are read is read once more after."""
        self._wanted = True
        if self._reloading is None and not self._stopping.is_set():
            self._reloading = self._loop.create_task(self._reload())
            self._reloading.add_done_callback(self._reloaded)

    async def _reload(self) -> None:
        if self._path is None:
            logger.warning("SIGHUP: this sidecar was started without files, there is nothing to reload")
            self._wanted = False
        while self._wanted and self._path is not None:
            self._wanted = False
            try:
                settings = await reloading.read(self._path, self._settings)
                await self._handlers.reload(settings, setup(settings).kinds)
            except (ConfigError, CannotStart) as problem:
                for line in str(problem).splitlines()[:20]:
                    logger.error("reload: nothing has changed", extra={"facts": {"why": line}})
                continue
            before, self._settings = self._settings, settings
            logger.info("reloaded", extra={"facts": {"kinds": reloading.changes(before, settings)}})

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            assert isinstance(error, Exception)
            self._fail(error)

    async def _drain(self) -> None:
        """Runs get their grace, the rest is released, endings are answered or given up."""
        logger.info("draining", extra={"facts": {"running": self._agent.running}})
        self._handlers.drain()
        self._agent.drain(self._clock.monotonic_ms())
        self._wake()
        hurried = self._loop.create_task(self._hurried.wait())
        idle = self._loop.create_task(self._until(lambda: self._agent.running == 0))
        await asyncio.wait({hurried, idle}, timeout=self._settings.drain_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        idle.cancel()
        self._agent.release_rest(self._clock.monotonic_ms())
        self._wake()
        try:
            await asyncio.wait_for(self._until(lambda: self._agent.drained), limits.CLOSE_TIMEOUT_S)
        except TimeoutError:
            logger.warning(
                "stopped without the pipe's answer to every ending: it repeats those sessions after a lease",
                extra={"facts": {"endings": self._agent.handing.held}},
            )

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    # ---- what went wrong

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._report()

    def _report(self) -> None:
        """One line about what peers sent and was not taken, if there was anything new."""
        new = self._agent.counts - self._reported
        if new:
            logger.warning("messages were not taken or not delivered", extra={"facts": dict(sorted(new.items()))})
            self._reported = self._agent.counts.copy()


def setup(settings: SidecarSettings) -> AgentSetup:
    """What the agent has to know of the configuration, with an incarnation of its own."""
    kinds = []
    for name, route in settings.kinds.items():
        policy = route.policy
        kinds.append(KindSetup(policy.id, name, _handler(route.handler), policy.concurrency, policy.timeout_ms))
    return AgentSetup(settings.name, new_incarnation(), len(settings.pipes), tuple(kinds))


def _handler(spec: HandlerSpec) -> Handler:
    match spec:
        case PythonHandler():
            return "python"
        case HttpHandler():
            return "http"
        case Attached():
            return "attached"
        case ExecHandler():
            return "exec"


def new_incarnation() -> bytes:
    """16 random bytes; the first is not 0, which ZeroMQ keeps for identities of its own."""
    while not (drawn := os.urandom(16))[0]:
        pass
    return drawn


def _group(name: str | None) -> int:
    if name is None:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise CannotStart(f"group {name!r} of `group:` does not exist: create it, or name another one") from None


def serve(settings: SidecarSettings, path: Path | None = None) -> None:
    """Runs a sidecar until it is told to stop; `path` is read anew at SIGHUP. Raises CannotStart."""
    if sys.platform != "linux":
        raise CannotStart("mpy6a runs on Linux only: it relies on its sockets' credentials and file modes")
    asyncio.run(Runner(settings, path=path).run())
