"""The callback server: what a running http or exec handler says before its end. Loopback unless configured
otherwise.

`POST $CB/append`, `/replace`, `/touch`, `/delete`, `/store?after=30s`, `/release`, `/park?reason=...`, `GET
$CB`. The 128-bit token in the path is the right to speak for one run, and dies with it. Source: interfaces
"HTTP handlers".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from mpy6a import limits
from mpy6a.config import HttpAddress
from mpy6a.errors import CannotStart, Mpy6aError
from mpy6a.model import BY_POLICY, Verb
from sidecar.callbackrun import TOKEN, CallbackRun, name_of, status_of
from sidecar.outcomes import CALLBACK_OK, CALLBACK_REFUSED, CALLBACK_RETRY_S, CALLBACKS, duration_ms, text

OPERATION: Final = "Mpy6a-Op"
_OVER: Final = "GONE: this run is decided, fenced off or timed out: stop, and roll back your own transaction"


class CallbackServer:
    """Listens for the callbacks of all runs. `run_of` finds the run of a token."""

    def __init__(self, run_of: Callable[[str], CallbackRun | None]) -> None:
        self.url = ""
        self._run_of = run_of
        self._runner: web.AppRunner | None = None

    async def open(self, address: HttpAddress) -> None:
        """Binds. Raises CannotStart."""
        app = web.Application(client_max_size=limits.CALLBACK_BYTES_MAX)
        app.router.add_get("/s/{token}", self._get)
        app.router.add_post("/s/{token}/{action}", self._post)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address.host, address.port)
        try:
            await site.start()
        except OSError as problem:
            raise CannotStart(
                f"{address} (`callback:` of sidecar.yaml): {problem.strerror or problem};"
                " stop what listens there, or take port 0"
            ) from None
        port = self._runner.addresses[0][1]
        self.url = str(HttpAddress(address.host, port))

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        run = self._run(request)
        if run is None or run.over is not None:
            return _plain(CALLBACK_REFUSED, _OVER)
        try:
            return web.Response(body=run.body(), content_type="application/json")
        except ValueError as error:
            return _plain(422, f"a record is not valid in the form that `records:` names: {error}")

    async def _post(self, request: web.Request) -> web.Response:
        verb = CALLBACKS.get(request.match_info["action"])
        if verb is None:
            raise web.HTTPNotFound(text=f"no such callback; there are {', '.join(CALLBACKS)}\n")
        run = self._run(request)
        if run is None:
            return _plain(CALLBACK_REFUSED, _OVER)
        record = await request.read() if verb in (Verb.APPEND, Verb.REPLACE) else None
        try:
            number = _number(request.headers.get(OPERATION))
            argument = _argument(verb, request)
            reason = text(request.query.get("reason", "").encode()) if verb is Verb.PARK else ""
            await run.say(verb, record, argument, reason, number)
        except ValueError as error:
            return _plain(400, str(error))
        except Mpy6aError as error:
            return _refusal(error)
        return web.Response(status=CALLBACK_OK)

    def _run(self, request: web.Request) -> CallbackRun | None:
        token = request.match_info["token"]
        if not TOKEN.fullmatch(token):
            raise web.HTTPNotFound(text="no such callback\n")
        return self._run_of(token)


def _argument(verb: Verb, request: web.Request) -> int:
    """After how long; the kind's policy says it where nobody else does."""
    after = request.query.get("after")
    if verb is not Verb.STORE:
        return BY_POLICY if verb is Verb.RELEASE else 0
    return BY_POLICY if after is None else duration_ms(after)


def _number(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdecimal() or not 1 <= len(value) <= 18 or int(value) < 1:
        raise ValueError(f"{OPERATION}: {value[:32]!r} is no number; calls of a run are numbered 1, 2, ...")
    return int(value)


def _refusal(error: Mpy6aError) -> web.Response:
    status = status_of(error)
    answer = _plain(status, f"{name_of(error)}: {error}")
    if status == 503:
        answer.headers["Retry-After"] = str(CALLBACK_RETRY_S)
    return answer


def _plain(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=sentence + "\n")
