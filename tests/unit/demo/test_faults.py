"""Faults are drawn by seed, and do inside a service exactly what they are named for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from mpy6a.demo.faults import HANG_MS_MAX, Draw, Fault, Schedule, middleware


def test_the_draws_of_a_run_are_a_function_of_seed_service_and_run() -> None:
    """A run can be replayed, and no two services or runs share their luck."""
    first = [Schedule(7, "users", 1, 0.5).draw() for _ in range(1)]
    schedule = Schedule(7, "users", 1, 0.5)
    again = [schedule.draw() for _ in range(64)]
    assert again[:1] == first
    for other in (Schedule(8, "users", 1, 0.5), Schedule(7, "search", 1, 0.5), Schedule(7, "users", 2, 0.5)):
        assert [other.draw() for _ in range(64)] != again
    assert [draw.number for draw in again] == list(range(1, 65))


def test_fail_is_the_share_of_requests_with_a_fault_and_the_three_faults_share_it() -> None:
    """--fail 0.1 means a tenth, in thirds; a hang is up to ten seconds."""
    schedule = Schedule(1, "users", 1, 0.1)
    draws = [schedule.draw() for _ in range(20_000)]
    counted = Counter(draw.fault for draw in draws)
    assert 1_800 < 20_000 - counted[Fault.NONE] < 2_200
    assert all(550 < counted[fault] < 790 for fault in (Fault.REFUSE, Fault.MUTE, Fault.HANG))
    hangs = [draw.hang_ms for draw in draws if draw.fault is Fault.HANG]
    assert 1 <= min(hangs) < 500
    assert HANG_MS_MAX - 500 < max(hangs) <= HANG_MS_MAX
    assert all(draw.hang_ms == 0 for draw in draws if draw.fault is not Fault.HANG)


def test_the_ends_of_fail() -> None:
    """0 is never, 1 is always, and what is no probability is refused."""
    never, always = Schedule(1, "users", 1, 0.0), Schedule(1, "users", 1, 1.0)
    assert {never.draw().fault for _ in range(500)} == {Fault.NONE}
    assert Fault.NONE not in {always.draw().fault for _ in range(500)}
    with pytest.raises(ValueError):
        Schedule(1, "users", 1, 1.5)


@dataclass
class Played(Schedule):
    """A schedule that says what the test wants."""

    draws: list[Draw] = field(default_factory=list)

    def draw(self) -> Draw:
        return self.draws.pop(0)


@dataclass
class Bench:
    """One path whose work is counted, behind the middleware, with a clock that waits for the test."""

    worked: int = 0
    told: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    worked_on: asyncio.Event = field(default_factory=asyncio.Event)
    asleep: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[str] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asleep.set()
        await self.wake.wait()

    async def work(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.text())
        self.worked += 1
        self.worked_on.set()
        return web.Response(text="made")


def play(draws: list[Draw], script: Callable[[Bench, aiohttp.ClientSession, str], Awaitable[None]]) -> Bench:
    """Run the script against a real server on a loopback port."""

    async def run() -> Bench:
        bench = Bench()
        played = middleware(Played(draws), bench.told.append, frozenset({"/stats"}), bench.sleep)
        app = web.Application(middlewares=[played])
        app.router.add_route("*", "/{path:.*}", bench.work)
        runner = web.AppRunner(app)  # not aiohttp's TestServer: that one cancels what its caller left
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
                await asyncio.wait_for(script(bench, session, url), 10)
        finally:
            await runner.cleanup()
        return bench

    return asyncio.run(run())


def test_refuse_answers_503_before_the_work() -> None:
    """Nothing is done for a request that was refused."""

    async def script(bench: Bench, session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(url) as answer:
            assert answer.status == 503

    bench = play([Draw(1, Fault.REFUSE)], script)
    assert bench.worked == 0
    assert bench.told == ["fault draw=1 refuse POST /"]


def test_mute_does_the_work_and_closes_without_an_answer() -> None:
    """The caller cannot know whether the work was done; it was."""

    async def script(bench: Bench, session: aiohttp.ClientSession, url: str) -> None:
        with pytest.raises(aiohttp.ClientError):
            await session.post(url)

    assert play([Draw(1, Fault.MUTE)], script).worked == 1


def test_hang_does_the_work_long_after_its_caller_went() -> None:
    """The zombie: the caller has hung up, and the work is done all the same, on the body that it had sent."""

    async def script(bench: Bench, session: aiohttp.ClientSession, url: str) -> None:
        call = asyncio.create_task(session.post(url, json={"nickname": "late"}))
        await bench.asleep.wait()
        call.cancel()
        await asyncio.wait([call])
        await session.close()
        assert bench.worked == 0
        bench.wake.set()
        await bench.worked_on.wait()

    bench = play([Draw(1, Fault.HANG, 3_250)], script)
    assert bench.bodies == ['{"nickname": "late"}']
    assert bench.slept == [3.25]
    assert bench.told == ["fault draw=1 hang 3250ms POST /"]


def test_a_spared_path_takes_no_draw() -> None:
    """Watching a service does not change its luck."""

    async def script(bench: Bench, session: aiohttp.ClientSession, url: str) -> None:
        for path, status in (("stats", 200), ("users", 503)):
            async with session.get(url + path) as answer:
                assert answer.status == status

    assert play([Draw(1, Fault.REFUSE)], script).worked == 1
