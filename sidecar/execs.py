"""Runs `exec:` handlers: one program for each run, fed RepeatData on stdin; its exit status ends the run.

The tables of `sidecar.outcomes` say what each status means. Source: interfaces "exec handlers".
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping

from mpy6a.config import ExecHandler
from mpy6a.errors import CannotStart, Gone
from sidecar.callbackrun import CallbackRun
from sidecar.callbackruns import CallbackRuns
from sidecar.outcomes import Outcome, exec_failure
from sidecar.programs import Program, Programs
from sidecar.values import StartRun

logger = logging.getLogger(__name__)


class ExecHandlers:
    """All exec handlers of one sidecar, by the kind's id."""

    def __init__(self, runs: CallbackRuns, handlers: Mapping[int, ExecHandler]) -> None:
        self._runs = runs
        self._handlers = handlers
        self.programs = Programs({kind: (handler.argv, handler.directory) for kind, handler in handlers.items()})

    def open(self) -> None:
        """Starts what starts the programs. Raises CannotStart."""
        try:
            self.programs.open()
        except OSError as problem:
            raise CannotStart(f"the process that starts programs: {problem.strerror}; see `ulimit -a`") from None

    async def close(self) -> None:
        """Ends what still runs: SIGTERM, EXEC_STOP_MS, SIGKILL. Behind that of the runs."""
        await self.programs.close()

    def start(self, effect: StartRun) -> None:
        """Begins the run: its program is started when this has returned to the loop."""
        run = CallbackRun(effect.key, effect.kind, effect.repeat, self._handlers[effect.kind.id].records, self._runs)
        self._runs.begin(run, self._work(run))

    async def _work(self, run: CallbackRun) -> Outcome:
        try:
            document = await run.first_body()
        except ValueError as error:
            return exec_failure("records", str(error))
        try:
            program = self.programs.begin(run.kind.id, _environment(run, self._runs.url), document)
        except OSError as problem:
            outcome = exec_failure("not_started", problem.strerror or str(problem))
        else:
            outcome = await _end_of(program, run)
        if outcome.unreachable:
            facts = {"kind": run.kind.name, "session": str(run.key.session), "why": outcome.message}
            logger.error("a program was not started; its session is released", extra={"facts": facts})
        return outcome


async def _end_of(program: Program, run: CallbackRun) -> Outcome:
    """What the program's end says; at the kind's timeout it is stopped, and so when this is cancelled."""
    try:
        await asyncio.wait([program.ended], timeout=run.kind.timeout_ms / 1000)
        if program.ended.done():
            return program.ended.result()
        run.over = Gone(f"session {run.key.session}: this run has timed out")  # its token is dead
        program.stop()
        await asyncio.wait([program.ended])
        return exec_failure("timeout", f"{run.kind.timeout_ms} ms")
    finally:
        program.stop()


def _environment(run: CallbackRun, callback: str) -> dict[str, str]:
    """What a program's environment has beside the sidecar's; `callback` is the base URL of the callback server."""
    environment = {
        "MPY6A_SESSION": str(run.key.session),
        "MPY6A_FENCE": run.fence,
        "MPY6A_KIND": run.kind.name,
        "MPY6A_CALLBACK": run.callback(callback),
    }
    if run.trace:
        environment["TRACEPARENT"] = run.trace
    return environment


def check(kind: str, handler: ExecHandler) -> None:
    """Raises CannotStart if the program is not there, or may not be executed; its kind is told by name."""
    command = handler.argv[0]
    where = f"kind {kind!r}: the program {command!r} of `handler: {{exec: [...]}}`"
    if "/" not in command:
        if shutil.which(command) is None:
            raise CannotStart(f"{where} is in no directory of $PATH: install it, or give its path")
        return
    path = handler.directory / command
    if not path.exists():
        raise CannotStart(f"{where} is not there ({path}): install it, or correct its path")
    if shutil.which(str(path)) is None:
        raise CannotStart(f"{where} cannot be executed ({path}): it has to be a file with `chmod +x`")
