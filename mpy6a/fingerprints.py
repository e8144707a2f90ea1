"""What failed runs have in common: the class of the error, and a fingerprint that ignores what changes from run to run.

Both are computed from an attempt's message when somebody looks, never stored: a better rule needs no new format.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import Final

LENGTH: Final = 200  # characters of a message that count: what comes after is a trace or somebody's data
_CLASS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*(?=:|\(|$)")
# Ids, times, addresses, sizes: with their digits gone two messages of one cause are the same. Quoted text is data.
_CHANGES: Final = re.compile(
    r"'[^']*'|\"[^\"]*\""
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b0x[0-9a-fA-F]+\b|\b(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}\b|[0-9]+(?:[.:][0-9]+)*"
)
_SPACES: Final = re.compile(r"\s+")


def error_class(message: str) -> str:
    """`ValueError` of "ValueError: no user 7"; "" of a message that begins with no name."""
    found = _CLASS.match(message)
    return found.group() if found else ""


def fingerprint(message: str) -> str:
    """8 hex digits, the same for messages that differ in numbers, ids and quoted text only; "" for an empty one."""
    if not message:
        return ""
    text = _SPACES.sub(" ", _CHANGES.sub("#", message[:LENGTH])).strip()
    return blake2s(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
