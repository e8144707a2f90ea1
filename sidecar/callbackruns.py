"""All runs whose handler speaks by callback, of http and exec kinds: what they write, and how each ends.

Imported only where there are such kinds: the callback server is aiohttp's, 20 MB. Source: interfaces "HTTP handlers".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from mpy6a.clock import Clock
from mpy6a.config import HttpAddress
from mpy6a.errors import Fenced, Gone, Mpy6aError, Refused, from_code
from mpy6a.model import Verb
from sidecar.agent import Agent
from sidecar.callbackrun import Answer, CallbackRun
from sidecar.callbacks import CallbackServer
from sidecar.outcomes import Outcome
from sidecar.values import RunKey


class CallbackRuns:
    """Those of one sidecar. `wake` is called when the agent was told something."""

    def __init__(self, agent: Agent, callback: HttpAddress, clock: Clock, wake: Callable[[], None]) -> None:
        self._agent = agent
        self._callback = callback
        self._clock = clock
        self._wake = wake
        self._server = CallbackServer(self._run_of)
        self._runs: dict[RunKey, tuple[CallbackRun, asyncio.Task[None]]] = {}
        self._by_token: dict[str, CallbackRun] = {}
        self._writes: dict[int, Answer] = {}
        self._ends: dict[RunKey, Answer] = {}
        self._token = 0

    @property
    def url(self) -> str:
        """The base of all callback URLs."""
        return self._server.url

    async def open(self) -> None:
        """Listens for callbacks. Raises CannotStart."""
        await self._server.open(self._callback)

    async def close(self) -> None:
        """Ends all runs without a word to the pipe, then the server."""
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.close()

    def begin(self, run: CallbackRun, work: Coroutine[None, None, Outcome]) -> None:
        """Takes a run on. What `work` returns ends it, unless its callback has decided; a stop cancels `work`."""
        self._by_token[run.token] = run
        task = asyncio.get_running_loop().create_task(self._work(run, work))
        task.add_done_callback(lambda _: self._over(run, work))
        self._runs[run.key] = run, task

    # ---- what the agent says

    def stop(self, key: RunKey, code: int) -> None:
        """The run is fenced off: its work is cancelled, its token is dead."""
        if key in self._runs:
            run, task = self._runs[key]
            run.end(from_code(code, f"session {key.session}: this run was stopped"))
            task.cancel()

    def wrote(self, token: int, error: Mpy6aError | None) -> None:
        """The verdict on an operation."""
        _settle(self._writes.pop(token, None), error)

    def ended(self, key: RunKey, error: Mpy6aError | None) -> None:
        """The verdict on an ending."""
        _settle(self._ends.pop(key, None), error)

    # ---- what runs say (Writes)

    def write(self, run: CallbackRun, verb: Verb, record: bytes | None, argument: int) -> Answer:
        self._token += 1
        self._agent.write(run.key, verb, self._token, self._clock.monotonic_ms(), record, argument)
        answer: Answer = asyncio.get_running_loop().create_future()
        self._writes[self._token] = answer
        self._wake()
        return answer

    def end(self, run: CallbackRun, verb: Verb, retry_after_ms: int, message: str) -> Answer:
        answer: Answer = asyncio.get_running_loop().create_future()
        self._ends[run.key] = answer
        self._agent.finished(run.key, self._clock.monotonic_ms(), verb, retry_after_ms, message)
        self._wake()
        return answer

    # ---- one run

    async def _work(self, run: CallbackRun, work: Coroutine[None, None, Outcome]) -> None:
        await self._conclude(run, await work)

    def _over(self, run: CallbackRun, work: Coroutine[None, None, Outcome]) -> None:
        """Whatever ended the run, also before it began: nothing of it is left."""
        work.close()
        if self._runs.get(run.key, (None, None))[0] is run:  # else the same epoch came again, under a higher fence
            del self._runs[run.key]
        del self._by_token[run.token]
        run.end(Gone(f"session {run.key.session}: this run is over"))
        self._wake()

    async def _conclude(self, run: CallbackRun, outcome: Outcome) -> None:
        """Ends the run by its callback's decision, if there is one, else by `outcome`."""
        now_ms = self._clock.monotonic_ms
        while run.decision is not None:
            decision = run.decision
            await asyncio.wait([decision])
            if decision.exception() is None:
                self._agent.finished(run.key, now_ms(), None)
                return
            await asyncio.sleep(0)  # lets the run take note that it decided nothing
        run.over = Gone(f"session {run.key.session}: this run has answered")
        if outcome.verb not in (Verb.DELETE, Verb.STORE):
            self._agent.finished(run.key, now_ms(), outcome.verb, outcome.after_ms, outcome.message)
            return
        try:
            await self.write(run, outcome.verb, None, outcome.after_ms if outcome.verb is Verb.STORE else 0)
        except (Fenced, Gone):
            self._agent.finished(run.key, now_ms(), None)
        except Refused as error:
            self._agent.finished(run.key, now_ms(), Verb.FAIL, 0, str(error))
        except Mpy6aError as error:
            self._agent.finished(run.key, now_ms(), Verb.RELEASE, 0, str(error))
        else:
            self._agent.finished(run.key, now_ms(), None)

    def _run_of(self, token: str) -> CallbackRun | None:
        return self._by_token.get(token)


def _settle(answer: Answer | None, error: Mpy6aError | None) -> None:
    if answer is None or answer.done():
        return
    if error is None:
        answer.set_result(None)
    else:
        answer.set_exception(error)
        answer.exception()  # seen: whoever called may have gone
