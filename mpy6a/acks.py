"""Reads and writes the body of an ack by hand: every batch has one, and pycapnp would cost what rows save.

Both functions know one encoding (one segment, no texts) and return None for everything else, which then goes
through `mpy6a.capnproto`. A property test holds both ways equal.
"""

from __future__ import annotations

import struct
from typing import Final

from mpy6a import limits
from mpy6a.messages import Ack
from mpy6a.model import Result

_ACK: Final = struct.Struct(
    "<IIQQQQIIQQQ"
)  # table, root, five data words (the fourth as two halves), two pointers
_TAG: Final = struct.Struct("<Q")
_RESULT: Final = struct.Struct("<IHHQIIQ")  # position code state index term epoch message
_ROOT: Final = 5 << 32 | 2 << 48  # a struct right behind: five data words, two pointers
_RESULT_TAG: Final = 3 << 32 | 1 << 48  # + count << 2
_RESULTS: Final = 1 << 2 | 1 | 7 << 32  # a list of structs behind the other pointer: + words << 35
_DURABLE: Final = 1 << 16  # in the last data word, above the code
_TERM_END: Final = 1 << 31


def write_ack(ack: Ack) -> bytes | None:
    """The body, or None if the ack has texts. What is out of its field's range raises struct.error."""
    number, first_index, log_ms, term, retry_after_ms, code, durable, results, message = ack
    if message:
        return None
    assert 0 <= code <= 0xFFFF, "code is a u16"  # it shares a word with the flag
    last = code | _DURABLE if durable else code
    if not results:
        return _ACK.pack(0, 8, _ROOT, number, first_index, log_ms, term, retry_after_ms, last, 0, 0)
    rows: list[bytes] = []
    for position, verdict, index, its_term, epoch, state, sentence in results:
        if sentence:
            return None
        rows.append(_RESULT.pack(position, verdict, state, index, its_term, epoch, 0))
    count = len(rows)
    if count > limits.MESSAGE_OPERATIONS_MAX:
        return None
    pointer = _RESULTS | 4 * count << 35
    head = _ACK.pack(
        0, 9 + 4 * count, _ROOT, number, first_index, log_ms, term, retry_after_ms, last, pointer, 0
    )
    return head + _TAG.pack(count << 2 | _RESULT_TAG) + b"".join(rows)


def read_ack(body: bytes) -> Ack | None:
    """The ack, or None if the body is not in the form that `write_ack` writes."""
    if len(body) < _ACK.size or len(body) & 7:
        return None
    table, words, root, number, first_index, log_ms, term, retry_after_ms, last, pointer, text = (
        _ACK.unpack_from(body)
    )
    if table or words << 3 != len(body) - 8 or root != _ROOT or text or last >> 17 or term >= _TERM_END:
        return None
    results: tuple[Result, ...] = ()
    if pointer:
        found = _read_results(body, pointer)
        if found is None:
            return None
        results = found
    elif len(body) != _ACK.size:
        return None
    return Ack(number, first_index, log_ms, term, retry_after_ms, last & 0xFFFF, last >= _DURABLE, results)


def _read_results(body: bytes, pointer: int) -> tuple[Result, ...] | None:
    count, odd = divmod(len(body) - _ACK.size - _TAG.size, _RESULT.size)
    if odd or not 0 < count <= limits.MESSAGE_OPERATIONS_MAX or pointer != _RESULTS | 4 * count << 35:
        return None
    (tag,) = _TAG.unpack_from(body, _ACK.size)
    if tag != count << 2 | _RESULT_TAG:
        return None
    results: list[Result] = []
    rows = memoryview(body)[_ACK.size + _TAG.size :]
    last = -1
    for position, code, state, index, term, epoch, message in _RESULT.iter_unpack(rows):
        if message or not last < position < limits.MESSAGE_OPERATIONS_MAX or term >= _TERM_END:
            return None
        last = position
        results.append(Result(position, code, index, term, epoch, state))
    return tuple(results)
