"""The seeded schedule of faults that happen inside the demo's services, and the middleware that plays them.

Draw number n of a service's run r is a pure function of (seed, service, r, n), so that a run can be
replayed: the service prints its run number at the start and every fault with its draw number. Which request
meets which draw depends on the order of arrival; the draws themselves do not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from aiohttp import web

HANG_MS_MAX: Final = 10_000  # past the client's timeout (2 s) and a handler's run (5 s) in most draws

_PPM: Final = 1_000_000  # probabilities are compared as integers

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fault(Enum):
    """What happens to a request."""

    NONE = "none"
    REFUSE = "refuse"  # 503 before the work
    MUTE = "mute"  # the work is done and the connection closed without an answer
    HANG = "hang"  # nothing at first, then the work, whoever still waits for it


@dataclass(frozen=True, slots=True)
class Draw:
    """One decision of the schedule; `number` counts from 1 in each run of a service."""

    number: int
    fault: Fault
    hang_ms: int = 0


class Schedule:
    """The draws of one run of one service, in order."""

    def __init__(self, seed: int, service: str, run: int, fail: float) -> None:
        if not 0.0 <= fail <= 1.0:
            raise ValueError(f"--fail is {fail}, allowed is 0 to 1")
        self._prefix = f"{seed}/{service}/{run}/"
        self._fail_ppm = round(fail * _PPM)
        self._number = 0

    def draw(self) -> Draw:
        """The next decision."""
        self._number += 1
        digest = hashlib.blake2b(f"{self._prefix}{self._number}".encode(), digest_size=24).digest()
        chance, which, length = (int.from_bytes(digest[at : at + 8], "big") for at in (0, 8, 16))
        if chance % _PPM >= self._fail_ppm:
            return Draw(self._number, Fault.NONE)
        match which % 3:
            case 0:
                return Draw(self._number, Fault.REFUSE)
            case 1:
                return Draw(self._number, Fault.MUTE)
            case _:
                return Draw(self._number, Fault.HANG, 1 + length % HANG_MS_MAX)


def middleware(
    schedule: Schedule,
    tell: Callable[[str], None],
    spared: frozenset[str],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Middleware:
    """An aiohttp middleware that plays the schedule on every path that is not `spared`.

    `tell` gets one line a fault; `sleep` is the clock's. The work of a request that hung goes on when its
    caller is gone: aiohttp cancels a handler only where that was asked for, and here it must not be.
    """

    @web.middleware
    async def play(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in spared:
            return await handler(request)
        draw = schedule.draw()
        if draw.fault is not Fault.NONE:
            what = f"{draw.fault.value} {draw.hang_ms}ms" if draw.hang_ms else draw.fault.value
            tell(f"fault draw={draw.number} {what} {request.method} {request.path}")
        if draw.fault is Fault.REFUSE:
            return web.json_response({"error": "refused by the schedule of faults"}, status=503)
        if draw.fault is Fault.HANG:
            await request.read()  # kept by the request; once the caller has hung up, its body can no longer be read
            await sleep(draw.hang_ms / 1000)
        answer = await handler(request)
        if draw.fault is Fault.MUTE and request.transport is not None:
            request.transport.abort()
        return answer

    return play
