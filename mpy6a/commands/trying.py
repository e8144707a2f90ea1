"""One push of a session to one handler, by a sidecar as it is and a pipe that has its log in memory.

Nothing is durable, and nobody else is met: both speak over sockets in a directory of their own, which goes with them.
The pipe runs in a thread, the sidecar in this loop; python handlers and programs are processes, as ever. The session's
id is of a pipe that nobody has and of a term of now, so that what guards the user's systems takes it for a new one.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from click import Abort

import mpy6a
from mpy6a import limits
from mpy6a.client.operator import Operator
from mpy6a.clock import OsClock
from mpy6a.commands.trial import Trial, Watch
from mpy6a.config import Attached, HttpAddress, HttpHandler, PythonHandler, Route, SidecarSettings
from mpy6a.entries import Admin, decode_proposals
from mpy6a.errors import CannotStart, ConfigError, Unavailable
from mpy6a.framing import Frame, FrameType
from mpy6a.log.memory import MemoryLog
from mpy6a.log.terms import opening_after_loss, raised_term
from mpy6a.model import AdminVerb, ProposalVerb
from mpy6a.policy import Policy
from mpy6a.server import Server
from mpy6a.state import State
from mpy6a.version import __version__

try:
    from sidecar.runner import Runner
except ImportError as problem:
    raise CannotStart(
        "the `sidecar` that Python finds is not mpy6a's: a foreign package of that name is installed; remove it"
    ) from problem

PIPE: Final = 65_535  # number of the pipe: the last one there is
SIDECAR: Final = "try"
WHO: Final = "mpy6a handler try"
START_S: Final = 30.0  # from the first word to the push; a python handler imports what it needs in it
END_S: Final = limits.EXEC_STOP_MS / 1000 + 10.0  # from the kind's timeout to the end


@dataclass(frozen=True, slots=True)
class Push:
    """What is to be handed to whom. `policy` has the pipe's limits; `path`: where python handlers are looked for."""

    route: Route
    policy: Policy
    records: Sequence[bytes]
    cancel: bool
    path: Sequence[Path]


def run(push: Push) -> Trial:
    """The trial, ended. Raises ConfigError for a python handler that cannot be run, CannotStart, and what the library
    raises for records beyond the limits; click's Abort where a signal ended it."""
    with tempfile.TemporaryDirectory(prefix="mpy6a-try-") as directory:
        longest = len(os.fsencode(directory)) + len("/sidecar.sock")
        if longest > limits.IPC_PATH_BYTES_MAX:
            raise CannotStart(f"{directory} is too long for sockets: set TMPDIR to a shorter directory, such as /tmp")
        return asyncio.run(_Try(push, directory).run())


class _Log(MemoryLog):
    """Tells every committed frame, in the pipe's thread and before the pipe has applied it."""

    def __init__(self, tell: Callable[[Frame], None]) -> None:
        super().__init__()
        self._tell = tell

    def committed(self) -> list[Frame]:
        frames = super().committed()
        for frame in frames:
            self._tell(frame)
        return frames


class _Sidecar(Runner):
    """Knows whether it was told to stop; a signal tells it."""

    signalled = False

    def stop(self) -> None:
        self.signalled = True
        super().stop()


