"""mpy6a.rows and mpy6a.batches: the row form byte by byte, what leads off it, and every rule of a batch."""

from __future__ import annotations

import struct
from typing import Any

import capnp
import pytest

from mpy6a import limits, resources
from mpy6a.batches import read_batch
from mpy6a.errors import Malformed
from mpy6a.model import U64_MAX, Extra, Op, Verb
from mpy6a.rows import RowBatch, read_rows, write_rows
from mpy6a.wire import BODY_BYTES_MAX, batch_number, decode_rows
from tests.wire_samples import EXTRAS, OPS

SCHEMA: Any = capnp.load(str(resources.schema("wire.capnp")))


def _write(*ops: Op, extras: tuple[Extra, ...] = ()) -> bytes:
    return write_rows(1, 1, 0, ops, extras)


def _slow(body: bytes) -> RowBatch:
    return read_batch(body, BODY_BYTES_MAX)


def test_the_row_is_the_schemas_struct() -> None:
    """Op is four data words and one pointer, its fields where the row path reads them, its verbs by number."""
    node = SCHEMA.Op.schema.node.struct
    assert (node.dataWordCount, node.pointerCount) == (4, 1)
    assert node.discriminantOffset == 11  # in units of 16 bits: byte 22
    fields = {field.name: field for field in node.fields}
    offsets = {name: fields[name].slot.offset for name in ("index", "epoch", "seq", "term", "flags")}
    assert offsets == {"index": 0, "epoch": 2, "seq": 3, "term": 4, "flags": 10}
    verbs = {field.name: field.discriminantValue for field in node.fields if field.discriminantValue != 0xFFFF}
    assert verbs == {verb.name.lower(): int(verb) for verb in Verb}
    batch = SCHEMA.Batch.schema.node.struct
    assert (batch.dataWordCount, batch.pointerCount) == (3, 2)
    extra = SCHEMA.Extra.schema.node.struct
    assert (extra.dataWordCount, extra.pointerCount) == (1, 4)


def test_row_form_byte_by_byte() -> None:
    """The bytes that PROTOCOL.md, "Row form", describes."""
    body = _write(
        Op(Verb.NEW, 1, argument=7, record=b"abc"),
        Op(Verb.TOUCH, 9, 3, 1, 4),
        extras=(Extra(0, key="k"),),
    )
    assert [body[at : at + 8].hex(" ") for at in range(0, len(body), 8)] == [
        "00 00 00 00 19 00 00 00",  # one segment, of 25 words
        "00 00 00 00 03 00 02 00",  # root: three data words, two pointers
        "01 00 00 00 00 00 00 00",  # number
        "01 00 00 00 00 00 00 00",  # mark
        "00 00 00 00 00 00 00 00",  # firstSentMs
        "05 00 00 00 57 00 00 00",  # ops: one word further on, composite, 10 words
        "31 00 00 00 2f 00 00 00",  # extras: 12 words further on, composite, 5 words
        "08 00 00 00 04 00 01 00",  # 2 rows: four data words, one pointer
        "01 00 00 00 00 00 00 00",  # request number
        "00 00 00 00 00 00 00 00",  # epoch, seq
        "00 00 00 00 00 00 00 00",  # term, flags, verb
        "07 00 00 00 00 00 00 00",  # kind
        "15 00 00 00 1a 00 00 00",  # record: five words further on, 3 bytes
        "09 00 00 00 00 00 00 00",  # index
        "01 00 00 00 04 00 00 00",  # epoch, seq
        "03 00 00 00 00 00 03 00",  # term, flags, verb
        "00 00 00 00 00 00 00 00",  # argument
        "00 00 00 00 00 00 00 00",  # no record
        "61 62 63 00 00 00 00 00",  # the record, padded
        "04 00 00 00 01 00 04 00",  # 1 extra: one data word, four pointers
        "00 00 00 00 00 00 00 00",  # position
        "0d 00 00 00 12 00 00 00",  # key: three words further on, 2 bytes
        "00 00 00 00 00 00 00 00",  # orderKey
        "00 00 00 00 00 00 00 00",  # schema
        "00 00 00 00 00 00 00 00",  # trace
        "6b 00 00 00 00 00 00 00",  # "k"
    ]


