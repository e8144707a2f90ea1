"""Reads and writes the log's frames of proposals by hand: every dispatch is in one, written once and read at `apply`.

As `mpy6a.pushes`: one encoding, the bytes that `mpy6a.capnproto` writes, and None for everything else, which then goes
through it. A property test holds both ways equal.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from mpy6a import limits
from mpy6a.model import Proposal

_HEAD: Final = struct.Struct("<IIQQQ")  # table, root, the pointer and the tag of the list
_ROOT: Final = 1 << 48
_ROW: Final = struct.Struct("<QQQ16sIIHHIQQ")  # index change dueMs target term epoch verb cause charged, sidecar reason
_ROW_WORDS: Final = 9
_TAG: Final = 7 << 32 | 2 << 48  # + count << 2
_STRUCTS: Final = 1 | 7 << 32  # a list of structs: + words << 35
_BYTES: Final = 1 | 2 << 32  # a list of bytes: + offset in words << 2, count << 35
_BELOW_COUNT: Final = (1 << 35) - 1
_TEXTS_AT: Final = 7  # the word of a row's first pointer
_TERM_END: Final = 1 << 31


def write_proposals(proposals: Sequence[Proposal]) -> bytes | None:
    """The body, or None if it is not for this way."""
    count = len(proposals)
    if not 0 < count <= limits.PROPOSALS_MAX:
        return None
    rows: list[bytes] = []
    blobs: list[bytes] = []
    texts: dict[str, tuple[bytes, int]] = {"": (b"", 0)}  # padded, and its length with the zero byte
    free, at = _ROW_WORDS * count, _TEXTS_AT  # words from the first row: not used yet, and the row's first pointer
    try:
        for verb, term, index, epoch, change, cause, charged, due_ms, target, sidecar, reason in proposals:
            if not 0 < term < _TERM_END or not index or len(target) != 16:
                return None
            pointers = [0, 0]
            for place, text in enumerate((sidecar, reason)):
                if text:
                    known = texts.get(text)
                    if known is None:
                        known = texts[text] = _padded(text)
                    blob, length = known
                    if length > (limits.TEXT_BYTES_MAX if place else limits.LABEL_BYTES_MAX) + 1:
                        return None
                    pointers[place] = (free - at - place - 1) << 2 | _BYTES | length << 35
                    blobs.append(blob)
                    free += len(blob) >> 3
            rows.append(_ROW.pack(index, change, due_ms, target, term, epoch, verb, cause, bool(charged), *pointers))
            at += _ROW_WORDS
    except (struct.error, UnicodeEncodeError):
        return None
    head = _HEAD.pack(0, free + 3, _ROOT, _STRUCTS | _ROW_WORDS * count << 35, count << 2 | _TAG)
    return b"".join((head, *rows, *blobs))


def _padded(text: str) -> tuple[bytes, int]:
    value = text.encode() + b"\0"
    return value + bytes(-len(value) & 7), len(value)


def read_proposals(body: bytes) -> tuple[Proposal, ...] | None:
    """The proposals, or None if the body is not in the form that `write_proposals` writes, or no good one."""
    if len(body) < _HEAD.size + _ROW.size or len(body) & 7:
        return None
    table, words, root, pointer, tag = _HEAD.unpack_from(body)
    count = (tag & 0xFFFF_FFFF) >> 2
    start = _HEAD.size
    free = start + _ROW.size * count  # in bytes of the body
    if (
        (table, words << 3, root) != (0, len(body) - 8, _ROOT)
        or not 0 < count <= limits.PROPOSALS_MAX
        or (pointer, tag) != (_STRUCTS | _ROW_WORDS * count << 35, count << 2 | _TAG)
        or free > len(body)
    ):
        return None
    found: list[Proposal] = []
    texts: dict[bytes, str] = {}
    at = start + 8 * _TEXTS_AT
    for index, change, due_ms, target, term, epoch, verb, cause, charged, *pointers in _ROW.iter_unpack(
        memoryview(body)[start:free]
    ):
        if not 0 < term < _TERM_END or not index or charged > 1:
            return None
        values = ["", ""]
        for place, pointer in enumerate(pointers):
            if pointer:
                length = pointer >> 35
                end = free + length
                most = (limits.TEXT_BYTES_MAX if place else limits.LABEL_BYTES_MAX) + 1
                due = (free - at - 8 * place - 8) >> 1 | _BYTES
                if pointer & _BELOW_COUNT != due or not 1 < length <= most or end > len(body):
                    return None
                text = _text(body[free:end], texts)
                if text is None:
                    return None
                values[place] = text
                free = end + (-length & 7)
        found.append(
            Proposal(verb, term, index, epoch, change, cause, bool(charged), due_ms, target, values[0], values[1])
        )
        at += _ROW.size
    return tuple(found) if free == len(body) else None


def _text(value: bytes, texts: dict[bytes, str]) -> str | None:
    """The text of these bytes and their zero byte, from what was read before if it is there: most say the same."""
    text = texts.get(value)
    if text is None and not value[-1]:
        try:
            text = texts[value] = value[:-1].decode()
        except UnicodeDecodeError:
            return None
    return text
