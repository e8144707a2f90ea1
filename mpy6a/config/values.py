"""Values with a unit or a form of their own, as validators: durations, sizes, names, choices.

Each is a small frozen object used as `Annotated[int, PlainValidator(Duration(1))]`; what it refuses says in
one phrase what is allowed. Durations become int ms, sizes int bytes.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from typing import Annotated, Final, NoReturn, TypeVar

from pydantic_core import PydanticCustomError

from mpy6a import limits
from mpy6a.config.problems import one_of, shown
from mpy6a.config.schema import AfterValidator, PlainValidator
from mpy6a.disk import Amount
from mpy6a.units import UNITS_BYTES, UNITS_MS, duration_text, size_text

_RATE_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION: Final = re.compile("".join(f"(?:([0-9]{{1,12}}){unit})?" for unit in UNITS_MS))
_SIZE: Final = re.compile(f"([0-9]{{1,12}})({'|'.join(UNITS_BYTES)})")
_PERCENT: Final = re.compile(r"([0-9]{1,3})(?:\.([0-9]))?%")
_BARE: Final = re.compile(r"[0-9]{1,20}")
NAME_PATTERN: Final = rf"[a-z0-9][a-z0-9._-]{{0,{limits.NAME_BYTES_MAX - 1}}}"
GROUP_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?"
ARGV_MAX: Final = 64  # words of a program's call
WORD_MAX: Final = 4_096  # characters of one
_NAME: Final = re.compile(NAME_PATTERN)

NAME_ALLOWED: Final = (
    "a name of a-z, 0-9, '.', '_' and '-' that begins with a letter or digit, "
    f"at most {limits.NAME_BYTES_MAX} characters"
)

T = TypeVar("T")


def refuse(allowed: str, found: str | None = None, known: tuple[str, ...] = ()) -> NoReturn:
    """Refuses a value inside a validator: `allowed` and, where the value alone does not say it, `found`. `known` are
    words of which one may have been meant."""
    raise PydanticCustomError("refused", "{allowed}", {"allowed": allowed, "found": found, "known": known})


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def __call__(self, value: object) -> int:
        if type(value) is int and self.low <= value <= self.high:
            return value
        refuse(f"a whole number from {self.low} to {self.high}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __call__(self, value: object) -> str:
        if isinstance(value, str) and value in self.words:
            return value
        refuse(one_of(self.words), known=self.words)


@dataclass(frozen=True, slots=True)
class Duration:
    """`500ms`, `1m30s`, `2h`: whole numbers with units, the larger first; 0 needs none. In ms."""

    low_ms: int = 0
    high_ms: int = limits.DURATION_MS_MAX

    def __call__(self, value: object) -> int:
        if (found_ms := parse_duration(value)) is not None:
            if self.low_ms <= found_ms <= self.high_ms:
                return found_ms
            refuse(f"{duration_text(self.low_ms)} to {duration_text(self.high_ms)}")
        if (number := _bare(value)) is not None:
            refuse(f"a duration with its unit, such as {number}ms, {number}s or {number}m (ms, s, m, h, d)")
        refuse("a duration such as 500ms, 30s or 1m30s (whole numbers with d, h, m, s, ms, in this order)")


@dataclass(frozen=True, slots=True)
class Rate:
    """`100/s`, `30/m`, `500/h`: so many in a unit of time. The number, and the unit in ms."""

    high: int

    def __call__(self, value: object) -> tuple[int, int]:
        number, slash, unit = value.partition("/") if isinstance(value, str) else ("", "", "")
        if slash and unit in _RATE_UNITS_MS and _BARE.fullmatch(number):
            if 1 <= int(number) <= self.high:
                return int(number), _RATE_UNITS_MS[unit]
            refuse(f"1 to {self.high} in a unit of time, such as 100/s")
        refuse("a number in a unit of time, such as 100/s, 30/m or 500/h (s, m, h)")


@dataclass(frozen=True, slots=True)
class DurationRange:
    """`200ms..2s`: LOW..HIGH with LOW <= HIGH, both in ms."""

    low_ms: int = 1

    def __call__(self, value: object) -> tuple[int, int]:
        ends = value.split("..") if isinstance(value, str) else []
        parsed = [parse_duration(end) for end in ends]
        if len(parsed) == 2:
            low, high = parsed
            if low is not None and high is not None:
                if self.low_ms <= low <= high <= limits.DURATION_MS_MAX:
                    return low, high
                refuse(
                    f"LOW..HIGH with LOW <= HIGH, both {duration_text(self.low_ms)} to "
                    f"{duration_text(limits.DURATION_MS_MAX)}"
                )
            if any(_bare(end) is not None for end in ends):
                refuse("LOW..HIGH, both with their unit (ms, s, m, h, d), such as 200ms..2s")
        refuse("LOW..HIGH with LOW <= HIGH, such as 200ms..2s")


@dataclass(frozen=True, slots=True)
class Size:
    """`16MiB`, `500KB`: a whole number with a unit, a multiple of `multiple`. In bytes."""

    low: int
    high: int
    multiple: int = 1

    def __call__(self, value: object) -> int:
        if (found := parse_size(value)) is not None:
            if self.low <= found <= self.high and found % self.multiple == 0:
                return found
            steps = f" in steps of {size_text(self.multiple)}" if self.multiple > 1 else ""
            refuse(f"{size_text(self.low)} to {size_text(self.high)}{steps}")
        if (number := _bare(value)) is not None:
            refuse(f"a size with its unit, such as {number}KiB or {number}MiB ({', '.join(UNITS_BYTES)})")
        refuse(f"a size such as 512KiB or 16MiB (a whole number with {', '.join(UNITS_BYTES)})")


@dataclass(frozen=True, slots=True)
class Part:
    """`2GiB`, `5%` or `5% max 2GiB`: a part of the disk. At most `permille` of it; sizes from `low` to `high`."""

    permille: int
    low: int
    high: int

    def __call__(self, value: object) -> Amount:
        text = value if isinstance(value, str) else str(value) if type(value) is int else ""
        share, middle, size = text.partition(" max ")
        percent, most = _PERCENT.fullmatch(share), parse_size(size if middle else share)
        permille = int(percent[1]) * 10 + int(percent[2] or 0) if percent else None
        if (permille is None and middle) or (most is None and (middle or permille is None)):
            refuse("a share of the disk such as 5%, a size such as 2GiB, or the smaller of both: 5% max 2GiB")
        if (permille or 0) > self.permille or (most is not None and not self.low <= most <= self.high):
            least, top = size_text(self.low) if self.low else "0", size_text(self.high)
            refuse(f"at most {self.permille / 10:g}%, or {least} to {top}")
        return Amount(permille, most)


def parse_duration(value: object) -> int | None:
    """Milliseconds, or None for what is no duration with units; 0 needs no unit."""
    if (type(value) is int and value == 0) or value == "0":
        return 0
    if not isinstance(value, str) or not value or (found := _DURATION.fullmatch(value)) is None:
        return None
    return sum(int(number) * unit for number, unit in zip(found.groups("0"), UNITS_MS.values(), strict=True))


def parse_size(value: object) -> int | None:
    """Bytes, or None for what is no size with its unit; 0 needs none."""
    if (type(value) is int and value == 0) or value == "0":
        return 0
    if not isinstance(value, str) or (found := _SIZE.fullmatch(value)) is None:
        return None
    return int(found[1]) * UNITS_BYTES[found[2]]


def part_text(amount: Amount) -> str:
    """As it is written: 50 per mille and 2 GiB are `5% max 2GiB`."""
    share = "" if amount.permille is None else f"{amount.permille / 10:g}%"
    return " max ".join(text for text in (share, "" if amount.most is None else size_text(amount.most)) if text)


def rate_text(number: int, unit_ms: int) -> str:
    """As it is written: (100, 1_000) is `100/s`."""
    unit = next(unit for unit, length in _RATE_UNITS_MS.items() if length == unit_ms)
    return f"{number}/{unit}"


def _bare(value: object) -> str | None:
    """The digits of a number that lacks its unit."""
    text = str(value) if type(value) is int else value
    return text if isinstance(text, str) and _BARE.fullmatch(text) else None


def _name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    refuse(NAME_ALLOWED)


def _python_target(value: object) -> str:
    if isinstance(value, str) and len(value) <= limits.TEXT_BYTES_MAX:
        module, colon, function = value.partition(":")
        parts = [*module.split("."), *function.split(".")]
        if colon and all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
            return value
    refuse("MODULE:FUNCTION, such as handlers:finish_user_create")


def _argv(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, list) and 1 <= len(value) <= ARGV_MAX else [None]
    if all(isinstance(word, str) and len(word) <= WORD_MAX for word in words) and words[0]:
        return tuple(words)
    refuse(f"a list of 1 to {ARGV_MAX} texts, the program and its arguments (no shell; put numbers in quotes)")


def _true(value: object) -> bool:
    if value is True:
        return True
    refuse("true, or leave the key out (yes and on are text here)")


def _group(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(GROUP_PATTERN, value):
        return value
    refuse("the name of a group of this machine, such as www-data")


@dataclass(frozen=True, slots=True)
class Several:
    """A list of `low` to `high` different values."""

    low: int
    high: int

    def __call__(self, values: list[T]) -> list[T]:
        if not self.low <= len(values) <= self.high:
            refuse(f"a list of {self.low} to {self.high} values", f"a list of {len(values)}")
        twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
        if twice is not None:
            refuse("each value once", f"{shown(twice)} a second time")
        return values


DurationMs = Annotated[int, PlainValidator(Duration())]
PositiveMs = Annotated[int, PlainValidator(Duration(1))]
RangeMs = Annotated[tuple[int, int], PlainValidator(DurationRange())]
U32 = Annotated[int, PlainValidator(Whole(1, 0xFFFF_FFFF))]
RateOf = Annotated[tuple[int, int], PlainValidator(Rate(limits.RATE_MAX))]  # number, unit in ms
Name = Annotated[str, PlainValidator(_name)]
PythonTarget = Annotated[str, PlainValidator(_python_target)]
Argv = Annotated[tuple[str, ...], PlainValidator(_argv)]
OnlyTrue = Annotated[bool, PlainValidator(_true)]
Group = Annotated[str, PlainValidator(_group)]
SidecarNames = Annotated[list[Name], AfterValidator(Several(1, limits.KIND_SIDECARS_MAX))]