def _natural(number: int, mark: int, ops: list[dict[str, Any]], extras: list[dict[str, Any]]) -> bytes:
    """The batch as a Cap'n Proto library may build it: here extras first, in as many segments as it likes."""
    made: bytes = SCHEMA.Batch.new_message(extras=extras, ops=ops, number=number, mark=mark).to_bytes()
    return made


_PLAIN: list[dict[str, Any]] = [
    {"index": 41, "new": {"kind": 7, "record": b"abc"}},
    {"index": 42, "new": {"kind": 7}},
    {"index": 9, "term": 3, "epoch": 1, "seq": 4, "append": {"record": b"12345678"}},
    {"index": 9, "term": 3, "epoch": 1, "seq": 5, "replace": {"record": b""}},
    {"index": 9, "term": 3, "epoch": 1, "seq": 6, "touch": None},
    {"index": 9, "term": 3, "epoch": 1, "seq": 7, "store": {"afterMs": U64_MAX}},
    {"index": 8, "term": 3, "epoch": 2, "fail": {"message": b"boom"}},
    {"index": 8, "term": 3, "epoch": 3, "release": {"retryAfterMs": 5, "cause": b"drain"}},
    {"index": 7, "term": 3, "epoch": 3, "park": {"reason": b"why"}},
    {"index": 6, "term": 3, "epoch": 3, "seq": 1, "delete": None},
]


def test_any_other_encoding_is_read_and_written_again_in_row_form() -> None:
    """What a Cap'n Proto library builds by itself gives the batch, and the log gets its row form."""
    body = _natural(5, 41, _PLAIN, [{"position": 1, "key": "k", "trace": b"t"}])
    assert read_rows(body) is None
    batch = decode_rows(body)
    assert batch.reencoded
    assert batch.data != body
    again = read_rows(batch.data)
    assert again is not None
    assert (again.rows, again.groups, again.extras) == (batch.rows, batch.groups, batch.extras)
    assert [batch.rows[n][4] for n in range(10)] == [0, 0, 1, 2, 3, 5, 6, 7, 8, 4]
    assert [batch.record(n) for n in range(5)] == [b"abc", None, b"12345678", b"", None]
    assert batch.groups == {(3, 9): (1, 4, 4), (3, 6): (3, 1, 1)}
    assert batch.extras == {1: Extra(1, key="k", trace=b"t")}


def test_a_library_that_builds_in_order_builds_row_form() -> None:
    """Nobody has to know about row form to write it: operations first, each record with its operation, extras last."""
    builder = SCHEMA.Batch.new_message(num_first_segment_words=200)
    builder.number, builder.mark = 5, 41
    builder.ops = _PLAIN
    builder.extras = [{"position": 1, "key": "k", "trace": b"t"}]
    assert read_rows(builder.to_bytes()) is not None


def test_several_segments_are_read() -> None:
    """A large batch of a library that splits messages into segments is read like any other."""
    ops = [{"index": n + 1, "new": {"kind": 1, "record": b"x" * 100}} for n in range(300)]
    body = _natural(5, 1, ops, [])
    assert body[:4] != bytes(4), "one segment: this test has lost its subject"
    assert len(decode_rows(body).rows) == 300


def test_a_batchs_number_is_read_without_its_operations() -> None:
    """In any encoding; of row form only the head is looked at, everything else is validated whole."""
    many = [{"index": n + 1, "new": {"kind": 1, "record": b"x" * 100}} for n in range(300)]
    row_form = write_rows(5, 1, 1, [Op(3, 9, 3, 1, 5)], [])
    for body in (row_form, row_form[:64] + bytes([0xFF]) * 40, _natural(5, 41, _PLAIN, []), _natural(5, 1, many, [])):
        assert batch_number(body) == 5
    for body in (b"", b"\xff" * 128, row_form[:-8], row_form[:16] + bytes(len(row_form) - 16)):
        with pytest.raises(Malformed):
            batch_number(body)


