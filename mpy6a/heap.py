"""Gives memory back to the system when sessions leave it by the hundred thousand.

Python's own allocator gives back arenas of 1 MiB, each when the last object in it is gone, and a few sessions that
stay keep most of them. The C library's gives back every page that is free, when it is asked to. Now and then one of
its calls takes 20 ms (docs/benchmarks/stage-2.md): it is for processes that nobody waits for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Final

_CHOICE: Final = "PYTHONMALLOC"


def with_own_heap(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process to be started that calls `give_back`; what an operator chose stays."""
    return {_CHOICE: "malloc", **environment}


def give_back() -> None:
    """Have the C library give all free pages to the system: 0.2 ms if there are few, up to 30 ms for 100 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
