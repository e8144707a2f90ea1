"""The fixture `mpy6a_pipe`, as users find it in their own tests."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ("pytester",)

USERS_TESTS = """
import asyncio
import mpy6a

@mpy6a.handler("greeting")
async def finish_greeting(repeat):
    await repeat.session.delete()

async def greet(mpy6a_pipe, seconds):
    async with mpy6a_pipe(finish_greeting, kinds={"greeting": mpy6a.testing.Kind(delay=2)}) as pipe:
        async with pipe.new("greeting", b"Ada") as session:
            await session.store()
        assert [one.state for one in pipe.sessions()] == ["STORED"]
        await pipe.advance(seconds)
        assert not pipe.sessions()

def test_good(mpy6a_pipe):
    asyncio.run(greet(mpy6a_pipe, 3))

def test_bad(mpy6a_pipe):
    asyncio.run(greet(mpy6a_pipe, 1))
"""


def test_users_tests_get_embedded_pipes_by_name(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture's name is all a test needs; when one fails, what is not finished is shown, and why it waits."""
    pytester.makepyfile(USERS_TESTS)
    monkeypatch.setenv("PYTHONPATH", _root())
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # nobody else's plugins: they only cost time
    # By name, not by its entry point, which a checkout does not have. A process of its own: pytester takes loaded
    # modules away behind a run in this one, and pycapnp does not survive that.
    result = pytester.runpytest_subprocess("-p", "no:mpy6a", "-p", "mpy6a.testing_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["1 live sessions at 1 s", "  1.1.3 greeting STORED * TIMER due in 1.0 s; 'Ada'"])


def test_the_plugin_costs_others_nothing() -> None:
    """In every pytest run of the environment it is imported, and must not import the pipe with it."""
    script = "import sys, mpy6a.testing_plugin; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_root())
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] in ("mpy6a", "sidecar", "zmq", "capnp")}
    assert loaded == {"mpy6a", "mpy6a.testing_plugin", "mpy6a.version"}


def _root() -> str:
    """Where `import mpy6a` works without an installation: beside the package that this run tests."""
    import mpy6a

    assert mpy6a.__file__ is not None
    return mpy6a.__file__.rpartition("/mpy6a/")[0]
