"""All handlers of one sidecar: begun with it, replaced at a reload, ended with it.

What runs goes on with the handler it began with, whatever a reload brings; what is pushed next gets the new one. A new
process of `python:` handlers serves before the old one is let go, so that one that cannot be loaded changes nothing.
Source: docs/ARCHITECTURE.md, "The way of a reload".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING

from mpy6a import limits
from mpy6a.clock import Clock
from mpy6a.config import ExecHandler, HttpHandler, PythonHandler, SidecarSettings
from mpy6a.errors import CannotStart
from sidecar.agent import Agent
from sidecar.pythons import PythonHandlers
from sidecar.runs import Stage
from sidecar.values import KindSetup, StartRun

if TYPE_CHECKING:
    from sidecar.callbackruns import CallbackRuns
    from sidecar.execs import ExecHandlers
    from sidecar.http import HttpHandlers

logger = logging.getLogger(__name__)

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Handlers:
    """Those of one sidecar. `wake` is called when the agent was told something, `until` waits for what it comes to."""

    def __init__(
        self,
        settings: SidecarSettings,
        agent: Agent,
        clock: Clock,
        wake: Callable[[], None],
        until: Until,
        on_python_end: Callable[[int], None] | None = None,
    ) -> None:
        """`on_python_end`: the process of the python handlers is not started again, and that is called at its end."""
        self._on_python_end = on_python_end
        self.callbacks: CallbackRuns | None = None
        self._settings = settings
        self._agent = agent
        self._clock = clock
        self._wake = wake
        self._until = until
        self._http: HttpHandlers | None = None
        self._execs: ExecHandlers | None = None
        self._pythons: PythonHandlers | None = None
        self._generation = 0
        self._retiring: dict[asyncio.Task[None], Callable[[], Awaitable[None]]] = {}

    async def open(self) -> None:
        """Starts what the settings name. Raises CannotStart."""
        settings = self._settings
        await self._open_called(settings)
        self._execs = self._new_execs(settings)
        self._set_http(settings)
        self._pythons = self._new_pythons(settings)

    def start(self, effect: StartRun) -> None:
        """Begins a run that the sidecar itself calls."""
        called = self._execs if effect.kind.handler == "exec" else self._http
        assert called is not None
        called.start(effect)

    def drain(self) -> None:
        """From now on a process that ends is not started again."""
        if self._pythons is not None:
            self._pythons.drain()

    async def close(self) -> None:
        """Ends all of them."""
        retiring, self._retiring = self._retiring, {}
        for task in retiring:
            task.cancel()
        for close in retiring.values():
            await close()
        if self._pythons is not None:
            await self._pythons.close()
        if self.callbacks is not None:
            await self.callbacks.close()
        if self._http is not None:
            await self._http.close()
        if self._execs is not None:
            await self._execs.close()

    # ------------------------------------------------------------------ reload

    async def reload(self, settings: SidecarSettings, kinds: tuple[KindSetup, ...]) -> None:
        """These settings from now on; `kinds` is what the agent is to know of them. Raises CannotStart, and then
        nothing has changed."""
        execs = pythons = None
        changed = _by_id(settings) != _by_id(self._settings)
        try:
            await self._open_called(settings)
            execs = self._new_execs(settings) if changed else self._execs
            pythons = self._new_pythons(settings)
            if pythons is not None:
                await self._serving(pythons, kinds)
        except BaseException:
            self._agent.handing.coming = {}
            if pythons is not None:
                await pythons.close()
            if execs is not None and execs is not self._execs:
                await execs.close()
            raise
        old_execs, old_pythons = self._execs, self._pythons
        self._settings, self._execs, self._pythons = settings, execs, pythons
        self._agent.reload(kinds, self._clock.monotonic_ms())
        self._set_http(settings)
        if old_execs is not None and old_execs is not execs:
            self._retire(self._runs_over(), old_execs.close)
        if old_pythons is not None:
            old_pythons.drain()
            self._agent.retire(old_pythons.name)
            self._retire(self._left(old_pythons.name), old_pythons.close)
        self._wake()

    async def _serving(self, pythons: PythonHandlers, kinds: tuple[KindSetup, ...]) -> None:
        """Waits until the new process serves its kinds; they may be new to the agent."""
        wanted = frozenset(kind.id for kind in kinds if kind.handler == "python")
        self._agent.handing.coming = {kind.id: kind for kind in kinds}
        serves = self._agent.clients.named
        ended = asyncio.ensure_future(pythons.first_end.wait())
        served = asyncio.ensure_future(
            self._until(lambda: any(one.concurrency and wanted <= one.serves for one in serves(pythons.name)))
        )
        try:
            await asyncio.wait(
                {ended, served}, timeout=limits.RELOAD_MS / 1000, return_when=asyncio.FIRST_COMPLETED
            )
            if not served.done():
                how = f"ended with status {pythons.status}" if ended.done() else "does not serve them in time"
                raise CannotStart(
                    f"the new process of the python handlers {how}: its output says why; a kind that is new has to be"
                    " in the pipe's routes first (`mpy6a reload`)"
                )
        finally:
            for waiting in (ended, served):
                waiting.cancel()
            await asyncio.wait({ended, served})

    def _retire(self, idle: Coroutine[None, None, None], close: Callable[[], Awaitable[None]]) -> None:
        async def wait_and_close() -> None:
            await idle
            await close()

        task = asyncio.get_running_loop().create_task(wait_and_close())
        self._retiring[task] = close
        task.add_done_callback(lambda done: self._retiring.pop(done, None))

    async def _runs_over(self) -> None:
        """Until the runs that the sidecar itself has begun so far are over."""
        runs = self._agent.handing.runs
        before = [run for run in runs.all() if run.stage is Stage.RUNNING and not run.holder]
        await self._until(
            lambda: not any(run.stage is Stage.RUNNING and runs.get(run.key) is run for run in before)
        )

    async def _left(self, name: str) -> None:
        """Until the old process has nothing to do any more."""
        await self._until(lambda: not any(client.running for client in self._agent.clients.named(name)))

    # ------------------------------------------------------------------ making them

    async def _open_called(self, settings: SidecarSettings) -> None:
        """What http and exec handlers need, where there are any and it is not open yet."""
        specs = settings.handlers.values()
        https = any(isinstance(spec, HttpHandler) for spec in specs)
        if not https and not _execs(settings):
            return
        if self.callbacks is None:
            # aiohttp: 150 ms and 20 MB that others do not pay
            await asyncio.to_thread(import_module, "sidecar.callbackruns")
            from sidecar.callbackruns import CallbackRuns

            callbacks = CallbackRuns(self._agent, settings.callback, self._clock, self._wake)
            await callbacks.open()
            self.callbacks = callbacks
        if https and self._http is None:
            from sidecar.http import HttpHandlers

            self._http = HttpHandlers(self._agent, self.callbacks, {}, self._clock, self._wake)
            self._http.open()

    def _set_http(self, settings: SidecarSettings) -> None:
        if self._http is not None:
            ids = _ids(settings)
            specs = settings.handlers.items()
            self._http.serve({ids[name]: spec for name, spec in specs if isinstance(spec, HttpHandler)})

    def _new_execs(self, settings: SidecarSettings) -> ExecHandlers | None:
        specs = _execs(settings)
        if not specs:
            return None
        from sidecar import execs

        assert self.callbacks is not None
        for name, spec in specs.items():
            execs.check(name, spec)
        made = execs.ExecHandlers(self.callbacks, _by_id(settings))
        made.open()
        return made

    def _new_pythons(self, settings: SidecarSettings) -> PythonHandlers | None:
        routes = [route for route in settings.kinds.values() if isinstance(route.handler, PythonHandler)]
        targets = [route.handler.target for route in routes if isinstance(route.handler, PythonHandler)]
        if not targets:
            return None
        concurrency = min(sum(route.policy.concurrency for route in routes), limits.CONCURRENCY_MAX)
        self._generation += 1
        name = "python handlers" if self._generation == 1 else f"python handlers {self._generation}"
        made = PythonHandlers(settings.listen, targets, settings.path, concurrency, self._on_python_end, name)
        made.start(asyncio.get_running_loop())
        return made


def _ids(settings: SidecarSettings) -> dict[str, int]:
    return {name: route.policy.id for name, route in settings.kinds.items()}


def _by_id(settings: SidecarSettings) -> dict[int, ExecHandler]:
    ids = _ids(settings)
    return {ids[name]: spec for name, spec in _execs(settings).items()}


def _execs(settings: SidecarSettings) -> dict[str, ExecHandler]:
    return {name: spec for name, spec in settings.handlers.items() if isinstance(spec, ExecHandler)}
