"""How fast this machine runs plain Python right now: what every CPU figure has to be read against.

A virtual machine's cores are throttled and shared without any trace in its own accounts: CPU time per operation was
seen to vary by a factor of 5 within an hour, and this loop's with it. The ratio of the two stays.
"""

from __future__ import annotations

import time
from typing import Final

ITERATIONS: Final = 100_000  # 5 ms on a quiet core


def loop_ns() -> float:
    """CPU ns of one turn of `for i in range(n): total += i`, the better of two."""
    best = 0.0
    for _ in range(2):
        begun_ns = time.thread_time_ns()
        total = 0
        for i in range(ITERATIONS):
            total += i
        took = (time.thread_time_ns() - begun_ns) / ITERATIONS
        best = min(best or took, took)
    return best
