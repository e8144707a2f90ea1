"""What of a sidecar's configuration a reload takes: read beside the loop, refused by name where it needs a restart."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from typing import Final

from mpy6a.config import SidecarSettings, load_sidecar
from mpy6a.errors import ConfigError

FIXED: Final = ("name", "listen", "group", "pipes", "push", "callback")
SWITCH_S: Final = 0.0005  # how long the thread that reads may keep the loop from its turn; Python's own is 5 ms


async def read(path: Path, before: SidecarSettings) -> SidecarSettings:
    """The settings that the files say now. Raises ConfigError for files that are bad, and for what needs a restart."""
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.disable()  # what is read stays: looking for garbage among it would hold up everybody
    try:
        after = await asyncio.to_thread(load_sidecar, path)
    finally:
        gc.enable()
        sys.setswitchinterval(switch_s)
    values = ((key, getattr(before, key), getattr(after, key)) for key in FIXED)
    refused = [
        f"{path}: {key}: {_text(new)} needs a restart; the sidecar runs with {_text(old)}"
        for key, old, new in values
        if old != new
    ]
    if refused:
        raise ConfigError("\n".join(refused))
    return after


def changes(before: SidecarSettings, after: SidecarSettings) -> str:
    """Kinds that came, went and changed, in words."""
    old, new = before.kinds, after.kinds
    words = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
    return "; ".join(f"{word} {', '.join(names[:20])}" for word, names in words.items() if names) or "none of the kinds"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "nothing" if value is None else str(value)
