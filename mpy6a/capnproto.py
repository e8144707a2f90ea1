"""Turns values into Cap'n Proto messages and back through pycapnp, by tables of fields with their bounds.

For all messages but the hot ones (`mpy6a.rows`, `mpy6a.acks`). A `Layout` names a struct of `schemas/`, the
value type and its parts (`mpy6a.fields`) in the order of the value's fields. Reading copies everything out
while the buffer is held, raises `Malformed` and nothing else, and takes time bounded by the message's length,
whatever its bytes are.

pycapnp is imported at first use: it takes 90 ms and 14 MB, which a process that only writes records can do
without.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from mpy6a import limits, resources
from mpy6a.errors import Malformed

T = TypeVar("T")

_ROOM_WORDS: Final = 8  # segment's root pointer and alignment, rounded up
_schemas: Final[dict[str, Any]] = {}  # Any: pycapnp has no types of its own


class Wrong(Exception):
    """A field outside its bounds; the path to it is put together on the way out."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path = path
        self.what = what


class Part(Protocol):
    """One field of a struct: how it is read, written, and how many words it may take beside its struct."""

    @property
    def name(self) -> str: ...
    def take(self, reader: Any) -> Any: ...
    def put(self, builder: Any, value: Any) -> None: ...
    def words(self, value: Any) -> int: ...


class Layout(Generic[T]):
    """A struct of a schema file and the value that stands for it; `make` takes the parts' values in order."""

    __slots__ = ("_fixed", "file", "make", "parts", "struct")

    def __init__(self, file: str, struct: str, make: Callable[..., T], *parts: Part) -> None:
        self.file = file
        self.struct = struct
        self.make = make
        self.parts = parts
        # A part takes at most one word in its struct; what takes more says so itself.
        self._fixed = len(parts)

    def decode(self, body: bytes) -> T:
        """The value of a whole message in stream framing; Malformed says which field is wrong, and why."""
        try:
            return read(self.file, self.struct, body, self.take)
        except Wrong as wrong:
            raise Malformed(f"{self.struct}.{wrong.path}: {wrong.what}") from None

    def encode(self, value: T) -> bytes:
        """One message in stream framing, one segment; ValueError for a value that `decode` would refuse."""
        # pycapnp's own choice of the first segment ends in several segments for what is larger.
        words = _ROOM_WORDS + self.words(value)
        builder = _struct(self.file, self.struct).new_message(num_first_segment_words=words)
        import capnp

        try:
            self.put(builder, value)
        except Wrong as wrong:
            raise ValueError(f"{self.struct}.{wrong.path}: {wrong.what}") from None
        except capnp.KjException as error:  # a number too wide for its field
            raise ValueError(f"{self.struct}: {sentence(error)}") from None
        made: bytes = builder.to_bytes()
        return made

    def take(self, reader: Any) -> T:
        return self.make(*[part.take(reader) for part in self.parts])

    def put(self, builder: Any, value: T) -> None:
        for part in self.parts:
            part.put(builder, getattr(value, part.name))

    def words(self, value: T) -> int:
        return self._fixed + sum(part.words(getattr(value, part.name)) for part in self.parts)


def read(file: str, struct: str, body: bytes, take: Callable[[Any], T]) -> T:
    """What `take` makes of the message's root while the buffer is held; it must copy out all it keeps."""
    check_framing(body)
    root = _struct(file, struct)
    import capnp

    try:
        # The limit makes a 32-byte message that claims 8 million elements an immediate error, not 16 s of
        # work; the nesting limit stays pycapnp's own (64): with a raised one deep nesting ends the process.
        with root.from_bytes(body, traversal_limit_in_words=len(body) // 2 + 64) as reader:
            return take(reader)
    except capnp.KjException as error:
        raise Malformed(f"{struct}: {sentence(error)}") from None
    except (ValueError, OverflowError) as error:  # UnicodeDecodeError is a ValueError
        raise Malformed(f"{struct}: {error}") from None


def check_framing(body: bytes) -> None:
    """Raises Malformed unless `body` is exactly the segments that its table tells; pycapnp itself takes
    trailing bytes and any number of empty segments in silence."""
    if len(body) < 16 or len(body) & 7:
        raise Malformed(
            f"a body of {len(body)} bytes; a Cap'n Proto message is a multiple of 8 bytes, at least 16"
        )
    count = int.from_bytes(body[:4], "little") + 1
    if count > limits.SEGMENTS_MAX:
        raise Malformed(f"{count} segments; at most {limits.SEGMENTS_MAX}")
    table = 4 + 4 * count + 7 & -8
    if table > len(body):
        raise Malformed(f"{len(body)} bytes cannot hold the table of {count} segments")
    sizes = struct.unpack_from(f"<{count}I", body, 4)
    if 0 in sizes:
        raise Malformed(f"segment {sizes.index(0)} is empty; each has at least one word")
    told = table + 8 * sum(sizes)
    if told != len(body):
        raise Malformed(f"the segment table tells {told} bytes, the body has {len(body)}")


def _struct(file: str, name: str) -> Any:
    """The struct of a schema file, loaded once."""
    loaded = _schemas.get(file)
    if loaded is None:
        import capnp

        # The hook would make `import` look for .capnp files everywhere. Two threads that come here at once
        # load the file twice, which is harmless.
        capnp.remove_import_hook()
        loaded = _schemas.setdefault(file, capnp.load(str(resources.schema(file))))
    return getattr(loaded, name)


def sentence(error: Exception) -> str:
    """What a KjException says for people; its source line, condition and stack are not for a peer."""
    line = str(error).split("\n", 1)[0].split("failed: ", 1)[-1]
    return line.split("; ", 1)[-1][:160]