def test_null_and_empty_records_are_told_apart() -> None:
    """A null record is None, an empty one b"": on both ways, in row form and out of it."""
    body = _write(Op(0, 1, argument=7), Op(0, 2, argument=7, record=b""))
    for batch in (read_rows(body), _slow(body)):
        assert batch is not None
        assert [batch.record(0), batch.record(1)] == [None, b""]


def test_what_deviates_from_row_form_by_a_word_takes_the_other_way() -> None:
    """Padding, gaps, unused words: valid for Cap'n Proto, not row form, and gone from what is logged."""
    body = bytearray(_write(Op(1, 9, 3, 1, 4, record=b"abc"), Op(3, 9, 3, 1, 5)))
    for at, value in ((64 + 80 + 5, b"\xff"), (64 + 40 + 24, b"\x01")):
        changed = bytearray(body)
        changed[at : at + len(value)] = value
        assert read_rows(bytes(changed)) is None
        batch = decode_rows(bytes(changed))
        assert batch.reencoded
        assert batch.data == body
    for verb in (Verb.TOUCH, Verb.DELETE, Verb.STORE):
        unused = _write(Op(verb, 9, 3, 1, 4, record=b"abc"))
        assert read_rows(unused) is None
        assert decode_rows(unused).data == _write(Op(verb, 9, 3, 1, 4))
    kind = bytearray(_write(Op(0, 1, argument=7)))
    kind[64 + 24 + 4] = 1  # above the kind's 32 bits
    assert decode_rows(bytes(kind)).data == _write(Op(0, 1, argument=7))


def test_overlapping_records_are_refused() -> None:
    """Two rows cannot share their record's bytes: a small message must not grow in the log."""
    record = b"x" * 800
    body = bytearray(_write(Op(1, 9, 3, 1, 1, record=record), Op(1, 9, 3, 1, 2, record=b"")))
    (pointer,) = struct.unpack_from("<Q", body, 64 + 32)
    struct.pack_into("<Q", body, 64 + 72, pointer - 20)  # the same place, seen from one row further on
    with pytest.raises(Malformed, match="overlap"):
        decode_rows(bytes(body))


def test_unknown_verbs_and_flags_are_refused() -> None:
    """What a newer release may mean by a verb or a flag is not guessed."""
    body = bytearray(_write(Op(3, 9, 3, 1, 1)))
    body[64 + 22] = 9
    with pytest.raises(Malformed, match="operation 0: an unknown verb; verbs are 0 to 8"):
        decode_rows(bytes(body))
    body[64 + 22] = 3
    body[64 + 20] = 1
    with pytest.raises(Malformed, match="operation 0: flags 0x0001"):
        decode_rows(bytes(body))


_TOO_LONG = b"x" * (limits.TEXT_BYTES_MAX + 1)
_RULES: list[tuple[list[Op], str]] = [
    ([], "0 operations"),
    ([Op(0, 1, epoch=1)], r"operation 0 \(new\): epoch 1"),
    ([Op(0, 1, seq=1)], "seq 1"),
    ([Op(0, 1, term=1)], "term 1"),
    ([Op(0, 9)], "request number 9; allowed: from 10 on"),
    ([Op(0, 10), Op(0, 10)], r"operation 1 \(new\): request number 10; allowed: from 11 on"),
    ([Op(1, 0, 1, 1, 1, 0, b"")], r"operation 0 \(append\): session \(term 1, index 0\)"),
    ([Op(1, 9, 0, 1, 1, 0, b"")], "a term is 1 to 2147483647"),
    ([Op(1, 9, 1 << 31, 1, 1, 0, b"")], "a term is 1 to 2147483647"),
    ([Op(3, 9, 1, 0, 1)], r"operation 0 \(touch\): epoch 0"),
    ([Op(4, 9, 1, 1, 0)], r"operation 0 \(delete\): seq 0"),
    ([Op(1, 9, 1, 1, 1)], r"operation 0 \(append\): no record"),
    ([Op(2, 9, 1, 1, 1)], r"operation 0 \(replace\): no record"),
    ([Op(3, 9, 1, 1, 1), Op(3, 9, 1, 1, 3)], "operation 1 .touch.: epoch 1, seq 3; due .*: epoch 1, seq 2"),
    ([Op(3, 9, 1, 1, 1), Op(3, 9, 1, 2, 2)], "operation 1 .touch.: epoch 2, seq 2; due .*: epoch 1, seq 2"),
    ([Op(3, 9, 1, 1, 2), Op(3, 9, 1, 1, 1)], "due in its session's group: epoch 1, seq 3"),
    ([Op(6, 9, 1, 1, 1)], r"operation 0 \(fail\): seq 1; an ending has 0"),
    ([Op(6, 9, 1, 0)], "epoch 0"),
    ([Op(8, 9, 1, 1, 0, 0, _TOO_LONG)], r"operation 0 \(park\): 513 bytes of text; at most 512"),
    ([Op(7, 9, 1, 1, 0, 0, _TOO_LONG)], "513 bytes"),
    ([Op(3, 1 + n, 1, 1, 1) for n in range(1_025)], "1025 operations in the batch; allowed: 1 to 1024"),
]


