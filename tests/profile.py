"""How thorough this run is: everything in the profiles ci and soak, a fixed sample in quick."""

from __future__ import annotations

import os
from typing import Final

PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "quick")
QUICK: Final = PROFILE == "quick"
_EACH: Final = 5  # of a sample; odd, so that every bit of a byte and every byte of a word is in it


def some(count: int) -> range:
    """All of 0..count-1, or in quick every fifth of them."""
    return range(0, count, _EACH if QUICK else 1)
