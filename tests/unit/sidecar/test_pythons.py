"""The process of the python handlers is kept running, and does not outlive its sidecar."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mpy6a import limits
from sidecar import child
from sidecar.pythons import PythonHandlers


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # the process tells by its pid alone
            await asyncio.sleep(0)


def run(test: Callable[[PythonHandlers], Awaitable[None]], path: Path) -> None:
    async def whole() -> None:
        handlers = PythonHandlers(f"ipc://{path}/nobody.sock", ["nothing:here"], [path], 4)
        handlers.start(asyncio.get_running_loop())
        try:
            await until(lambda: handlers.pid is not None)
            await test(handlers)
        finally:
            await handlers.close()
        assert handlers.pid is None

    asyncio.run(whole())


def test_a_process_that_dies_is_started_again(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHILD_RESTART_MS", 1)

    async def test(handlers: PythonHandlers) -> None:
        first = handlers.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: handlers.pid not in (None, first))
        assert handlers.started == 2

    run(test, short_tmp)


def test_while_draining_it_is_not_started_again(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHILD_RESTART_MS", 1)

    async def test(handlers: PythonHandlers) -> None:
        handlers.drain()
        assert handlers.pid is not None
        os.kill(handlers.pid, signal.SIGKILL)
        await until(lambda: handlers.pid is None)
        assert handlers.started == 1

    run(test, short_tmp)


def test_whoever_wants_it_once_is_told_of_its_end(short_tmp: Path) -> None:
    """With its status; it is not started again."""

    async def whole() -> None:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        door = f"ipc://{short_tmp}/nobody.sock"
        handlers = PythonHandlers(door, ["no_such_module:f"], [short_tmp], 4, told.set_result)
        handlers.start(asyncio.get_running_loop())
        try:
            assert await asyncio.wait_for(told, 30) == 2
            assert (handlers.pid, handlers.started) == (None, 1)
        finally:
            await handlers.close()

    asyncio.run(whole())


def test_a_handler_is_found_by_module_and_name() -> None:
    assert child.find("os.path:join") is os.path.join
    assert child.find("pathlib:Path.cwd")() == Path.cwd()


@pytest.mark.parametrize(
    ("target", "error"),
    [("no_such_module:f", ImportError), ("os:no_such_name", AttributeError), ("os:sep", ValueError)],
)
def test_a_handler_that_is_not_there_is_an_error(target: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        child.find(target)
