"""Bytes that nobody should send: envelopes that are none, bodies that stall a naive reader, and mutations."""

from __future__ import annotations

import struct
from random import Random
from typing import Final, NamedTuple

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.messages import (
    AdminReply,
    AnyMessage,
    Goodbye,
    Heartbeat,
    MessageType,
    SessionEpoch,
    Stop,
)
from tests.wire_samples import MESSAGES

WHO: Final = b"\x01hostile-client!"  # an incarnation
NOBODY: Final = bytes(16)
_HEADER: Final = struct.Struct("<Q16sIIHBBHH")
_ROOT: Final = 4 << 32
_MAGIC: Final = 0x366D
LIST_TYPES: Final = [kind for kind in MessageType if kind != MessageType.GOODBYE]


def header(
    type: int,
    length: int,
    *,
    who: bytes = WHO,
    root: int = _ROOT,
    magic: int = _MAGIC,
    version: int = 1,
    pipe: int = 1,
    flags: int = 0,
) -> bytes:
    """A header of PROTOCOL.md, "Envelopes and packed messages", with any of its fields wrong."""
    return _HEADER.pack(root, who, length, 0, magic, version, type, pipe, flags)


def packed(value: AnyMessage, who: bytes = WHO, pipe: int = 1) -> bytes:
    """A message as it should be."""
    return wire.encode(value, incarnation=who, pipe=pipe)


class Bad(NamedTuple):
    """Frames of one ZeroMQ message, and the code its sender has to be told."""

    frames: tuple[bytes, ...]
    code: Code = Code.MALFORMED


# In order, nobody's business at a door, and dear to read: 6 us a session, 100 ms in all.
DEAR: Final = Stop(1, 1, 1, tuple(SessionEpoch(1, n, 2) for n in range(1, 16_385)))
BEAT: Final = packed(Heartbeat())

# No envelope of this protocol: refused whole, whatever the door.
ENVELOPES: Final = {
    "noise": Bad((Random(1).randbytes(200),)),
    "zeros": Bad((bytes(4096),)),
    "http": Bad((b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",)),
    "nothing": Bad((b"",)),
    "half a header": Bad((BEAT[:39],)),
    "half a body": Bad((BEAT[:-8],)),
    "a tail": Bad((BEAT + bytes(8),)),
    "a good one and noise": Bad((BEAT + b"\xff" * 64,)),
    "wrong magic": Bad((header(MessageType.GOODBYE, 0, magic=0x6D37),)),
    "wrong root": Bad((header(MessageType.GOODBYE, 0, root=_ROOT | 4),)),
    "unknown flags": Bad((header(MessageType.GOODBYE, 0, flags=0x8000),)),
    "an incarnation of zeros": Bad((header(MessageType.GOODBYE, 0, who=NOBODY),)),
    "a length that is no multiple of 8": Bad((header(MessageType.HELLO, 12) + bytes(12),)),
    "a length of 4 GiB": Bad((header(MessageType.HELLO, 0xFFFF_FFF8) + bytes(64),)),
    "too many messages": Bad((packed(Goodbye()) * (limits.ENVELOPE_MESSAGES_MAX + 1),)),
    "version 0": Bad((header(MessageType.GOODBYE, 0, version=0),), Code.VERSION),
    "version 2": Bad((header(MessageType.GOODBYE, 0, version=2),), Code.VERSION),
}
# More than one frame, though each would do by itself.
FRAMES: Final = {
    "two frames": (BEAT, BEAT),
    "an empty delimiter": (b"", BEAT),
    "a thousand frames": (BEAT,) * 1_000,
}
# An envelope in order, and in it one message that nobody takes on any door.
MESSAGES_REFUSED: Final = {
    "type 0": header(0, 0),
    "type 19": header(19, 0),
    "type 255": header(255, 16) + bytes(16),
    "a goodbye with a body": header(MessageType.GOODBYE, 16) + bytes(16),
    "an admin reply": packed(AdminReply(1, 0)),
    **{f"{kind.name.lower()} without a body": header(kind, 0) for kind in LIST_TYPES},
    **{f"{kind.name.lower()} of noise": header(kind, 64) + Random(kind).randbytes(64) for kind in LIST_TYPES},
}


def stalling(pointers: int = 1, data_words: int = 0, elements: int = 8_000_000) -> bytes:
    """A body each of whose pointers claims a list of that many elements of no size; 32 bytes with one pointer.

    pycapnp alone took 15.7 s to iterate it.
    """
    words = [data_words | pointers << 16]  # the root pointer's high half: sizes of the struct right behind it
    root = words[0] << 32
    tag_from_pointer = range(pointers - 1, -1, -1)  # how many words lie between each pointer and the tag
    composite = [offset << 2 | 1 | 7 << 32 for offset in tag_from_pointer]  # a composite list of 0 words
    content = [root, *[1] * data_words, *composite, elements << 2]
    return struct.pack("<II", 0, len(content)) + struct.pack(f"<{len(content)}Q", *content)


def stalls() -> list[bytes]:
    """Packed messages of every type with such bodies."""
    bodies = [stalling(), stalling(2), stalling(2, 3), stalling(2, 2), stalling(1, 3), stalling(4, 9, (1 << 29) - 1)]
    assert len(bodies[0]) == 32
    return [header(kind, len(body)) + body for kind in LIST_TYPES for body in bodies]


def valid(pipe: int, who: bytes = WHO) -> list[bytes]:
    """One packed message of every type, all fields set: what is mutated."""
    return [packed(value, who, pipe) for value in MESSAGES.values()]


_EXTREMES: Final = (b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", b"\0" * 7 + b"\x80", b"\x01" + bytes(7))


def mutated(chance: Random, messages: list[bytes]) -> list[bytes]:
    """The frames of one ZeroMQ message: a valid message with a few things wrong, or several of them in one."""
    payload = bytearray(chance.choice(messages))
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(payload)) if payload else 0
        match chance.randrange(8):
            case 0 | 1 if payload:
                payload[at] ^= 1 << chance.randrange(8)
            case 2:
                word = at & -8
                payload[word : word + 8] = chance.choice(_EXTREMES)
            case 3:
                del payload[at:]
            case 4:
                payload[at:at] = chance.randbytes(chance.choice((1, 8, 64)))
            case 5:
                other = chance.choice(messages)
                payload[at:] = other[chance.randrange(len(other)) :]
            case 6 if len(payload) >= wire.HEADER_BYTES:  # a body of another type under an honest header
                other = chance.choice(messages)
                payload[:] = payload[: wire.HEADER_BYTES] + other[wire.HEADER_BYTES :]
                payload[24:28] = struct.pack("<I", len(payload) - wire.HEADER_BYTES)
            case _:
                payload += chance.choice(messages)
    frame = bytes(payload)
    if chance.random() < 0.05:
        return [frame, b"", frame][: chance.randrange(2, 4)]
    return [frame]
