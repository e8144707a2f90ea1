"""Reads a batch as schemas/PROTOCOL.md, "Row form", describes it: the oracle's own eyes on what was logged."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_PREFIX: Final = struct.Struct("<IIQQQQQQQ")  # table, words, root, number, mark, first sent, ops, extras, tag
_ROW: Final = struct.Struct("<QIIIHHQII")  # index, epoch, seq, term, flags, verb, argument, record pointer's halves
_VERDICT: Final = struct.Struct("<IHH")


class OpSeen(NamedTuple):
    """One operation of a batch."""

    verb: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    term: int
    epoch: int
    seq: int
    argument: int
    record: bytes | None


class BatchSeen(NamedTuple):
    """A batch; `keys` by position of its News that have one."""

    number: int
    mark: int
    first_sent_ms: int
    ops: list[OpSeen]
    keys: dict[int, str]


def read_batch(body: bytes) -> BatchSeen:
    """The batch of a frame. The log holds row form only: anything else is an AssertionError."""
    table, words, _, number, mark, first_sent_ms, ops_at, extras_at, tag = _PREFIX.unpack_from(body)
    assert table == 0, "one segment"
    assert words * 8 + 8 == len(body), "the segment table tells the body's length"
    assert ops_at & 7 == 5, "a list right behind the pointers, in the first word behind the extras' pointer"
    count = (tag & 0xFFFFFFFF) >> 2
    ops: list[OpSeen] = []
    at = _PREFIX.size
    end = at + count * _ROW.size
    for index, epoch, seq, term, _, verb, argument, low, high in _ROW.iter_unpack(memoryview(body)[at:end]):
        at += _ROW.size
        record: bytes | None = None
        if low or high:
            start = at + (low >> 2) * 8
            record = body[start : start + (high >> 3)]
        ops.append(OpSeen(verb, index, term, epoch, seq, argument, record))
    return BatchSeen(number, mark, first_sent_ms, ops, _keys(body, extras_at) if extras_at else {})


def read_verdicts(rows: bytes) -> dict[int, int]:
    """Codes by position, decided before the log."""
    return {position: code for position, code, _ in _VERDICT.iter_unpack(rows) if code}


def read_uncharged(rows: bytes) -> set[int]:
    """Positions of failures that are not charged: a verdict without a code, whose third word has bit 0."""
    return {position for position, code, flags in _VERDICT.iter_unpack(rows) if not code and flags & 1}


def _keys(body: bytes, pointer: int) -> dict[int, str]:
    """Key texts of the extras: rows of one data word and four pointers."""
    at = 64 - 8 + ((pointer & 0xFFFFFFFF) >> 2) * 8  # behind the pointer itself, which ends at byte 56
    count = (int.from_bytes(body[at : at + 8], "little") & 0xFFFFFFFF) >> 2
    at += 8
    keys: dict[int, str] = {}
    for _ in range(count):
        (position,) = struct.unpack_from("<I", body, at)
        low, high = struct.unpack_from("<II", body, at + 8)
        if low or high:
            start = at + 16 + (low >> 2) * 8
            keys[position] = body[start : start + (high >> 3) - 1].decode()
        at += 40
    return keys
