"""What all tests share: the skip list, Hypothesis profiles, and ports, paths and processes that end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.ports import FreePorts, short_directory
from tests.processes import Processes
from tests.profile import PROFILE
from tests.skip_list import SkipList

# No deadline: a test machine's cores are shared, and a slow example is no wrong one (pytest-timeout ends a
# hang). quick draws the same examples each time, so that the inner loop is red for a change and not for a
# draw; ci draws new ones and prints what repeats a failure.
_slow = [HealthCheck.too_slow]
settings.register_profile(
    "quick",
    max_examples=20,
    stateful_step_count=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=_slow,
)
settings.register_profile("ci", max_examples=100, deadline=None, print_blob=True, suppress_health_check=_slow)
settings.register_profile(
    "soak",
    max_examples=20_000,
    stateful_step_count=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=_slow,
)
settings.load_profile(PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    skips = Path(__file__).with_name("skips.txt")
    config.pluginmanager.register(SkipList.from_file(skips), "mpy6a-skip-list")
    # The entry point's name: a checkout has no entry points, and the smoke tests have no package beside them.
    if not config.pluginmanager.has_plugin("mpy6a") and find_spec("mpy6a") is not None:
        config.pluginmanager.register(import_module("mpy6a.testing_plugin"), "mpy6a")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lines = Path(__file__).with_name("slow.txt").read_text(encoding="utf-8").splitlines()
    slow = {line for line in lines if not line.startswith("#")}
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker("slow")
    # Planted faults are no part of the inner loop: they run in the profiles ci and soak, or when asked for.
    if PROFILE == "quick" and "mutation" not in config.option.markexpr:
        planted = [item for item in items if item.get_closest_marker("mutation")]
        if planted:
            config.hook.pytest_deselected(items=planted)
            items[:] = [item for item in items if item not in planted]


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """A command that ran in this process, and logged to the stderr of its test, is not heard in the tests behind it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def free_port() -> FreePorts:
    """Call it for a TCP port of 127.0.0.1 that nobody listens on; it gives none twice."""
    # What xdist tells its workers; without it there is one.
    number, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    return FreePorts(worker=int(number.removeprefix("gw")), workers=int(count))


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """An empty directory with a path of at most 60 bytes, for ipc sockets; removed afterwards."""
    with short_directory() as path:
        yield path


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts child processes, and ends each by its own pid when the test is over."""
    with Processes() as started:
        yield started
