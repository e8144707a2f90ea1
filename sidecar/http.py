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
from mpy6a.config import HttpHandler
from mpy6a.version import __version__
from sidecar.agent import Agent
from sidecar.callbackrun import CallbackRun
from sidecar.callbackruns import CallbackRuns
from sidecar.outcomes import Outcome, http_answer, http_failure
from sidecar.values import StartRun

logger = logging.getLogger(__name__)

PROBE_S: Final = 2.0  # for one question whether the handler is back


class HttpHandlers:
    """All http handlers of one sidecar. `wake` is called when the agent was told something."""

    def __init__(
        self,
        agent: Agent,
        runs: CallbackRuns,
        handlers: Mapping[int, HttpHandler],
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._runs = runs
        self._handlers = handlers
        self._clock = clock
        self._wake = wake
        self._session: aiohttp.ClientSession
        self._probes: dict[int, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Needs a running loop."""
        # A connection for each call: on a kept one a restarted handler looks like a call that broke, and is
        # charged.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"mpy6a-sidecar/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        self.serve(self._handlers)

    def serve(self, handlers: Mapping[int, HttpHandler]) -> None:
        """These from now on; runs go on with theirs. Asks for the health of those that are new and say where."""
        before, self._handlers = self._handlers, handlers
        for kind in list(self._probes):
            if before.get(kind) != handlers.get(kind):
                self._probes.pop(kind).cancel()
                self._agent.healthy(kind, True)
        for kind, handler in handlers.items():
            if handler.health is not None and (before is handlers or before.get(kind) != handler):
                self._unhealthy(kind)

    async def close(self) -> None:
        """Behind that of the runs: they use its connections."""
        probes = list(self._probes.values())
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes)
        await self._session.close()

    def start(self, effect: StartRun) -> None:
        """Begins the run: its POST is on the way when this returns to the loop."""
        handler = self._handlers[effect.kind.id]
        run = CallbackRun(effect.key, effect.kind, effect.repeat, handler.records, self._runs)
        self._runs.begin(run, self._work(run, handler))

    # ---- one run

    async def _work(self, run: CallbackRun, handler: HttpHandler) -> Outcome:
        outcome = await self._ask(run, handler)
        if outcome.unreachable and self._handlers.get(run.kind.id) == handler:
            self._unhealthy(run.kind.id)
        return outcome

    async def _ask(self, run: CallbackRun, handler: HttpHandler) -> Outcome:
        """The POST, within the kind's timeout; what its answer, or its failure, says."""
        try:
            body = await run.first_body()
        except ValueError as error:
            return http_failure("records", str(error))
        try:
            async with (
                asyncio.timeout(run.kind.timeout_ms / 1000),
                self._session.post(
                    handler.url,
                    data=io.BytesIO(body),  # read in pieces: 16 MiB at once would hold up the loop
                    headers=_headers(run, self._runs.url),
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


def _headers(run: CallbackRun, callback: str) -> dict[str, str]:
    """Those of the POST; `callback` is the base URL of the callback server."""
    headers = {
        "Content-Type": "application/json",
        "Mpy6a-Session": str(run.key.session),
        "Mpy6a-Fence": run.fence,
        "Mpy6a-Kind": run.kind.name,
        "Mpy6a-Callback": run.callback(callback),
    }
    if run.trace:
        headers["traceparent"] = run.trace
    return headers


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None when it is over its bound."""
    answer = bytearray()
    async for part in response.content.iter_any():
        answer += part
        if len(answer) > limits.ANSWER_BYTES_MAX:
            return None
    return bytes(answer)
