"""What tests of the async client share: a loop with a deadline, a door, and the one session there is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.fakes.hop import FakePipe, FakeSession

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run with a deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(10):
            return await main

    return asyncio.run(bounded())


def door(short_tmp: Path) -> str:
    return f"ipc://{short_tmp}/door.sock"


def only(pipe: FakePipe) -> FakeSession:
    (session,) = pipe.sessions.values()
    return session