@pytest.mark.parametrize(("ops", "why"), _RULES)
def test_a_batch_that_breaks_a_rule_is_malformed(ops: list[Op], why: str) -> None:
    """The refusal names the operation, what is wrong with it, and what is allowed; nothing of the batch counts."""
    body = write_rows(1, 10, 0, ops)
    assert read_rows(body) is None
    with pytest.raises(Malformed, match=why):
        decode_rows(body)


_EXTRA_RULES: list[tuple[list[Extra], str]] = [
    ([Extra(3)], "extra 0: position 3; allowed: 0 to 2"),
    ([Extra(1), Extra(1)], "extra 1: position 1; allowed: 2 to 2"),
    ([Extra(2)], "operation 2 is no new"),
    ([Extra(0, key="я" * 129)], r"extras\[0\].key: 258 bytes; at most 256"),
    ([Extra(0, order_key="x" * 257)], r"extras\[0\].order_key: 257 bytes"),
    ([Extra(0), Extra(1, schema="x" * 257)], r"extras\[1\].schema: 257 bytes"),
    ([Extra(0, trace=b"x" * 129)], r"extras\[0\].trace: 129 bytes; at most 128"),
]


@pytest.mark.parametrize(("extras", "why"), _EXTRA_RULES)
def test_an_extra_that_breaks_a_rule_is_malformed(extras: list[Extra], why: str) -> None:
    """Extras ascend, stand beside a `new`, and are bounded."""
    body = write_rows(1, 1, 0, [Op(0, 1), Op(0, 2), Op(3, 9, 1, 1, 1)], extras)
    assert read_rows(body) is None
    with pytest.raises(Malformed, match=why):
        decode_rows(body)


def test_a_batch_has_a_number() -> None:
    """Number 0 would be no answerable one."""
    with pytest.raises(Malformed, match="number 0"):
        decode_rows(write_rows(0, 1, 0, [Op(0, 1)]))


def test_a_record_over_its_limit_is_no_malformed_message() -> None:
    """TOO_LARGE is a verdict that the caller gets for one operation, so the batch passes here."""
    record = bytes(limits.RECORD_BYTES_MAX + 1)
    body = _write(Op(1, 9, 1, 1, 1, 0, record))
    batch = read_rows(body)
    assert batch is not None
    assert batch.rows[0][7] == len(record)


def test_every_sample_verb_is_row_form() -> None:
    """What the library writes is what the pipe reads fast, for every verb and with extras."""
    batch = read_rows(write_rows(12, 41, 7, OPS, EXTRAS))
    assert batch is not None
    assert batch == _slow(batch.data)
    assert {row[4] for row in batch.rows} == set(Verb)
    assert list(batch.extras.values()) == EXTRAS
    assert batch.groups == {(3, 48213): (1, 4, 3), (3, 48300): (2, 1, 2), (3, 48304): (1, 1, 1)}
