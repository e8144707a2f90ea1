"""Level `api`: as a service uses the library, N tasks on one `AsyncPipe`, with futures and an event loop."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from array import array
from collections.abc import Callable
from typing import Any, Final, cast

from mpy6a.benchmark.checked import CheckedConnection
from mpy6a.benchmark.exchange import SILENCE_S, WARM_UP_S
from mpy6a.benchmark.figures import CpuClock, Measured
from mpy6a.benchmark.place import KIND
from mpy6a.client.aio import AsyncPipe
from mpy6a.client.aio_driver import Token
from mpy6a.errors import BadRequest, Mpy6aError, Unavailable

LOOPS: Final = ("asyncio", "uvloop")

NewLoop = Callable[[], asyncio.AbstractEventLoop]


class ApiLoad:
    """One client process's pipe object. Use `measure` once, and `close`."""

    def __init__(self, door: str, loop: str = "asyncio") -> None:
        self._door = door
        self._new_loop = new_loop(loop)

    def measure(self, in_flight: int, seconds: float, record: bytes, cpu: CpuClock) -> Measured:
        """As `ExchangeLoad.measure`."""
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                return runner.run(_measure(self._door, in_flight, seconds, record, cpu))
        except* Mpy6aError as problems:
            first = problems.exceptions[0]
            raise Unavailable(f"an operation failed, so there is nothing to measure: {first}") from None

    def close(self) -> None:
        """Nothing is left: the pipe object ends with its run."""


def new_loop(name: str) -> NewLoop:
    """How an event loop of this kind is made. Raises BadRequest when uvloop is asked for and not there."""
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        module: Any = importlib.import_module("uvloop")  # Any: no dependency of the project
    except ImportError:
        raise BadRequest("--loop uvloop: it is not installed; `pip install uvloop`, or take --loop asyncio") from None
    return cast(NewLoop, module.new_event_loop)


async def _measure(door: str, in_flight: int, seconds: float, record: bytes, cpu: CpuClock) -> Measured:
    latencies_ns = array("Q")
    async with AsyncPipe(door, name="bench", timeout=SILENCE_S) as pipe:
        connection: CheckedConnection[Token] = CheckedConnection(os.urandom(16), door=door, name="bench")
        # Before the loop's next turn, so before anything is said: its heartbeats have the same incarnation.
        pipe.driver().connection = connection
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(_lifecycles(pipe, record, latencies_ns, ending))
            await asyncio.sleep(WARM_UP_S)
            before, warm_up, begun_ns = cpu(), len(latencies_ns), time.perf_counter_ns()
            await asyncio.sleep(seconds)
            ended_ns, upto, after = time.perf_counter_ns(), len(latencies_ns), cpu()
            ending.set()
        acks, acks_not_durable = connection.acks()
    return Measured(
        operations=upto - warm_up,
        elapsed_ns=ended_ns - begun_ns,
        latencies_ns=latencies_ns[warm_up:upto],
        cpu_ns={name: after[name] - before[name] for name in before},
        operations_all=len(latencies_ns),
        acks=acks,
        acks_not_durable=acks_not_durable,
    )


async def _lifecycles(pipe: AsyncPipe, record: bytes, latencies_ns: array[int], ending: asyncio.Event) -> None:
    """One session after the other, each operation awaited before the next, as the README's example does."""
    add_latency, clock_ns = latencies_ns.append, time.perf_counter_ns
    while not ending.is_set():
        called_ns = clock_ns()
        async with pipe.new(KIND) as session:
            now_ns = clock_ns()
            add_latency(now_ns - called_ns)
            for _ in range(3):
                called_ns = now_ns
                await session.append(record)
                now_ns = clock_ns()
                add_latency(now_ns - called_ns)
            called_ns = now_ns
            await session.delete()
            add_latency(clock_ns() - called_ns)
