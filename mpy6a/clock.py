"""Give the time to those who may ask for it: a port, and the operating system behind it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks of a machine, in whole milliseconds. The core never holds one: it is told `now_ms`."""

    def monotonic_ms(self) -> int:
        """Never goes back; its zero means nothing and differs between boots."""
        ...

    def wall_ms(self) -> int:
        """Since 1970-01-01 UTC; may leap in either direction."""
        ...


class OsClock:
    """The clocks of the operating system."""

    __slots__ = ()

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
