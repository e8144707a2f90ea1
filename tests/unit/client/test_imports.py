"""What an import of the library loads: as little as is used."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import mpy6a", set()),
        ("from mpy6a import Fenced, UndecidedSession, handler, Record", set()),
        ("from mpy6a import Pipe", {"zmq"}),
        ("from mpy6a import AsyncPipe", {"zmq", "asyncio"}),
    ],
)
def test_only_what_is_used_is_loaded(code: str, loaded: set[str]) -> None:
    """No config, no HTTP, and Cap'n Proto only when a message needs it."""
    heavy = {"zmq", "asyncio", "capnp", "pydantic", "yaml", "aiohttp", "click", "sqlite3"}
    program = f"import sys; {code}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert set(done.stdout.split()) == loaded
