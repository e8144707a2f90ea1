"""Durations and sizes as people write them: `1m30s`, `16MiB`."""

from __future__ import annotations

from typing import Final

UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
UNITS_BYTES: Final = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


def duration_text(ms: int) -> str:
    """The shortest way to write a duration: 90_000 is `1m30s`."""
    text = ""
    for unit, length in UNITS_MS.items():
        number, ms = divmod(ms, length)
        text += f"{number}{unit}" if number else ""
    return text or "0"


def size_text(size: int) -> str:
    """A size in the largest binary unit that divides it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % UNITS_BYTES[unit] == 0:
            return f"{size // UNITS_BYTES[unit]}{unit}"
    return f"{size}B"
