"""Packed messages and their values: everything that goes over a socket of the pipe is made and read here.

An envelope (the payload of one ZeroMQ message) is 1..n packed messages, a packed message a header of 40 bytes
and a body. `unpack` looks at headers only; `decode` and `decode_rows` read a body, bound every field, and
raise `Malformed` and nothing else, in time bounded by the body's length. Formats: schemas/wire.capnp,
schemas/PROTOCOL.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from mpy6a import limits, messages
from mpy6a.acks import read_ack, write_ack
from mpy6a.batches import read_batch
from mpy6a.errors import Malformed, TooLarge, VersionMismatch
from mpy6a.layouts import BY_TYPE
from mpy6a.messages import Ack, AnyMessage, Batch, Goodbye, Message, MessageType
from mpy6a.model import NOBODY, Extra, Op
from mpy6a.pushes import read_accepted, read_outcomes, read_push, write_accepted, write_outcomes, write_push
from mpy6a.rows import RowBatch, RowTuple, read_number, read_rows, write_rows

__all__ = [
    "BODY_BYTES_MAX",
    "HEADER_BYTES",
    "VERSION",
    "RowBatch",
    "RowTuple",
    "batch_number",
    "decode",
    "decode_rows",
    "encode",
    "encode_batch_body",
    "null_refused",
    "pack",
    "unpack",
]

VERSION: Final = 1
MAGIC: Final = 0x366D
# Root pointer, incarnation, length principal magic version type pipe flags.
_HEADER: Final = struct.Struct("<Q16sIIHBBHH")
HEADER_BYTES: Final = _HEADER.size  # 40
BODY_BYTES_MAX: Final = limits.MESSAGE_BYTES_MAX - HEADER_BYTES
_ROOT: Final = 4 << 32  # a struct right behind: four data words, no pointer

# Looking an enum's member up at each message costs as much as reading a field.
_BATCH: Final = int(MessageType.BATCH)
_GOODBYE: Final = int(MessageType.GOODBYE)
_ERROR: Final = int(MessageType.ERROR)
# By hand where a message travels with every batch or push; None of them: the body is for `mpy6a.capnproto`.
_WRITERS: Final[dict[type[AnyMessage], Callable[[Any], bytes | None]]] = {
    Ack: write_ack,
    messages.Push: write_push,
    messages.Accepted: write_accepted,
    messages.Outcomes: write_outcomes,
}
_READERS: Final[dict[int, Callable[[bytes], AnyMessage | None]]] = {
    MessageType.ACK: read_ack,
    MessageType.PUSH: read_push,
    MessageType.ACCEPTED: read_accepted,
    MessageType.OUTCOMES: read_outcomes,
}
_TYPE_OF: Final[dict[type[AnyMessage], MessageType]] = {
    messages.Hello: MessageType.HELLO,
    messages.Welcome: MessageType.WELCOME,
    messages.Batch: MessageType.BATCH,
    messages.Ack: MessageType.ACK,
    messages.Heartbeat: MessageType.HEARTBEAT,
    messages.Pong: MessageType.PONG,
    messages.Goodbye: MessageType.GOODBYE,
    messages.Error: MessageType.ERROR,
    messages.Greeting: MessageType.GREETING,
    messages.SidecarHello: MessageType.SIDECAR_HELLO,
    messages.Push: MessageType.PUSH,
    messages.Accepted: MessageType.ACCEPTED,
    messages.Stop: MessageType.STOP,
    messages.Notice: MessageType.NOTICE,
    messages.Serve: MessageType.SERVE,
    messages.Outcomes: MessageType.OUTCOMES,
    messages.AdminRequest: MessageType.ADMIN_REQUEST,
    messages.AdminReply: MessageType.ADMIN_REPLY,
}


def pack(type: int, body: bytes, *, incarnation: bytes, pipe: int = 0, principal: int = 0) -> bytes:
    """One packed message. Raises TooLarge over the limit of a message, struct.error for a number out of range.

    Only an error may carry the incarnation NOBODY: it answers a message whose header could not be read.
    """
    assert len(incarnation) == 16, "an incarnation is 16 bytes"
    assert incarnation != NOBODY or type == _ERROR, "an incarnation is never zero"
    assert not len(body) & 7, "a body is a multiple of 8 bytes"
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge(
            f"a message of {len(body) + HEADER_BYTES} bytes; at most {limits.MESSAGE_BYTES_MAX}: split it"
        )
    return _HEADER.pack(_ROOT, incarnation, len(body), principal, MAGIC, VERSION, type, pipe, 0) + body


def encode(value: AnyMessage, *, incarnation: bytes, pipe: int = 0, principal: int = 0) -> bytes:
    """The value as one packed message. Sentences for people are cut to their limit; for any other value
    that `decode` would refuse it raises ValueError (a batch: whatever its operations are, see
    `encode_batch_body`)."""
    kind = _TYPE_OF[type(value)]
    return pack(kind, _encode_body(kind, value), incarnation=incarnation, pipe=pipe, principal=principal)


def _encode_body(kind: MessageType, value: AnyMessage) -> bytes:
    if isinstance(value, Batch):
        return write_rows(*value)
    if isinstance(value, Goodbye):
        return b""
    writer = _WRITERS.get(type(value))
    if writer is not None:
        body = writer(value)
        if body is not None:
            return body
    return BY_TYPE[kind].encode(value)


def unpack(payload: bytes) -> list[Message]:
    """The packed messages of an envelope, in order, bodies copied out and not looked into.

    Raises VersionMismatch for a protocol version that this side does not speak, Malformed for anything else
    that is no envelope; then nothing of it counts. A type that this release does not know passes here;
    `decode` refuses it.
    """
    if len(payload) > limits.ENVELOPE_BYTES_MAX:
        raise Malformed(f"an envelope of {len(payload)} bytes; at most {limits.ENVELOPE_BYTES_MAX}")
    found: list[Message] = []
    at = 0
    end = len(payload)
    while at < end:
        if end - at < HEADER_BYTES:
            raise Malformed(f"{end - at} bytes at {at}; a message begins with a header of {HEADER_BYTES}")
        root, incarnation, length, principal, magic, version, type, pipe, flags = _HEADER.unpack_from(
            payload, at
        )
        if root != _ROOT or magic != MAGIC:
            raise Malformed(f"no header of this protocol at byte {at}")
        if version != VERSION:
            raise VersionMismatch(f"version {version} of the protocol; this side speaks {VERSION}")
        if flags:
            raise Malformed(f"header flags {flags:#06x} at byte {at}; 0 is all there is")
        if incarnation == NOBODY and type != _ERROR:
            raise Malformed(f"incarnation 0 at byte {at}; draw 128 random bits")
        if length & 7 or length > BODY_BYTES_MAX:
            raise Malformed(
                f"a body of {length} bytes at byte {at}; a multiple of 8, at most {BODY_BYTES_MAX}"
            )
        at += HEADER_BYTES
        if length > end - at:
            raise Malformed(f"a body of {length} bytes told at byte {at}, {end - at} are there")
        if len(found) == limits.ENVELOPE_MESSAGES_MAX:
            raise Malformed(f"more than {limits.ENVELOPE_MESSAGES_MAX} messages in an envelope")
        found.append(Message(type, pipe, incarnation, principal, payload[at : at + length]))
        at += length
    if not found:
        raise Malformed("an empty envelope; it has at least one message")
    return found


def decode(message: Message) -> AnyMessage:
    """The value of a message of any type. Raises Malformed, which says what is wrong, where, and what is
    allowed."""
    kind, body = message.type, message.body
    reader = _READERS.get(kind)
    if reader is not None:
        found = reader(body)
        if found is not None:
            return found
    if kind == _BATCH:
        return _batch(decode_rows(body))
    if kind == _GOODBYE:
        if body:
            raise Malformed(f"a goodbye with a body of {len(body)} bytes; it has none")
        return Goodbye()
    layout = BY_TYPE.get(kind)
    if layout is None:
        raise Malformed(f"message type {kind}; types are 1 to {max(MessageType)}")
    if len(body) > BODY_BYTES_MAX:
        raise Malformed(f"a body of {len(body)} bytes; at most {BODY_BYTES_MAX}")
    value: AnyMessage = layout.decode(body)
    return value


def encode_batch_body(
    number: int, mark: int, first_sent_ms: int, ops: Sequence[Op], extras: Sequence[Extra] = ()
) -> bytes:
    """The body of a batch in row form, to be sent with `pack`. Trusts its caller: rules are the receiver's
    matter, only what is out of its field's range raises struct.error."""
    return write_rows(number, mark, first_sent_ms, ops, extras)


