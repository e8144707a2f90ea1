"""mpy6a, the pipe: write down what you are about to do; if you die, it hands that to your handler until it is finished.

    async with pipe.new("user-create") as session:
        await session.append(json=user)
        ...
        await session.delete()

Names are imported when they are first used: `import mpy6a` alone loads no ZeroMQ and no asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from mpy6a.version import __version__ as __version__

if TYPE_CHECKING:
    from mpy6a import errors as errors
    from mpy6a import guard as guard
    from mpy6a import testing as testing
    from mpy6a.client.aio import AsyncPipe as AsyncPipe
    from mpy6a.client.aio import AsyncSession as AsyncSession
    from mpy6a.client.blocking import Pipe as Pipe
    from mpy6a.client.blocking import Session as Session
    from mpy6a.client.facts import UndecidedSession as UndecidedSession
    from mpy6a.client.handlers import RepeatData as RepeatData
    from mpy6a.client.handlers import handler as handler
    from mpy6a.client.records import Record as Record
    from mpy6a.errors import AfterRefusal as AfterRefusal
    from mpy6a.errors import BadRequest as BadRequest
    from mpy6a.errors import Busy as Busy
    from mpy6a.errors import Corrupt as Corrupt
    from mpy6a.errors import Denied as Denied
    from mpy6a.errors import DiskLow as DiskLow
    from mpy6a.errors import Fenced as Fenced
    from mpy6a.errors import Gone as Gone
    from mpy6a.errors import KeyLive as KeyLive
    from mpy6a.errors import Mpy6aError as Mpy6aError
    from mpy6a.errors import NoPipe as NoPipe
    from mpy6a.errors import OutcomeUnknown as OutcomeUnknown
    from mpy6a.errors import Refused as Refused
    from mpy6a.errors import SessionClosed as SessionClosed
    from mpy6a.errors import TooLarge as TooLarge
    from mpy6a.errors import Unavailable as Unavailable
    from mpy6a.errors import UnknownKind as UnknownKind

_ERRORS: Final = (
    "AfterRefusal",
    "BadRequest",
    "Busy",
    "Corrupt",
    "Denied",
    "DiskLow",
    "Fenced",
    "Gone",
    "KeyLive",
    "Mpy6aError",
    "NoPipe",
    "OutcomeUnknown",
    "Refused",
    "SessionClosed",
    "TooLarge",
    "Unavailable",
    "UnknownKind",
)

# Where each public name lives.
_HOME: Final[dict[str, str]] = {
    "AsyncPipe": "mpy6a.client.aio",
    "AsyncSession": "mpy6a.client.aio",
    "Pipe": "mpy6a.client.blocking",
    "Session": "mpy6a.client.blocking",
    "UndecidedSession": "mpy6a.client.facts",
    "RepeatData": "mpy6a.client.handlers",
    "handler": "mpy6a.client.handlers",
    "Record": "mpy6a.client.records",
    **dict.fromkeys(_ERRORS, "mpy6a.errors"),
}
_MODULES: Final = frozenset({"errors", "guard", "testing"})

__all__ = [
    "AfterRefusal",
    "AsyncPipe",
    "AsyncSession",
    "BadRequest",
    "Busy",
    "Corrupt",
    "Denied",
    "DiskLow",
    "Fenced",
    "Gone",
    "KeyLive",
    "Mpy6aError",
    "NoPipe",
    "OutcomeUnknown",
    "Pipe",
    "Record",
    "Refused",
    "RepeatData",
    "Session",
    "SessionClosed",
    "TooLarge",
    "Unavailable",
    "UndecidedSession",
    "UnknownKind",
    "__version__",
    "errors",
    "guard",
    "handler",
    "testing",
]


if not TYPE_CHECKING:  # a checker that sees it takes every name for granted

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