class _Try:
    def __init__(self, push: Push, directory: str) -> None:
        self._push = push
        self._pipe_door, self._admin_door = f"ipc://{directory}/pipe.sock", f"ipc://{directory}/admin.sock"
        self._sidecar_door, self._push_door = f"ipc://{directory}/sidecar.sock", f"ipc://{directory}/push.sock"
        self._kind = replace(push.route.policy, sidecars=(SIDECAR,), jitter_ms=0)
        self._clock = OsClock()
        self._watch = Watch(PIPE)
        self._pushed = asyncio.Event()
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._server: Server

    async def run(self) -> Trial:
        self._loop = loop = asyncio.get_running_loop()
        self._server = self._new_server()
        failed: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(target=self._serve, args=(failed,), name="mpy6a-pipe")
        thread.start()
        try:
            return await self._with_sidecar(failed)
        finally:
            self._server.stop()
            await asyncio.to_thread(thread.join)
            self._server.close()

    # ---- the pipe

    def _new_server(self) -> Server:
        log, state, wall_ms = _Log(self._committed), State(PIPE), self._clock.wall_ms()
        for _ in log.replay():
            raise AssertionError("a new log is empty")
        term = raised_term(0, wall_ms)
        log.append([
            opening_after_loss(
                pipe=PIPE, term=term, index=1, log_ms=wall_ms, wall_ms=wall_ms, release=__version__, node=SIDECAR
            )
        ])  # fmt: skip
        for frame in log.committed():
            state.apply(frame)
        return Server(
            log,
            PIPE,
            replace(self._push.policy, kinds={self._kind.id: self._kind}),
            self._clock,
            listen=[self._pipe_door],
            admin=self._admin_door,
            sidecars={SIDECAR: self._push_door},
            state=state,
        )

    def _serve(self, failed: asyncio.Future[None]) -> None:
        try:
            self._server.run()
        except Exception as error:  # noqa: BLE001 -- told to the thread that waits
            self._loop.call_soon_threadsafe(failed.set_exception, error)

    def _committed(self, frame: Frame) -> None:
        """In the pipe's thread. The kind is paused before the push is sent: there is no second one, whatever the
        handler says of when."""
        self._loop.call_soon_threadsafe(self._note, replace(frame, decoded=None))
        if frame.type == FrameType.PROPOSALS and any(
            proposal.verb == ProposalVerb.DISPATCH for proposal in decode_proposals(frame.batch)
        ):
            word = Admin(AdminVerb.PAUSE, WHO, kind=self._kind.id)
            self._server.pipe.say(word, self._clock.monotonic_ms(), lambda applied: None)

    def _note(self, frame: Frame) -> None:
        if self._watch.took(frame):
            trial = self._watch.trial
            assert trial is not None
            (self._ended if trial.outcome else self._pushed).set()

    # ---- the sidecar

    async def _with_sidecar(self, failed: asyncio.Future[None]) -> Trial:
        python_ended: asyncio.Future[int] = self._loop.create_future()
        runner = _Sidecar(self._settings(), on_python_end=python_ended.set_result)
        running = self._loop.create_task(runner.run())
        trying = self._loop.create_task(self._hand_over())
        ends: set[asyncio.Future[None]] = {failed, running, trying}
        try:
            either: set[asyncio.Future[Any]] = {*ends, python_ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if python_ended.done() and not self._pushed.is_set():
                handler = self._push.route.handler
                assert isinstance(handler, PythonHandler), "only those have a process of their own"
                raise ConfigError(
                    f"{handler.target}: its process ended with status {python_ended.result()} before it could be handed"
                    f" anything; why stands above. It is looked for in {', '.join(map(str, self._push.path))}"
                )
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if runner.signalled:
                raise Abort  # what the sidecar's drain made of the run is nothing that the handler did
            for task in (trying, failed, running):
                if task.done():
                    task.result()
        finally:
            trying.cancel()
            runner.stop()
            runner.stop()  # without the handlers' grace: there is one, and it has ended
            await asyncio.wait({running, trying})
            failed.cancel()
        assert self._watch.trial is not None
        return self._watch.trial

    def _settings(self) -> SidecarSettings:
        handler = self._push.route.handler
        assert not isinstance(handler, Attached), "the service serves it itself"
        if isinstance(handler, HttpHandler):
            handler = replace(handler, health=None)  # one push, whether it says that it is well or not
        return SidecarSettings(
            name=SIDECAR,
            listen=self._sidecar_door,
            group=None,
            pipes=(self._pipe_door,),
            push=self._push_door,
            routes=None,
            kinds={self._kind.name: Route(self._kind, handler)},
            drain_ms=0,
            callback=HttpAddress("127.0.0.1", 0),
            path=tuple(self._push.path),
        )

    # ---- the session

    async def _hand_over(self) -> None:
        records = list(self._push.records)
        async with mpy6a.AsyncPipe(self._pipe_door, name=WHO) as pipe:
            session = await pipe.new(self._kind.name, records.pop(0) if records else None)
            for record in records:
                await session.append(record)
            if self._push.cancel:
                await asyncio.to_thread(self._cancel, session.id)
            else:
                await session.store(after=0)
            await _within(self._pushed, START_S, "the handler was not there for the push")
            await _within(self._ended, self._kind.timeout_ms / 1000 + END_S, "nobody ended the handler's run")

    def _cancel(self, session: str) -> None:
        with Operator(self._admin_door) as operator:
            operator.request("sessions.cancel", {"id": session, "who": WHO})


async def _within(event: asyncio.Event, seconds: float, what: str) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        raise Unavailable(f"{what} within {seconds:g} s") from None
