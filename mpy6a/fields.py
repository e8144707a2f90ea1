"""The kinds of field that a `Layout` of `mpy6a.capnproto` is made of, with bounds that hold both ways.

`take` copies the field out of pycapnp's reader, `put` sets it in a builder, `words` bounds the room it takes
beside its struct. A value out of bounds raises `Wrong`, which the layout turns into Malformed (reading) or
ValueError (writing).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

from mpy6a import limits
from mpy6a.capnproto import Layout, Wrong
from mpy6a.model import U64_MAX

T = TypeVar("T")

_INCARNATION: Final = struct.Struct("<QQ")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


@dataclass(frozen=True)
class _Named:
    """A part's name in the value; `wire` is the same name in the schema."""

    name: str

    @cached_property
    def wire(self) -> str:
        return _camel(self.name)

    def words(self, value: Any) -> int:
        return 0


@dataclass(frozen=True)
class Number(_Named):
    """An integer; the schema's width bounds it above unless `high` does."""

    low: int = 0
    high: int = U64_MAX

    def take(self, reader: Any) -> int:
        return self._bounded(reader._get(self.wire))

    def put(self, builder: Any, value: int) -> None:
        self._bounded(value)
        builder._set(self.wire, int(value))  # pycapnp takes no IntEnum

    def _bounded(self, value: int) -> int:
        if not self.low <= value <= self.high:
            raise Wrong(self.name, f"{value}; allowed: {self.low} to {self.high}")
        return value


@dataclass(frozen=True)
class Enumeration(_Named):
    """A field of an enum type, as its number."""

    high: int

    def take(self, reader: Any) -> int:
        value: int = reader._get(self.wire).raw
        if value > self.high:
            raise Wrong(self.name, f"{value}; allowed: 0 to {self.high}")
        return value

    def put(self, builder: Any, value: int) -> None:
        if not 0 <= value <= self.high:
            raise Wrong(self.name, f"{value}; allowed: 0 to {self.high}")
        builder._set(self.wire, int(value))


@dataclass(frozen=True)
class Flag(_Named):
    """A yes or no."""

    def take(self, reader: Any) -> bool:
        return bool(reader._get(self.wire))

    def put(self, builder: Any, value: bool) -> None:
        builder._set(self.wire, bool(value))


@dataclass(frozen=True)
class Text(_Named):
    """UTF-8 of at most `limit` bytes. A `sentence` is for people: writing cuts it to the limit instead of
    refusing."""

    limit: int
    sentence: bool = False

    def take(self, reader: Any) -> str:
        value: str = reader._get(self.wire)
        self._bounded(len(value.encode()))
        return value

    def put(self, builder: Any, value: str) -> None:
        encoded = value.encode(errors="replace" if self.sentence else "strict")
        if self.sentence and len(encoded) > self.limit:
            encoded = encoded[: self.limit]
        self._bounded(len(encoded))
        if encoded:  # an empty text is a null pointer
            builder._set(self.wire, encoded.decode(errors="ignore"))

    def words(self, value: str) -> int:
        return len(value) // 2 + 1  # four bytes a character at most, and the zero byte

    def _bounded(self, length: int) -> None:
        if length > self.limit:
            raise Wrong(self.name, f"{length} bytes; at most {self.limit}")


@dataclass(frozen=True)
class Data(_Named):
    """Bytes, at most `limit`."""

    limit: int

    def take(self, reader: Any) -> bytes:
        return self._bounded(reader._get(self.wire))

    def put(self, builder: Any, value: bytes) -> None:
        assert isinstance(value, bytes), f"{self.name} is not bytes"  # pycapnp takes a str here in silence
        if self._bounded(value):
            builder._set(self.wire, value)

    def words(self, value: bytes) -> int:
        return len(value) // 8 + 1

    def _bounded(self, value: bytes) -> bytes:
        if len(value) > self.limit:
            raise Wrong(self.name, f"{len(value)} bytes; at most {self.limit}")
        return value


@dataclass(frozen=True)
class Incarnation(_Named):
    """16 bytes in the two fields `nameHigh` and `nameLow`, high word first."""

    def take(self, reader: Any) -> bytes:
        return _INCARNATION.pack(reader._get(f"{self.wire}High"), reader._get(f"{self.wire}Low"))

    def put(self, builder: Any, value: bytes) -> None:
        if len(value) != 16:
            raise Wrong(self.name, f"{len(value)} bytes; it has 16")
        high, low = _INCARNATION.unpack(value)
        builder._set(f"{self.wire}High", high)
        builder._set(f"{self.wire}Low", low)

    def words(self, value: bytes) -> int:
        return 1  # it has two in its struct