def decode_rows(body: bytes, *, nulled: bool = False) -> RowBatch:
    """A batch as the pipe works on it, validated whole. Raises Malformed.

    Bytes in row form are taken as they are; any other valid encoding is written again in row form
    (`reencoded`). `nulled`: the bytes come from a frame of the log that says that records of refused
    operations are null.
    """
    if len(body) > BODY_BYTES_MAX:
        raise Malformed(f"a body of {len(body)} bytes; at most {BODY_BYTES_MAX}")
    return read_rows(body, nulled=nulled) or read_batch(body, BODY_BYTES_MAX, nulled=nulled)


def batch_number(body: bytes) -> int:
    """A batch's number for an answer that does not depend on its operations; they may be anything. Raises Malformed."""
    return (read_number(body) if len(body) <= BODY_BYTES_MAX else 0) or decode_rows(body).number


def null_refused(batch: RowBatch, refused: Collection[int]) -> bytes:
    """The batch in row form with the records of the operations at the positions `refused` null: what is
    logged when an operation is refused before the log. Read it with `decode_rows(..., nulled=True)`;
    offsets are new."""
    ops = [
        op._replace(record=None) if position in refused else op
        for position, op in enumerate(_operations(batch))
    ]
    return write_rows(batch.number, batch.mark, batch.first_sent_ms, ops, list(batch.extras.values()))


def _batch(batch: RowBatch) -> Batch:
    extras = list(batch.extras.values())
    return Batch(batch.number, batch.mark, batch.first_sent_ms, _operations(batch), extras)


def _operations(batch: RowBatch) -> list[Op]:
    data = batch.data
    return [
        Op(verb, index, term, epoch, seq, argument, None if length < 0 else data[offset : offset + length])
        for index, epoch, seq, term, verb, argument, offset, length in batch.rows
    ]
