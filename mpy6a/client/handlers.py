"""What a handler of unfinished sessions is given, and how a function says that it is one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeAlias
from typing import TypeVar as PlainTypeVar

from mpy6a import errors
from mpy6a.client.records import Record
from mpy6a.model import Attempt

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # a default, which Python has from 3.13 on; the checker knows it anyway

    from mpy6a.client.aio import AsyncSession

    S = TypeVar("S", default=AsyncSession)
else:
    S = PlainTypeVar("S")

F = PlainTypeVar("F", bound=Callable[..., object])

_MARK: Final = "__mpy6a_kind__"


@dataclass(frozen=True, slots=True)
class RepeatData(Generic[S]):
    """An unfinished session, handed to its handler: what was recorded, and the session to finish it with.

    `repeats` counts how often it was handed out before; `attempts` are the last runs; `cancel` says that an operator
    wants the work undone rather than done. In a plain (not async) handler write `RepeatData[mpy6a.Session]`.
    """

    records: tuple[Record, ...]
    session: S
    kind: str
    repeats: int = 0
    attempts: tuple[Attempt, ...] = ()
    cancel: bool = False
    key: str = ""
    order_key: str = ""
    schema: str = ""
    trace: str = ""
    created_ms: int = 0


class Handler(NamedTuple):
    """A function that was marked, and the kind it finishes."""

    kind: str | int
    function: Callable[..., object]
    is_async: bool


AnyHandler: TypeAlias = Callable[..., object]


def handler(kind: str | int) -> Callable[[F], F]:
    """Marks a function as the handler of `kind`. Nothing else: it stays callable, and is registered nowhere; the
    routes name it, or `pipe.serve(function)` does.

    The function takes a RepeatData and finishes its session with `delete()` or `store()`. Returning undecided or
    raising counts as a failure: the session repeats later.
    """

    def mark(function: F) -> F:
        setattr(function, _MARK, kind)
        return function

    return mark


def read(function: AnyHandler) -> Handler:
    """The mark of a handler. Raises BadRequest for a function without one."""
    kind = getattr(function, _MARK, None)
    if not isinstance(kind, (str, int)):
        name = getattr(function, "__qualname__", repr(function))
        raise errors.BadRequest(f"{name} is not marked as a handler: put @mpy6a.handler(kind) above it")
    called = function if inspect.isroutine(function) else type(function).__call__  # an object with async __call__
    return Handler(kind, function, inspect.iscoroutinefunction(called))
