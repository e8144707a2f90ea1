"""Python's search for cyclic garbage, for processes that keep many objects for long.

A full pass visits every session in memory: 40 to 100 ms at 150,000 of them, in the middle of a turn of the loop; one
over 30,000 that are middle-aged 6 to 10, and more where a list of all of them is among these. The state, the log and
what is in them make no cycles (tests/sim/test_garbage.py), and what a failed call leaves behind is young when it is
found. Whoever lets go of a larger thing that does refer to itself calls `gc.collect`.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 1_000  # net allocations between two passes over them: 0.1 to 0.3 ms
_NEVER: Final = 1 << 30


def leave_the_old() -> None:
    """From now on only what is new is looked at, once; what there is already, never again."""
    gc.freeze()
    gc.set_threshold(YOUNG, _NEVER, _NEVER)
