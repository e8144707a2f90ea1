"""The fast ways of the wire (rows, acks by hand) and pycapnp's are one codec: same values, same refusals.

The fast ways know one encoding; whatever they take, pycapnp reads as the same value, and whatever they leave is
either refused by the careful way or is no row form.
"""

from __future__ import annotations

import random
import struct
from typing import Any, Final

import capnp
from hypothesis import given
from hypothesis import strategies as st

from mpy6a import limits, resources, wire
from mpy6a.acks import read_ack, write_ack
from mpy6a.batches import check, read_batch
from mpy6a.errors import Malformed
from mpy6a.layouts import BY_TYPE
from mpy6a.messages import Ack, Message, MessageType
from mpy6a.model import U64_MAX, Extra, Op, Result, Verb
from mpy6a.rows import RowBatch, read_rows, write_rows
from tests.wire_samples import EXTRAS, OPS

SCHEMA: Final[Any] = capnp.load(str(resources.schema("wire.capnp")))

_U32 = st.one_of(st.integers(0, 3), st.integers(0, (1 << 32) - 1))
_U64 = st.one_of(st.integers(0, 3), st.integers(0, U64_MAX))
_RECORD = st.binary(max_size=40)
_TEXT = st.text(max_size=20)
_ARGUMENT = {Verb.NEW: _U32, Verb.STORE: _U64, Verb.RELEASE: _U64}
_WITH_RECORD = {Verb.NEW, Verb.APPEND, Verb.REPLACE, Verb.FAIL, Verb.RELEASE, Verb.PARK}


@st.composite
def _wild_ops(draw: st.DrawFn) -> list[Op]:
    """Operations with any numbers: mostly against the rules, small ones so that some keep them."""
    ops = []
    for _ in range(draw(st.integers(0, 4))):
        verb = draw(st.sampled_from(Verb))
        record = draw(st.none() | _RECORD) if verb in _WITH_RECORD else None
        argument = draw(_ARGUMENT.get(verb, st.just(0)))
        small = verb == Verb.NEW and draw(st.booleans())
        term, epoch, seq = (0, 0, 0) if small else (draw(_U32), draw(_U32), draw(_U32))
        ops.append(Op(verb, draw(_U64), term, epoch, seq, argument, record))
    return ops


@st.composite
def _valid_batches(draw: st.DrawFn) -> tuple[int, int, int, list[Op], list[Extra]]:
    """Batches that keep the rules: rising requests, one group a session, endings between them."""
    number, first_sent_ms = draw(st.integers(1, U64_MAX)), draw(_U64)
    mark = draw(st.integers(0, 1 << 40))
    request = max(mark, 1) - 1
    groups: dict[tuple[int, int], list[int]] = {}
    ops: list[Op] = []
    extras: list[Extra] = []
    for position in range(draw(st.integers(1, 30))):
        verb = draw(st.sampled_from(Verb))
        record = draw(_RECORD)
        argument = draw(_ARGUMENT.get(verb, st.just(0)))
        if verb == Verb.NEW:
            request += draw(st.integers(1, 5))
            ops.append(Op(verb, request, argument=argument, record=draw(st.sampled_from([None, record]))))
            if draw(st.booleans()):
                trace = draw(st.binary(max_size=limits.TRACE_BYTES_MAX))
                extras.append(Extra(position, draw(_TEXT), draw(_TEXT), draw(_TEXT), trace))
            continue
        term, index = draw(st.integers(1, 3)), draw(st.integers(1, 5))
        if verb >= Verb.FAIL:
            message = draw(st.sampled_from([None, record]))
            ops.append(Op(verb, index, term, draw(st.integers(1, 9)), 0, argument, message))
            continue
        first = draw(st.integers(1, 1_000)), draw(st.integers(1, 1_000))
        group = groups.setdefault((term, index), list(first))
        writes = verb in (Verb.APPEND, Verb.REPLACE)
        ops.append(Op(verb, index, term, group[0], group[1], argument, record if writes else None))
        group[1] += 1
    return number, mark, first_sent_ms, ops, extras


def _careful(body: bytes) -> RowBatch | None:
    try:
        return read_batch(body, wire.BODY_BYTES_MAX)
    except Malformed:
        return None


def _hold_equal(body: bytes) -> RowBatch | None:
    """What both ways make of the bytes, after holding them to each other."""
    fast, careful = read_rows(body), _careful(body)
    if fast is not None:
        assert careful == fast, body.hex()
    elif careful is not None:
        assert careful.reencoded, f"row form that the row path does not take: {body.hex()}"
    return careful


@given(_valid_batches())
def test_a_valid_batch_is_row_form_and_the_same_on_both_ways(
    batch: tuple[int, int, int, list[Op], list[Extra]],
) -> None:
    """What the library writes is read fast, and pycapnp reads the same from it."""
    body = write_rows(*batch)
    read = read_rows(body)
    assert read is not None
    assert not read.reencoded
    assert (read.number, read.mark, read.first_sent_ms) == batch[:3]
    assert [read.record(n) for n in range(len(batch[3]))] == [op.record for op in batch[3]]
    assert list(read.extras.values()) == batch[4]
    _hold_equal(body)
    check(batch[0], batch[1], batch[3], batch[4])


