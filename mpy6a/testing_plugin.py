"""The pytest plugin: the fixture `mpy6a_pipe`. Loaded into every pytest run of an environment that has mpy6a, so it
imports nothing of the pipe until a test asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from mpy6a.testing import EmbeddedPipe

MakePipe: TypeAlias = "Callable[..., AbstractAsyncContextManager[EmbeddedPipe]]"


@pytest.fixture
def mpy6a_pipe() -> MakePipe:
    """Embedded pipes: `async with mpy6a_pipe(finish_user_create) as pipe:`, with the arguments of
    `mpy6a.testing.pipe`. When the block fails, the sessions live at that moment are printed with the test's output."""

    @asynccontextmanager
    async def make(*handlers: Callable[..., object], **options: Any) -> AsyncIterator[EmbeddedPipe]:
        from mpy6a import testing

        async with testing.pipe(*handlers, **options) as pipe:
            try:
                yield pipe
            except BaseException:
                print(pipe.describe())
                raise

    return make
