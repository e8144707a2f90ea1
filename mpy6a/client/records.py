"""Records as users write and read them, and what else they give: delays, and the rare things of a New."""

from __future__ import annotations

import json as json_format
from datetime import timedelta
from typing import Any, Final

from mpy6a import errors, limits
from mpy6a.model import BY_POLICY, Extra


class Unset:
    """The type of `UNSET`: nothing was given, where None is a value."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()

DELAY_MAX_MS: Final = 1 << 50  # 35,000 years; far below the number that stands for "the kind's delay"


class Record(bytes):
    """One record of a session: bytes, with the two ways most people read them."""

    __slots__ = ()

    def json(self) -> Any:  # Any: what JSON holds is known to the user alone, as with json.loads
        """The record read as JSON. Raises ValueError when it is none."""
        return json_format.loads(self)

    def text(self) -> str:
        """The record read as UTF-8. Raises ValueError when it is not."""
        return self.decode()


def encode(data: bytes | bytearray | memoryview | None, json: object) -> bytes | None:
    """The bytes of a record given as `data` or as `json`; None when neither is given. Raises BadRequest."""
    if json is not UNSET:
        if data is not None:
            raise errors.BadRequest("a record is given as data or as json=, not both")
        try:
            return json_format.dumps(json, ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise errors.BadRequest(f"json=: {error}; give what JSON can hold, or bytes") from error
    if data is None or type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise errors.BadRequest(f"a record is bytes, not {type(data).__name__}: encode it, or give it as json=")


def encode_given(data: bytes | bytearray | memoryview | None, json: object) -> bytes:
    """As `encode`, where a record has to be given."""
    record = encode(data, json)
    if record is None:
        raise errors.BadRequest('a record is missing: append(b"...") or append(json=...)')
    return record


def delay_ms(after: float | timedelta | None) -> int:
    """Milliseconds of a delay in seconds or as timedelta, rounded up; None is the kind's own delay."""
    if after is None:
        return BY_POLICY
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    if not 0 <= seconds * 1000 <= DELAY_MAX_MS:
        raise errors.BadRequest(f"after={after!r}: a delay is a number of seconds from 0 on, or a timedelta")
    return -int(-seconds * 1000 // 1)


def extra_of(key: str | None, order_key: str | None, schema: str | None, trace: str | bytes | None) -> Extra | None:
    """What is rare in a New, if any of it is given. Raises TooLarge."""
    if key is None and order_key is None and schema is None and trace is None:
        return None
    raw = trace.encode() if isinstance(trace, str) else trace or b""
    extra = Extra(0, key or "", order_key or "", schema or "", raw)
    for name, value, most in (
        ("key", extra.key.encode(), limits.KEY_BYTES_MAX),
        ("order_key", extra.order_key.encode(), limits.KEY_BYTES_MAX),
        ("schema", extra.schema.encode(), limits.LABEL_BYTES_MAX),
        ("trace", extra.trace, limits.TRACE_BYTES_MAX),
    ):
        if len(value) > most:
            raise errors.TooLarge(f"{name}= has {len(value)} bytes; at most {most}: use a shorter one")
    return extra