def _op_fields(op: Op) -> dict[str, Any]:
    name = Verb(op.verb).name.lower()
    names = {"new": "kind", "store": "afterMs", "release": "retryAfterMs"}
    texts = {"fail": "message", "release": "cause", "park": "reason"}
    group: dict[str, Any] | None = {}
    if name in names:
        group = {names[name]: op.argument}
    if op.record is not None:
        group = {**(group or {}), texts.get(name, "record"): op.record}
    if name in ("touch", "delete"):
        group = None
    return {"index": op.index, "epoch": op.epoch, "seq": op.seq, "term": op.term, name: group}


@given(_valid_batches(), st.integers(1, 60))
def test_pycapnp_builds_what_the_row_path_means(
    batch: tuple[int, int, int, list[Op], list[Extra]], segment_words: int
) -> None:
    """A batch built with the schema's own names, in any number of segments, comes out as the row form of the same."""
    number, mark, first_sent_ms, ops, extras = batch
    builder = SCHEMA.Batch.new_message(num_first_segment_words=segment_words)
    builder.extras = [
        {"position": e.position, "key": e.key, "orderKey": e.order_key, "schema": e.schema, "trace": e.trace}
        for e in extras
    ]
    builder.number, builder.mark, builder.firstSentMs = number, mark, first_sent_ms
    builder.ops = [_op_fields(op) for op in ops]
    assert wire.decode_rows(builder.to_bytes()).data == write_rows(*batch)


@given(st.integers(0, 3), st.integers(0, 3), _wild_ops(), st.lists(st.integers(0, 5), max_size=2))
def test_both_ways_refuse_the_same_batches(number: int, mark: int, ops: list[Op], places: list[int]) -> None:
    """The row path takes a batch if and only if the rules, spelled out in `check`, hold."""
    extras = [Extra(place, key="k") for place in places]
    body = write_rows(number, mark, 0, ops, extras)
    try:
        check(number, mark, ops, extras)
        valid = True
    except Malformed:
        valid = False
    assert (read_rows(body) is not None) == valid
    assert (_hold_equal(body) is not None) == valid


@given(st.integers(0, 1 << 32))
def test_damaged_batches_are_the_same_on_both_ways(seed: int) -> None:
    """Flipped bits, moved and zeroed words: the two ways never see different batches in the same bytes."""
    whole = write_rows(12, 41, 7, OPS, EXTRAS)
    draw = random.Random(seed)
    for _ in range(50):
        _hold_equal(_damaged(whole, draw))


def _damaged(whole: bytes, draw: random.Random) -> bytes:
    body = bytearray(whole)
    words = len(body) // 8
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = 8 * draw.randrange(words)
        match draw.randrange(4):
            case 0:
                body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
            case 1:
                source = 8 * draw.randrange(words)
                body[at : at + 8] = body[source : source + 8]
            case 2:
                body[at : at + 8] = bytes(8)
            case _:
                body[at : at + 8] = draw.randbytes(8)
    return bytes(body)


@st.composite
def _acks(draw: st.DrawFn) -> Ack:
    positions = sorted(draw(st.sets(st.integers(0, limits.MESSAGE_OPERATIONS_MAX - 1), max_size=8)))
    term = st.integers(0, (1 << 31) - 1)
    code = st.integers(0, 0xFFFF)
    texts = st.just("") | _TEXT if draw(st.booleans()) else st.just("")
    results = tuple(
        Result(position, draw(code), draw(_U64), draw(term), draw(_U32), draw(code), draw(texts))
        for position in positions
    )
    return Ack(
        draw(_U64),
        draw(_U64),
        draw(_U64),
        draw(term),
        draw(_U32),
        draw(code),
        draw(st.booleans()),
        results,
        draw(texts),
    )


@given(_acks())
def test_an_ack_is_the_same_on_both_ways(ack: Ack) -> None:
    """The hand-written ack and pycapnp's are read as the same value by both, wherever the hand-written one goes."""
    layout = BY_TYPE[MessageType.ACK]
    theirs = layout.encode(ack)
    assert layout.decode(theirs) == ack
    assert read_ack(theirs) in (ack, None)
    ours = write_ack(ack)
    has_texts = bool(ack.message) or any(result.message for result in ack.results)
    assert (ours is None) == has_texts
    if ours is not None:
        assert read_ack(ours) == ack
        assert layout.decode(ours) == ack


@given(_acks(), st.integers(0, 1 << 32))
def test_a_damaged_ack_is_the_same_on_both_ways(ack: Ack, seed: int) -> None:
    """What the hand-written way takes of a damaged ack, pycapnp reads as the same value."""
    layout = BY_TYPE[MessageType.ACK]
    draw = random.Random(seed)
    for _ in range(30):
        body = _damaged(wire.encode(ack, incarnation=b"x" * 16)[wire.HEADER_BYTES :], draw)
        fast = read_ack(body)
        if fast is not None:
            assert layout.decode(body) == fast, body.hex()


@given(st.binary(max_size=300), st.sampled_from(MessageType))
def test_garbage_is_malformed(garbage: bytes, kind: MessageType) -> None:
    """Any bytes as a body or envelope are a clean refusal or a value."""
    words = len(garbage) // 8
    for body in (garbage, struct.pack("<II", 0, words) + garbage[: 8 * words]):
        try:
            wire.decode(Message(kind, 1, b"x" * 16, 0, body))
        except Malformed:
            pass
    try:
        wire.unpack(garbage)
    except Malformed:
        pass
