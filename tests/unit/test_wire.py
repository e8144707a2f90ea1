"""mpy6a.wire: headers, envelopes, every message there and back, bounds, damage, and hostile bytes."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import Any

import capnp
import pytest

from mpy6a import limits, messages, resources, wire
from mpy6a.errors import Malformed, TooLarge, VersionMismatch
from mpy6a.layouts import BY_TYPE
from mpy6a.messages import AnyMessage, Message, MessageType
from mpy6a.model import NOBODY, Op, Result, Verb
from tests.profile import some
from tests.wire_samples import INCARNATION, MESSAGES

_BY_NAME = [pytest.param(value, id=name) for name, value in MESSAGES.items()]


def _packed(value: AnyMessage) -> bytes:
    return wire.encode(value, incarnation=INCARNATION, pipe=3, principal=1001)


def _body(value: AnyMessage) -> bytes:
    return _packed(value)[wire.HEADER_BYTES :]


def _message(kind: int, body: bytes) -> Message:
    return Message(kind, 3, INCARNATION, 1001, body)


def _type(value: AnyMessage) -> int:
    return wire.unpack(_packed(value))[0].type


def test_every_message_type_has_a_sample() -> None:
    """No message of the wire is left out of the tests that go through the samples."""
    assert {_type(value) for value in MESSAGES.values()} == set(MessageType)


@pytest.mark.parametrize("value", _BY_NAME)
def test_what_is_encoded_is_decoded(value: AnyMessage) -> None:
    """A value comes back as it was, with the header's fields as they were given, in one segment."""
    packed = _packed(value)
    (message,) = wire.unpack(packed)
    assert message[1:4] == (3, INCARNATION, 1001)
    assert wire.decode(message) == value
    assert not message.body or message.body[:4] == bytes(4), "more than one segment"


def test_tables_have_every_field_of_the_schema_and_of_the_values() -> None:
    """A field added to the schema or to a value cannot be forgotten in the other."""
    schema = capnp.load(str(resources.schema("wire.capnp")))
    for kind, layout in BY_TYPE.items():
        fields = {name.lower() for name in getattr(schema, layout.struct).schema.fieldnames}
        ours = {part.name.replace("_", "").lower() for part in layout.parts}
        if kind == MessageType.PUSH:
            ours = ours - {"target"} | {"targethigh", "targetlow"}
        assert ours == fields, layout.struct
        names = tuple(part.name for part in layout.parts)
        value: Any = next(value for value in MESSAGES.values() if _type(value) == kind)
        assert names == value._fields, layout.struct


