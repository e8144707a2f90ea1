"""How fast this machine runs plain Python right now: what every CPU figure has to be read against.

A virtual machine's cores are throttled and shared without any trace in its own accounts: CPU time per operation was
seen to vary by a factor of 5 within an hour, and this loop's with it. It tells such a sitting from
a good one; it is no exact divisor, because caches are shared too.
"""

from __future__ import annotations

import time
from typing import Final

ITERATIONS: Final = 500_000  # 25 ms on a quiet core: the mean over a host's pauses, not a moment between two of them


def loop_ns() -> float:
    """CPU ns of one turn of `for i in range(n): total += i`."""
    begun_ns = time.thread_time_ns()
    total = 0
    for i in range(ITERATIONS):
        total += i
    return (time.thread_time_ns() - begun_ns) / ITERATIONS
