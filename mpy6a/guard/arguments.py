"""Reads what callers of the guard give: session and fence, headers, the table's name, an age. All bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, NamedTuple

from mpy6a.errors import BadRequest

SESSION_HEADER: Final = "Mpy6a-Session"
FENCE_HEADER: Final = "Mpy6a-Fence"

FENCE_MAX: Final = (1 << 63) - 1  # the largest integer of both databases; the largest fence there is lies below it
FENCE_DIGITS_MAX: Final = 19
SESSION_CHARACTERS_MAX: Final = 64  # "65535.2147483647.18446744073709551615" is 37
AGE_S_MAX: Final = 100 * 366 * 86_400  # a century: keeps every sum within 64 bits

# At most 63 characters, because PostgreSQL cuts longer names off without a word. Nothing here has to be escaped.
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_TABLE: Final = re.compile(rf"(?:({_NAME})\.)?({_NAME})")


class Writer(NamedTuple):
    """Who wants to write: a session, and the fence of one of its epochs."""

    session: str
    fence: int


def writer(session: object, fence: object, headers: Mapping[str, str] | None) -> Writer:
    """The writer that the arguments of `check` name. Raises BadRequest."""
    if headers is not None:
        if session is not None or fence is not None:
            raise BadRequest("guard.check takes session and fence, or headers=, not both")
        session, fence = _read(headers)
    if (
        not isinstance(session, str)
        or not 0 < len(session) <= SESSION_CHARACTERS_MAX
        or not (session.isascii() and session.isprintable())
    ):
        raise BadRequest(f"guard.check: the session is {session!r:.80}, allowed is an id such as 1.3.48213")
    if not isinstance(fence, int) or isinstance(fence, bool) or not 0 < fence <= FENCE_MAX:
        raise BadRequest(f"guard.check: the fence is {fence!r:.40}, allowed is a number from 1 to {FENCE_MAX}")
    return Writer(session, fence)


def table(name: str) -> str:
    """The table's name as it stands in a statement, quoted. Raises BadRequest."""
    found = _TABLE.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise BadRequest(
            f"guard: the table is {name!r:.140}, allowed is NAME or SCHEMA.NAME of ASCII letters, digits and _, each "
            "of at most 63 and not beginning with a digit"
        )
    return ".".join(f'"{part}"' for part in found.groups() if part is not None)


def age_ms(older_than: float | timedelta) -> int:
    """An age in milliseconds. Raises BadRequest."""
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= AGE_S_MAX:
        raise BadRequest(f"guard.forget: older_than is {seconds!r:.40} s, allowed is 0 to {AGE_S_MAX}")
    return int(seconds * 1_000)


def _read(headers: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Session and fence out of headers; looked through because a plain dict heeds case."""
    session: str | None = None
    fence: int | None = None
    for name, value in headers.items():
        if name.lower() == "mpy6a-session":
            session = value.strip()
        elif name.lower() == "mpy6a-fence":
            digits = value.strip()
            if not (digits.isascii() and digits.isdigit() and len(digits) <= FENCE_DIGITS_MAX):
                raise BadRequest(f"{FENCE_HEADER} is {value[:40]!r}, allowed is a decimal number")
            fence = int(digits)
    return session, fence
