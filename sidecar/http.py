"""Runs `http:` handlers: one POST for each run, never retried; its answer, or what went wrong, ends the run.

The tables of `sidecar.outcomes` say what each answer means. Imported only where a kind has such a handler:
aiohttp is 20 MB. Source: interfaces "HTTP handlers".
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from mpy6a import limits
from mpy6a.clock import Clock
from mpy6a.config import HttpAddress, HttpHandler
from mpy6a.errors import Fenced, Gone, Mpy6aError, Refused, from_code
from mpy6a.model import Verb
from mpy6a.version import __version__
from sidecar.agent import Agent
from sidecar.callbacks import CallbackServer
from sidecar.httprun import Answer, HttpRun
from sidecar.outcomes import Outcome, http_answer, http_failure
from sidecar.values import RunKey, StartRun

logger = logging.getLogger(__name__)

PROBE_S: Final = 2.0  # for one question whether the handler is back


class HttpHandlers:
    """All http handlers of one sidecar. `wake` is called when the agent was told something."""

    def __init__(
        self,
        agent: Agent,
        handlers: Mapping[int, HttpHandler],
        callback: HttpAddress,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._handlers = handlers
        self._callback = callback
        self._clock = clock
        self._wake = wake
        self._server = CallbackServer(self._run_of)
        self._session: aiohttp.ClientSession
        self._runs: dict[RunKey, tuple[HttpRun, asyncio.Task[None]]] = {}
        self._by_token: dict[str, HttpRun] = {}
        self._writes: dict[int, Answer] = {}
        self._ends: dict[RunKey, Answer] = {}
        self._token = 0
        self._probes: dict[int, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """Listens for callbacks. Raises CannotStart."""
        # A connection for each call: on a kept one a restarted handler looks like a call that broke, and is
        # charged.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"mpy6a-sidecar/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        try:
            await self._server.open(self._callback)
        except BaseException:
            await self._session.close()
            raise
        for kind, handler in self._handlers.items():
            if handler.health is not None:
                self._unhealthy(kind)

    async def close(self) -> None:
        tasks = [task for _, task in self._runs.values()] + list(self._probes.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.close()
        await self._session.close()

    # ---- what the agent says

    def start(self, effect: StartRun) -> None:
        """Begins the run: its POST is on the way when this returns to the loop."""
        handler = self._handlers[effect.kind.id]
        run = HttpRun(effect.key, effect.kind, effect.repeat, handler.records, self)
        self._by_token[run.token] = run
        task = asyncio.get_running_loop().create_task(self._work(run, handler))
        task.add_done_callback(lambda _: self._over(run))
        self._runs[effect.key] = run, task

    def stop(self, key: RunKey, code: int) -> None:
        """The run is fenced off: its connection is closed, its token is dead."""
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

    def write(self, run: HttpRun, verb: Verb, record: bytes | None, argument: int) -> Answer:
        self._token += 1
        self._agent.write(run.key, verb, self._token, self._clock.monotonic_ms(), record, argument)
        answer: Answer = asyncio.get_running_loop().create_future()
        self._writes[self._token] = answer
        self._wake()
        return answer

    def end(self, run: HttpRun, verb: Verb, retry_after_ms: int, message: str) -> Answer:
        answer: Answer = asyncio.get_running_loop().create_future()
        self._ends[run.key] = answer
        self._agent.finished(run.key, self._clock.monotonic_ms(), verb, retry_after_ms, message)
        self._wake()
        return answer

    # ---- one run

    async def _work(self, run: HttpRun, handler: HttpHandler) -> None:
        outcome = await self._ask(run, handler)
        if outcome.unreachable:
            self._unhealthy(run.kind.id)
        await self._conclude(run, outcome)

    def _over(self, run: HttpRun) -> None:
        """Whatever ended the run, also before it began: nothing of it is left."""
        del self._runs[run.key]
        del self._by_token[run.token]
        run.end(Gone(f"session {run.key.session}: this run is over"))
        self._wake()

    async def _ask(self, run: HttpRun, handler: HttpHandler) -> Outcome:
        """The POST, within the kind's timeout; what its answer, or its failure, says."""
        try:
            body = run.body()
        except ValueError as error:
            return http_failure("records", str(error))
        try:
            async with (
                asyncio.timeout(run.kind.timeout_ms / 1000),
                self._session.post(
                    handler.url,
                    data=io.BytesIO(body),  # read in pieces: 16 MiB at once would hold up the loop
                    headers=run.headers(self._server.url),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(),
                ) as response,
            ):
                answer = await _read(response)
                if answer is None:
                    return http_failure("too_large")
                retry_after = response.headers.get("Retry-After")
                return http_answer(response.status, answer, retry_after, self._clock.wall_ms())
        except TimeoutError:
            return http_failure("timeout", f"{run.kind.timeout_ms} ms")
        except aiohttp.ClientConnectorDNSError as error:
            return http_failure("dns", str(error))
        except aiohttp.ClientConnectorError as error:
            return http_failure("refused", str(error))
        except (aiohttp.ClientError, OSError) as error:
            return http_failure("broken", str(error) or type(error).__name__)

    async def _conclude(self, run: HttpRun, outcome: Outcome) -> None:
        """Ends the run by its callback's decision, if there is one, else by its answer."""
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

    def _run_of(self, token: str) -> HttpRun | None:
        return self._by_token.get(token)

    # ---- is the handler there?

    def _unhealthy(self, kind: int) -> None:
        self._agent.healthy(kind, False)
        if kind not in self._probes:
            self._probes[kind] = asyncio.get_running_loop().create_task(self._probe(kind))
        self._wake()

    async def _probe(self, kind: int) -> None:
        """Asks once a second until it is back; then the kind has credit again."""
        handler = self._handlers[kind]
        logger.info("no credit until the handler is there", extra={"facts": {"kind": kind}})
        while True:
            if await self._is_there(handler):
                break
            await asyncio.sleep(limits.HEALTH_MS / 1000)
        del self._probes[kind]
        logger.info("the handler is there", extra={"facts": {"kind": kind}})
        self._agent.healthy(kind, True)
        self._wake()

    async def _is_there(self, handler: HttpHandler) -> bool:
        """Does `health:` answer 2xx; without it, does the handler's address take connections?"""
        try:
            async with asyncio.timeout(PROBE_S):
                if handler.health is not None:
                    async with self._session.get(handler.health, allow_redirects=False) as response:
                        return 200 <= response.status < 300
                parts = urlsplit(handler.url)
                port = parts.port or (443 if parts.scheme == "https" else 80)
                _, writer = await asyncio.open_connection(parts.hostname, port)
                writer.close()
                return True
        except (aiohttp.ClientError, OSError):
            return False


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None when it is over its bound."""
    answer = bytearray()
    async for part in response.content.iter_any():
        answer += part
        if len(answer) > limits.ANSWER_BYTES_MAX:
            return None
    return bytes(answer)


def _settle(answer: Answer | None, error: Mpy6aError | None) -> None:
    if answer is None or answer.done():
        return
    if error is None:
        answer.set_result(None)
    else:
        answer.set_exception(error)
        answer.exception()  # seen: whoever called may have gone
