"""Memory given back to the system: what the writer of checkpoints begins with, and that it does give back."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from mpy6a.heap import with_own_heap

# As a checkpoint leaves it: much was allocated, and a little of it stays, everywhere.
_PROGRAM: Final = """
from mpy6a.heap import give_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
kept = [bytes(400) for _ in range(200_000)]  # small enough for Python's own allocator
kept = kept[::50]
before = resident()
give_back()
print(before - resident())
"""


def test_an_operators_choice_stays() -> None:
    assert with_own_heap({"A": "b"}) == {"A": "b", "PYTHONMALLOC": "malloc"}
    assert with_own_heap({"PYTHONMALLOC": "debug"}) == {"PYTHONMALLOC": "debug"}


def _given_back(environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


def test_free_pages_go_back_though_some_objects_stay() -> None:
    """80 MB, of which every fiftieth object is kept: most of it goes, and with Python's own allocator little does."""
    assert _given_back(with_own_heap({})) > 40_000_000
    assert _given_back({"PYTHONMALLOC": "pymalloc"}) < 10_000_000
