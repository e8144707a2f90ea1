"""Http and exec handlers on a bench: a real HTTP service on loopback or real programs, the real agent, and a pipe in
memory that answers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import aiohttp
from aiohttp import web

from mpy6a import wire
from mpy6a.config import ExecHandler, HttpAddress, HttpHandler
from mpy6a.errors import Code
from mpy6a.messages import Accepted, Ack, Batch
from mpy6a.model import Op, Result, SessionId, Verb
from sidecar.callbackruns import CallbackRuns
from sidecar.execs import ExecHandlers
from sidecar.http import HttpHandlers
from sidecar.values import Ended, KindSetup, RunKey, SendPipe, StartRun, StopRun, Wrote
from tests.unit.sidecar.desk import EXEC, HTTP, OWN, Desk, part

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
DEADLINE_S = 10.0


class Clock:
    """The time that the desk's clock shows; the wall's is a fixed day."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def monotonic_ms(self) -> int:
        return self._desk.now_ms

    def wall_ms(self) -> int:
        return 1_700_000_000_000


class Bench:
    """One kind. `ops` is what reached the pipe, in order; `verdicts` what it answers to which verb (OK
    if it is not there); with `deaf` it answers nothing."""

    def __init__(self, kind: KindSetup) -> None:
        self.kind = kind.id
        self.desk = Desk(kinds=(kind,)).dialed()
        self.handlers: HttpHandlers | ExecHandlers
        self.runs: CallbackRuns
        self.ops: list[Op] = []
        self.verdicts: dict[int, Code] = {}
        self.deaf = False
        self.handle: Handle
        self.changed = asyncio.Event()
        self.pushed = 0
        self._granted = 3
        self._unanswered: list[int] = []
        self._woken = False

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self._woken = False
        for effect in self.desk.flush():
            match effect:
                case StartRun():
                    self.handlers.start(effect)
                case StopRun():
                    self.runs.stop(effect.key, effect.code)
                case Wrote():
                    self.runs.wrote(effect.token, effect.error)
                case Ended():
                    self.runs.ended(effect.key, effect.error)
                case SendPipe():
                    for message in wire.unpack(effect.payload):
                        self._pipe(wire.decode(message))
        self.changed.set()

    def push(self, *records: bytes, index: int = 10, trace: bytes = b"") -> RunKey:
        """A session comes; its run begins with the next turn."""
        self.pushed += 1
        self.desk.push(part(index, self.pushed, self.kind, records=records, trace=trace, repeats=3))
        self.wake()
        return RunKey(SessionId(1, 5, index), 2)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def over(self) -> None:
        """Waits until no run is held any more."""
        await self.until(lambda: self.desk.agent.drained and not self._woken)

    async def run(self, *records: bytes, index: int = 10) -> list[Op]:
        """Pushes a session, and waits until its run is over; what was written meanwhile."""
        before = len(self.ops)
        self.push(*records, index=index)
        await self.over()
        return self.ops[before:]

    def answer_all(self) -> None:
        """The pipe answers what it has not answered yet."""
        for number in self._unanswered:
            self.desk.pipe(Ack(number, 100), to=OWN)
        self._unanswered.clear()
        self.wake()

    @property
    def credit(self) -> int:
        """Sessions that the pipe may still push."""
        return self._granted - self.pushed

    async def call(self, method: str, url: str, data: bytes = b"", number: int | None = None) -> tuple[int, str, str]:
        """Status, text and Retry-After of a callback."""
        headers = {} if number is None else {"Mpy6a-Op": str(number)}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=io.BytesIO(data), headers=headers) as answer,
        ):
            return answer.status, await answer.text(), answer.headers.get("Retry-After", "")

    def _pipe(self, value: object) -> None:
        if isinstance(value, Accepted):
            self._granted = value.credit[0].sessions
        if not isinstance(value, Batch):
            return
        self.ops.extend(value.ops)
        if self.deaf:
            self._unanswered.append(value.number)
            return
        results = tuple(
            Result(position, self.verdicts[op.verb])
            for position, op in enumerate(value.ops)
            if op.verb in self.verdicts
        )
        self.desk.pipe(Ack(value.number, 100, results=results), to=OWN)
        self.wake()


@asynccontextmanager
async def bench(
    handle: Handle,
    form: Literal["base64", "text", "json"] = "base64",
    timeout_ms: int = 10_000,
    health: str | None = None,
    url: str | None = None,
) -> AsyncIterator[Bench]:
    """A bench whose handler's service answers with `handle`; `url` instead: nobody is there, or somebody
    else."""
    made = Bench(KindSetup(HTTP, "http-kind", "http", 3, timeout_ms))
    made.handle = handle
    app = web.Application(client_max_size=64 << 20)

    async def route(request: web.Request) -> web.StreamResponse:
        return await made.handle(request)

    app.router.add_route("*", "/{tail:.*}", route)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    handler = HttpHandler(url or f"{base}/finish", form, None if health is None else base + health)
    clock = Clock(made.desk)
    made.runs = CallbackRuns(made.desk.agent, HttpAddress("127.0.0.1", 0), clock, made.wake)
    made.handlers = https = HttpHandlers(made.desk.agent, made.runs, {HTTP: handler}, clock, made.wake)
    await made.runs.open()
    https.open()
    try:
        yield made
    finally:
        await made.runs.close()
        await https.close()
        await runner.cleanup()


@asynccontextmanager
async def exec_bench(
    *argv: str, directory: Path, form: Literal["base64", "text", "json"] = "base64", timeout_ms: int = 10_000
) -> AsyncIterator[Bench]:
    """A bench whose handler is this program."""
    made = Bench(KindSetup(EXEC, "exec-kind", "exec", 3, timeout_ms))
    made.runs = CallbackRuns(made.desk.agent, HttpAddress("127.0.0.1", 0), Clock(made.desk), made.wake)
    made.handlers = execs = ExecHandlers(made.runs, {EXEC: ExecHandler(argv, directory, form)})
    await made.runs.open()
    execs.open()
    try:
        yield made
    finally:
        await made.runs.close()
        await execs.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def said(ops: list[Op]) -> list[tuple[Verb, int, str]]:
    return [(Verb(op.verb), op.argument, (op.record or b"").decode()) for op in ops]


def answers(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Callable[..., Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=body, headers=headers)

    return handle
