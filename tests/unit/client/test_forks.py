"""After os.fork() the child is a client of its own: the parent's sockets, sessions and incarnation stay the
parent's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpy6a.messages import Goodbye, Hello
from tests.fakes.hop import Hop
from tests.processes import Processes

_BLOCKING = """
import os, sys
import mpy6a

pipe = mpy6a.Pipe(sys.argv[1])
session = pipe.new("user-create", b"parent")
pid = os.fork()
if pid == 0:
    try:
        session.append(b"child")
    except mpy6a.SessionClosed as error:
        assert "belongs to the process that opened it" in str(error), error
    else:
        os._exit(3)
    with pipe.new("invoice", b"child") as own:
        own.delete()
    pipe.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
session.append(b"parent again")
session.delete()
pipe.close()
"""

_ASYNC = """
import asyncio, os, sys
import mpy6a

pipe = mpy6a.AsyncPipe(sys.argv[1])

async def child(session):
    try:
        session.append(b"child")
    except mpy6a.SessionClosed as error:
        assert "belongs to the process that opened it" in str(error), error
    else:
        os._exit(3)
    async with pipe.new("invoice", b"child") as own:
        await own.delete()
    await pipe.aclose()

async def parent():
    session = await pipe.new("user-create", b"parent")
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(child(session))
            os._exit(0)
        finally:
            os._exit(4)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    await session.append(b"parent again")
    await session.delete()
    await pipe.aclose()

asyncio.run(parent())
"""


@pytest.mark.parametrize("program", [_BLOCKING, _ASYNC], ids=["blocking", "async"])
def test_a_fork_is_a_client_of_its_own(program: str, short_tmp: Path, processes: Processes) -> None:
    """The child refuses the parent's session with a reason and opens its own under a new incarnation; the parent goes
    on as if nothing had been."""
    with Hop(f"ipc://{short_tmp}/door.sock") as hop:
        # Forking with threads is what is tested; Python 3.12 and later warn about it.
        argv = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, hop.address]
        process = processes.start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output.decode()
        assert output == b""
        hop.wait_for(lambda fake: len(fake.named(Goodbye)) == 2)
        assert [session.records for session in hop.pipe.sessions.values()] == [[b"parent", b"parent again"], [b"child"]]
        who = [incarnation for incarnation, message in hop.pipe.got if isinstance(message, Hello)]
        assert len(set(who)) == len(who) == 2
        assert len({incarnation for incarnation, _ in hop.pipe.batches}) == 2
        assert not hop.pipe.violations