def test_the_header_is_the_canonical_struct_of_the_schema() -> None:
    """Any Cap'n Proto library reads the header's 40 bytes: a canonical message without a segment table."""
    packed = _packed(MESSAGES["pong"])
    schema = capnp.load(str(resources.schema("wire.capnp")))
    table = struct.pack("<II", 0, wire.HEADER_BYTES // 8)
    with schema.Header.from_bytes(table + packed[: wire.HEADER_BYTES]) as header:
        read = header.to_dict()
        canonical = header.as_builder().copy()
    high, low = struct.unpack("<QQ", INCARNATION)
    assert read == {
        "incarnationHigh": high,
        "incarnationLow": low,
        "length": len(packed) - wire.HEADER_BYTES,
        "principal": 1001,
        "magic": wire.MAGIC,
        "version": wire.VERSION,
        "type": MessageType.PONG,
        "pipe": 3,
        "flags": 0,
    }
    assert canonical.to_bytes()[8:] == packed[: wire.HEADER_BYTES]


def test_an_envelope_keeps_the_origin_of_each_message() -> None:
    """Messages of several clients in one envelope come out in order, each with its own header."""
    other = INCARNATION[::-1]
    payload = _packed(MESSAGES["ack"]) + wire.pack(MessageType.GOODBYE, b"", incarnation=other, pipe=9)
    first, second = wire.unpack(payload)
    assert (first.type, first.pipe, first.incarnation) == (MessageType.ACK, 3, INCARNATION)
    assert second == Message(MessageType.GOODBYE, 9, other, 0, b"")


def _changed(at: int, value: bytes) -> bytes:
    packed = _packed(MESSAGES["ack"])
    return packed[:at] + value + packed[at + len(value) :]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "empty envelope"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:7400\r\nAccept: */*\r\n\r\n", "no header of this protocol"),
        (b"\x01" * 39, "header of 40"),
        (_changed(0, b"\x01"), "no header"),
        (_changed(32, b"xx"), "no header"),
        (_changed(38, b"\x01"), "flags 0x0001"),
        (_changed(8, bytes(16)), "incarnation 0"),
        (_changed(24, struct.pack("<I", 9)), "multiple of 8"),
        (_changed(24, struct.pack("<I", wire.BODY_BYTES_MAX + 8)), "at most"),
        (_changed(24, struct.pack("<I", 8_000)), "are there"),
        (_packed(MESSAGES["ack"]) + b"\0", "a header of 40"),
        (bytes(limits.ENVELOPE_BYTES_MAX + 1), "at most"),
        (_packed(MESSAGES["goodbye"]) * (limits.ENVELOPE_MESSAGES_MAX + 1), "more than"),
    ],
)
def test_what_is_no_envelope_is_malformed(payload: bytes, why: str) -> None:
    """Whatever a stranger sends is refused with a sentence that says what was expected."""
    with pytest.raises(Malformed, match=why):
        wire.unpack(payload)


def test_another_version_is_told_apart() -> None:
    """A peer of another version learns that it is the version, not that it sends garbage."""
    with pytest.raises(VersionMismatch, match="version 2"):
        wire.unpack(_changed(34, b"\x02"))


def test_only_an_error_may_be_for_nobody() -> None:
    """Who sent what cannot be read gets an error all the same; nothing else has the incarnation of no writer."""
    packed = wire.encode(messages.Error(34, "not a message"), incarnation=NOBODY)
    assert wire.unpack(packed)[0].incarnation == NOBODY
    batch = bytearray(_packed(MESSAGES["batch"]))
    batch[8:24] = NOBODY
    with pytest.raises(Malformed, match="incarnation 0"):
        wire.unpack(bytes(batch))


def test_types_of_a_newer_release_pass_the_envelope_and_not_the_decoder() -> None:
    """A sidecar hands on what it does not know; who has to understand it refuses it by number."""
    (message,) = wire.unpack(wire.pack(99, bytes(16), incarnation=INCARNATION))
    with pytest.raises(Malformed, match="type 99"):
        wire.decode(message)
    with pytest.raises(Malformed, match="type 0"):
        wire.decode(_message(0, b""))


def test_pack_refuses_what_nobody_would_take() -> None:
    """A message over the limit fails where it is made, with advice."""
    with pytest.raises(TooLarge, match="split it"):
        wire.pack(MessageType.PUSH, bytes(wire.BODY_BYTES_MAX + 8), incarnation=INCARNATION)
    with pytest.raises(AssertionError):
        wire.pack(MessageType.GOODBYE, b"", incarnation=NOBODY)


@pytest.mark.parametrize("value", _BY_NAME)
def test_truncation_at_every_byte_is_malformed(value: AnyMessage) -> None:
    """A message cut anywhere is refused: as an envelope, and as a body behind a header that fits it."""
    packed = _packed(value)
    for end in range(len(packed)):
        with pytest.raises(Malformed):
            wire.unpack(packed[:end])
    body = packed[wire.HEADER_BYTES :]
    for end in range(len(body)):
        with pytest.raises(Malformed):
            wire.decode(_message(_type(value), body[:end]))


@pytest.mark.parametrize("value", _BY_NAME)
def test_a_flipped_bit_is_malformed_or_a_value(value: AnyMessage) -> None:
    """No single damaged bit leads anywhere but to a clean refusal or to a value that is valid and encodes."""
    kind = _type(value)
    body = bytearray(_body(value))
    longest = 1
    for bit in some(8 * len(body)):
        body[bit >> 3] ^= 1 << (bit & 7)
        try:
            read = wire.decode(_message(kind, bytes(body)))
        except Malformed as refusal:
            longest = max(longest, len(str(refusal)))
        else:
            assert type(read) is type(value)
            if not bit & 63:  # each of them would take seconds
                again = wire.decode(_message(kind, _body(read)))
                assert again == read
        body[bit >> 3] ^= 1 << (bit & 7)
    assert longest < 300, "a refusal is a sentence, not a dump"


def test_a_flipped_bit_of_the_header_is_refused_or_read() -> None:
    """No damaged bit of a header leads anywhere but to Malformed, VersionMismatch or other fields."""
    packed = bytearray(_packed(MESSAGES["ack"]))
    outcomes: set[type] = set()
    for bit in range(8 * wire.HEADER_BYTES):
        packed[bit >> 3] ^= 1 << (bit & 7)
        try:
            outcomes.add(type(wire.unpack(bytes(packed))[0]))
        except (Malformed, VersionMismatch) as refusal:
            outcomes.add(type(refusal))
        packed[bit >> 3] ^= 1 << (bit & 7)
    assert outcomes == {Message, Malformed, VersionMismatch}


_OVER = [
    (messages.Hello(token=b"x" * (limits.TOKEN_BYTES_MAX + 1)), "token"),
    (messages.Greeting(1, 1, 1, 1, "x" * (limits.LABEL_BYTES_MAX + 1)), "name"),
    (messages.Greeting(1, 1 << 31, 0, 0, ""), "term"),
    (messages.SidecarHello(1, 1, "a", credit=(messages.KindCredit(1, 1, 1),) * 4_097), "credit"),
    (messages.Serve((1,) * (limits.KINDS_MAX + 1), 1), "kinds"),
    (messages.Outcomes((messages.Ending(1, 1, 1, 4),)), r"endings\[0\].outcome"),
    (messages.AdminRequest(1, "x" * (limits.LABEL_BYTES_MAX + 1)), "verb"),
    (messages.AdminReply(1, 0, "", "x" * (limits.ADMIN_BYTES_MAX + 1)), "body"),
    (messages.Heartbeat((bytes(15),)), "alive"),
    (messages.Heartbeat((), (INCARNATION,) * (limits.CLIENTS_MAX + 1)), "gone"),
    (messages.Ack(1, code=32, message="x", results=(Result(0, 1),) * 1_025), "results"),
    (messages.Pong(1 << 64), "log_ms"),
    (messages.Notice(1, 1, 1 << 32, 1), "out-of-range"),
    (messages.Push(1, 1, INCARNATION, (messages.RepeatPart(1, 1, 1, 1, 1),) * 65), "sessions"),
    (
        messages.Push(1, 1, INCARNATION, (messages.RepeatPart(1, 1, 1, 1, 1, records=(b"",) * 4_097),)),
        r"sessions\[0\].records",
    ),
]


@pytest.mark.parametrize(("value", "field"), _OVER)
def test_a_value_out_of_bounds_is_not_encoded(value: AnyMessage, field: str) -> None:
    """Our side never sends what the other would refuse; the error names the field."""
    with pytest.raises(ValueError, match=field):
        _packed(value)


def _built(struct_name: str, **fields: Any) -> bytes:
    made: bytes = getattr(capnp.load(str(resources.schema("wire.capnp"))), struct_name).new_message(**fields).to_bytes()
    return made


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        (MessageType.HELLO, _built("Hello", token=b"x" * 5_000), "Hello.token: 5000 bytes; at most 4096"),
        (MessageType.HELLO, _built("Hello", name="x" * 300), "Hello.name: 300 bytes"),
        (MessageType.PONG, _built("Pong", term=1 << 31), "Pong.term"),
        (MessageType.WELCOME, _built("Welcome", role="admin"), "Welcome.limits.record_bytes: 0"),
        (MessageType.SERVE, _built("Serve", kinds=[1] * 5_000), "Serve.kinds: 5000 elements; at most 4096"),
        (MessageType.HEARTBEAT, _built("Heartbeat", gone=b"x" * 17), "Heartbeat.gone: 17 bytes"),
        (MessageType.OUTCOMES, _built("Outcomes", endings=[{"outcome": 4}]), r"endings\[0\].outcome: 4"),
        (MessageType.PUSH, _built("Push", sessions=[{"part": 1, "parts": 1}]), "part 1 of 1"),
        (MessageType.PUSH, _built("Push", sessions=[{"parts": 0}]), "parts: 0; allowed: 1"),
        (MessageType.PUSH, _built("Push", sessions=[{"parts": 1}] * 65), "65 elements; at most 64"),
        (
            MessageType.ACK,
            _built("Ack", results=[{"position": 3}, {"position": 3}]),
            "position 3 after 3",
        ),
        (MessageType.GOODBYE, bytes(16), "has none"),
        (MessageType.PONG, b"", "at least 16"),
    ],
)
def test_a_field_out_of_bounds_is_refused_by_name(kind: int, body: bytes, why: str) -> None:
    """Every count and length of a message is bounded; the refusal says which field, and what is allowed."""
    with pytest.raises(Malformed, match=why):
        wire.decode(_message(kind, body))


def test_sentences_for_people_are_cut_and_not_refused() -> None:
    """A long message never costs the answer it explains; it is cut between characters."""
    read = wire.decode(_message(MessageType.ERROR, _body(messages.Error(34, "я" * 1_000))))
    assert read == messages.Error(34, "я" * (limits.TEXT_BYTES_MAX // 2))
    read = wire.decode(_message(MessageType.ERROR, _body(messages.Error(34, "a" + "я" * 1_000))))
    assert isinstance(read, messages.Error)
    assert len(read.message.encode()) == limits.TEXT_BYTES_MAX - 1


def test_the_frame_of_a_body_is_exact() -> None:
    """Trailing bytes, empty segments and endless tables, which pycapnp takes in silence, are refused."""
    body = _body(MESSAGES["notice"])
    words = struct.unpack_from("<I", body, 4)[0]
    assert wire.decode(_message(MessageType.NOTICE, body)) == MESSAGES["notice"]
    for damaged, why in (
        (body + bytes(8), "tells"),
        (struct.pack("<4I", 1, words, 0, 0) + body[8:], "segment 1 is empty"),
        (struct.pack("<I", 599) + struct.pack("<I", words) + bytes(4 * 600) + body[8:], "600 segments"),
        (struct.pack("<I", 0xFFFFFFFF) + body[4:], "at most"),
        (struct.pack("<I", 400) + body[4:], "cannot hold"),
    ):
        with pytest.raises(Malformed, match=why):
            wire.decode(_message(MessageType.NOTICE, damaged))


_STALL = """
import struct, time
from mpy6a import entries, wire
from mpy6a.errors import Malformed
from mpy6a.messages import Message
LIST = 1 | 7 << 32  # a list of structs without a word
body = struct.pack("<IIQQQ", 0, 3, 1 << 48, LIST, (1 << 23) << 2)
assert len(body) == 32
wire.decode  # loaded
begin = time.process_time()
for kind in range(1, 19):
    try:
        wire.decode(Message(kind, 1, b"x" * 16, 0, body))
    except Malformed:
        pass
for read in (entries.decode_proposals, entries.decode_policy, entries.decode_admin):
    try:
        read(body)
    except Malformed:
        pass
print(time.process_time() - begin)
"""


def test_the_32_byte_message_that_stalls_a_reader_stalls_nobody() -> None:
    """8 million elements of no size, claimed in 32 bytes, take no time in any decoder (16 s when believed)."""
    done = subprocess.run([sys.executable, "-c", _STALL], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0


def test_records_that_share_their_bytes_do_not_grow_a_message() -> None:
    """A push whose records all point to the same bytes is refused before they are copied out again and again."""
    big = b"x" * 80_000
    part = messages.RepeatPart(3, 9, 2, 1, 7, records=(big, *[b"y"] * 7))
    body = bytearray(_body(messages.Push(5, 3, INCARNATION, (part,))))
    words = struct.unpack(f"<{len(body) // 8}Q", body)
    first = next(at for at, word in enumerate(words) if word >> 32 == 2 | len(big) << 3)
    assert wire.decode(_message(MessageType.PUSH, bytes(body)))
    for place in range(1, 8):
        # The same bytes, seen from a pointer that lies further on.
        struct.pack_into("<Q", body, 8 * (first + place), words[first] - (place << 2))
    with pytest.raises(Malformed, match="traversal limit"):
        wire.decode(_message(MessageType.PUSH, bytes(body)))


def test_decode_of_a_batch_is_the_batch() -> None:
    """`decode` gives operations with their records copied out, `decode_rows` gives rows; both are one batch."""
    batch = MESSAGES["batch"]
    assert isinstance(batch, messages.Batch)
    rows = wire.decode_rows(_body(batch))
    assert not rows.reencoded
    assert [rows.record(n) for n in range(len(batch.ops))] == [op.record for op in batch.ops]
    assert rows.row(1).verb == Verb.APPEND
    assert wire.decode_rows(_body(batch)).data is not None


def test_records_refused_before_the_log_are_null_in_what_is_logged() -> None:
    """`null_refused` keeps everything but the named records, and its bytes are read back only as such."""
    batch = MESSAGES["batch"]
    assert isinstance(batch, messages.Batch)
    before = wire.decode_rows(_body(batch))
    data = wire.null_refused(before, {0, 1, 3})
    with pytest.raises(Malformed, match="operation 1"):
        wire.decode_rows(data)
    after = wire.decode_rows(data, nulled=True)
    assert not after.reencoded
    assert (after.number, after.mark, after.first_sent_ms) == (12, 41, 1_699_999_999_000)
    assert after.extras == before.extras
    assert after.groups == before.groups
    for position, op in enumerate(batch.ops):
        assert after.record(position) == (None if position in {0, 1, 3} else op.record)
        assert after.rows[position][:6] == before.rows[position][:6]


def test_a_batch_of_the_largest_size_fits_a_message() -> None:
    """1,024 operations, and a body of exactly the limit, are taken; one more of either is refused."""
    most = limits.MESSAGE_OPERATIONS_MAX
    ops = [Op(Verb.APPEND, 1 + n, 1, 1, 1, 0, b"x") for n in range(most)]
    assert len(wire.decode_rows(wire.encode_batch_body(1, 1, 0, ops)).rows) == most
    with pytest.raises(Malformed, match="1025 operations"):
        wire.decode_rows(wire.encode_batch_body(1, 1, 0, [*ops, ops[0]._replace(index=9_999)]))
    room = wire.BODY_BYTES_MAX - 64 - 4 * 40
    ops = [Op(Verb.APPEND, 1 + n, 1, 1, 1, 0, bytes(room // 4 & -8)) for n in range(4)]
    body = wire.encode_batch_body(1, 1, 0, ops)
    assert wire.BODY_BYTES_MAX - 64 < len(body) <= wire.BODY_BYTES_MAX
    assert len(wire.decode_rows(body).rows) == 4
    ops[0] = ops[0]._replace(record=bytes(room // 4 + 64))
    with pytest.raises(Malformed, match="at most"):
        wire.decode_rows(wire.encode_batch_body(1, 1, 0, ops))
