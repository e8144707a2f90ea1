"""Reads a batch in any valid Cap'n Proto encoding, and says what is wrong with one that is none.

The slow and careful counterpart of `mpy6a.rows.read_rows`: through pycapnp, then `check`, then row form,
because the log holds nothing else. What it accepts, and only that, `read_rows` accepts in row form (a
property test holds that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mpy6a import limits
from mpy6a.capnproto import Layout, Wrong, read
from mpy6a.errors import Malformed
from mpy6a.fields import Data, Many, Number, Text
from mpy6a.model import Extra, Op, Verb
from mpy6a.rows import TERM_END, RowBatch, read_rows, write_rows

# By the name of the union's member in wire.capnp: the verb, and the names of its argument and of its record.
_MEMBERS: Final[dict[str, tuple[Verb, str, str]]] = {
    "new": (Verb.NEW, "kind", "record"),
    "append": (Verb.APPEND, "", "record"),
    "replace": (Verb.REPLACE, "", "record"),
    "touch": (Verb.TOUCH, "", ""),
    "delete": (Verb.DELETE, "", ""),
    "store": (Verb.STORE, "afterMs", ""),
    "fail": (Verb.FAIL, "", "message"),
    "release": (Verb.RELEASE, "retryAfterMs", "cause"),
    "park": (Verb.PARK, "", "reason"),
}
_EXTRA: Final[Layout[Extra]] = Layout(
    "wire.capnp",
    "Extra",
    Extra,
    Number("position"),
    Text("key", limits.KEY_BYTES_MAX),
    Text("order_key", limits.KEY_BYTES_MAX),
    Text("schema", limits.LABEL_BYTES_MAX),
    Data("trace", limits.TRACE_BYTES_MAX),
)
_EXTRAS: Final = Many("extras", _EXTRA, limits.MESSAGE_OPERATIONS_MAX)


def read_batch(body: bytes, size_max: int, *, nulled: bool = False) -> RowBatch:
    """The batch in row form, of at most `size_max` bytes; Malformed tells operation, fault and what is
    allowed."""
    number, mark, first_sent_ms, ops, extras = read("wire.capnp", "Batch", body, _take)
    check(number, mark, ops, extras, nulled=nulled)
    # Two pointers to the same bytes would let a small message grow; what does not overlap fits in the body.
    told = sum(len(op.record) for op in ops if op.record) + sum(
        len(text.encode()) for extra in extras for text in extra[1:4]
    )
    if told > len(body):
        raise Malformed(f"records and texts overlap: {told} bytes in a body of {len(body)}")
    data = write_rows(number, mark, first_sent_ms, ops, extras)
    if len(data) > size_max:
        raise Malformed(f"the batch takes {len(data)} bytes in row form; at most {size_max}")
    batch = read_rows(data, nulled=nulled)
    if batch is None:  # would be a bug of ours; a peer that finds one must not end the pipe by it
        raise Malformed("the batch cannot be written in row form")
    batch.reencoded = data != body
    return batch


def check(
    number: int, mark: int, ops: Sequence[Op], extras: Sequence[Extra], *, nulled: bool = False
) -> None:
    """Raises Malformed unless the whole batch keeps the rules of PROTOCOL.md, "What a batch may hold"."""
    if not number:
        raise Malformed("the batch has number 0; numbers begin at 1")
    if not 1 <= len(ops) <= limits.MESSAGE_OPERATIONS_MAX:
        raise Malformed(f"{len(ops)} operations in the batch; allowed: 1 to {limits.MESSAGE_OPERATIONS_MAX}")
    request = max(mark, 1) - 1
    groups: dict[tuple[int, int], tuple[int, int]] = {}
    for position, op in enumerate(ops):
        if op.verb == Verb.NEW:
            fault = _fault_of_new(op, request)
            request = op.index
        else:
            fault = _fault_of_session(op)
            if not fault and op.verb <= Verb.STORE:
                fault = _fault_of_writer(op, groups, nulled)
            elif not fault:
                fault = _fault_of_ending(op)
        if fault:
            raise Malformed(f"operation {position} ({Verb(op.verb).name.lower()}): {fault}")
    _check_extras(ops, extras)


def _fault_of_new(op: Op, request: int) -> str:
    if op.epoch or op.seq or op.term:
        return f"epoch {op.epoch}, seq {op.seq}, term {op.term}; all are 0 before there is a session"
    if op.index <= request:
        return f"request number {op.index}; allowed: from {request + 1} on, never below the mark and rising"
    return ""


def _fault_of_session(op: Op) -> str:
    if not op.index or not 0 < op.term < TERM_END:
        return (
            f"session (term {op.term}, index {op.index}); a term is 1 to {TERM_END - 1}, an index at least 1"
        )
    if not op.epoch:
        return "epoch 0; epochs begin at 1"
    return ""


def _fault_of_writer(op: Op, groups: dict[tuple[int, int], tuple[int, int]], nulled: bool) -> str:
    if not op.seq:
        return "seq 0; it begins at 1 in each epoch"
    if op.verb in (Verb.APPEND, Verb.REPLACE) and op.record is None and not nulled:
        return "no record; an empty one is a list of 0 bytes, not a null pointer"
    epoch, due = groups.get((op.term, op.index), (op.epoch, op.seq))
    if (op.epoch, op.seq) != (epoch, due):
        return f"epoch {op.epoch}, seq {op.seq}; due in its session's group: epoch {epoch}, seq {due}"
    groups[op.term, op.index] = op.epoch, op.seq + 1
    return ""


def _fault_of_ending(op: Op) -> str:
    if op.seq:
        return f"seq {op.seq}; an ending has 0"
    if op.record is not None and len(op.record) > limits.TEXT_BYTES_MAX:
        return f"{len(op.record)} bytes of text; at most {limits.TEXT_BYTES_MAX}"
    return ""


def _check_extras(ops: Sequence[Op], extras: Sequence[Extra]) -> None:
    last = -1
    for number, extra in enumerate(extras):
        if not last < extra.position < len(ops):
            raise Malformed(
                f"extra {number}: position {extra.position}; allowed: {last + 1} to {len(ops) - 1}, ascending"
            )
        last = extra.position
        if ops[last].verb != Verb.NEW:
            raise Malformed(f"extra {number}: operation {last} is no new; only a new has extras")


def _take(reader: Any) -> tuple[int, int, int, list[Op], tuple[Extra, ...]]:
    """Copies a batch out of pycapnp's reader. What the union's member does not name is not looked at."""
    rows = reader.ops
    if len(rows) > limits.MESSAGE_OPERATIONS_MAX:  # before the first one is looked at
        raise Malformed(f"{len(rows)} operations in the batch; allowed: 1 to {limits.MESSAGE_OPERATIONS_MAX}")
    ops = [_take_op(position, row) for position, row in enumerate(rows)]
    try:
        extras = _EXTRAS.take(reader)
    except Wrong as wrong:
        raise Malformed(f"{wrong.path}: {wrong.what}") from None
    return reader.number, reader.mark, reader.firstSentMs, ops, extras


def _member(position: int, row: Any) -> str:
    import capnp

    try:
        member: str = row.which()
    except capnp.KjException:
        raise Malformed(f"operation {position}: an unknown verb; verbs are 0 to {max(Verb)}") from None
    return member


def _take_op(position: int, row: Any) -> Op:
    if row.flags:
        raise Malformed(f"operation {position}: flags {row.flags:#06x}; 0 is all there is")
    member = _member(position, row)
    verb, argument, record = _MEMBERS[member]
    group = getattr(row, member) if argument or record else row
    return Op(
        verb,
        row.index,
        row.term,
        row.epoch,
        row.seq,
        group._get(argument) if argument else 0,
        group._get(record) if record and group._has(record) else None,
    )