@dataclass(frozen=True)
class Incarnations(_Named):
    """A Data field that holds up to `limit` incarnations of 16 bytes each."""

    limit: int

    def take(self, reader: Any) -> tuple[bytes, ...]:
        value: bytes = reader._get(self.wire)
        if len(value) % 16 or len(value) // 16 > self.limit:
            raise Wrong(self.name, f"{len(value)} bytes; a multiple of 16, at most {16 * self.limit}")
        return tuple(value[at : at + 16] for at in range(0, len(value), 16))

    def put(self, builder: Any, value: Iterable[bytes]) -> None:
        joined = b"".join(value)
        if len(joined) % 16 or len(joined) // 16 > self.limit:
            raise Wrong(self.name, f"{len(joined)} bytes; a multiple of 16, at most {16 * self.limit}")
        if joined:
            builder._set(self.wire, joined)

    def words(self, value: tuple[bytes, ...]) -> int:
        return 2 * len(value) + 1


@dataclass(frozen=True)
class One(_Named):
    """A struct within the struct; a null pointer reads as the schema's defaults."""

    layout: Layout[Any]

    def take(self, reader: Any) -> Any:
        try:
            return self.layout.take(reader._get(self.wire))
        except Wrong as wrong:
            raise Wrong(f"{self.name}.{wrong.path}", wrong.what) from None

    def put(self, builder: Any, value: Any) -> None:
        self.layout.put(builder.init(self.wire), value)

    def words(self, value: Any) -> int:
        return self.layout.words(value)


class _List(_Named):
    """What the lists have in common: the count is judged before the first element is looked at."""

    limit: int

    def _counted(self, count: int) -> None:
        if count > self.limit:
            raise Wrong(self.name, f"{count} elements; at most {self.limit}")


@dataclass(frozen=True)
class Many(_List):
    """A list of at most `limit` structs."""

    layout: Layout[Any]
    limit: int

    def take(self, reader: Any) -> tuple[Any, ...]:
        elements = reader._get(self.wire)
        self._counted(len(elements))
        values: list[Any] = []
        take = self.layout.take
        try:
            for element in elements:
                values.append(take(element))
        except Wrong as wrong:
            raise Wrong(f"{self.name}[{len(values)}].{wrong.path}", wrong.what) from None
        return tuple(values)

    def put(self, builder: Any, value: tuple[Any, ...]) -> None:
        self._counted(len(value))
        if value:
            elements = builder.init(self.wire, len(value))
            for number, element in enumerate(value):
                try:
                    self.layout.put(elements[number], element)
                except Wrong as wrong:
                    raise Wrong(f"{self.name}[{number}].{wrong.path}", wrong.what) from None

    def words(self, value: tuple[Any, ...]) -> int:
        return 1 + sum(map(self.layout.words, value))


@dataclass(frozen=True)
class Scalars(_List, Generic[T]):
    """A list of at most `limit` numbers, texts or byte strings; texts and byte strings of at most `each`
    bytes, and of at most `total` together."""

    limit: int
    each: int = 0
    total: int = limits.MESSAGE_BYTES_MAX

    def take(self, reader: Any) -> tuple[T, ...]:
        elements = reader._get(self.wire)
        self._counted(len(elements))
        values = tuple(elements)
        self._sized(values)
        return values

    def put(self, builder: Any, value: tuple[T, ...]) -> None:
        self._counted(len(value))
        self._sized(value)
        if value:
            elements = builder.init(self.wire, len(value))
            for number, element in enumerate(value):
                elements[number] = element

    def words(self, value: tuple[T, ...]) -> int:
        return 1 + sum(1 if isinstance(each, int) else 2 + _size(each) // 8 for each in value)

    def _sized(self, values: tuple[T, ...]) -> None:
        if not self.each:
            return
        sizes = [_size(value) for value in values]
        for number, size in enumerate(sizes):
            if size > self.each:
                raise Wrong(f"{self.name}[{number}]", f"{size} bytes; at most {self.each}")
        if sum(sizes) > self.total:
            raise Wrong(self.name, f"{sum(sizes)} bytes together; at most {self.total}")


def _size(value: object) -> int:
    return len(value.encode()) if isinstance(value, str) else len(value)  # type: ignore[arg-type]  # bytes
