"""Turn a session into a row of the checkpoint and back, with a checksum over all of it. Pure.

Columns and checksums: FORMAT.md. A session that was never repeated, stored or paused has no Delivery, and a row has
no place to say so: an OPEN row whose columns of a Delivery are all 0 or empty comes back without one. `Extra.position`
(its place in a batch that is long decided) comes back as 0, `timer_ms` as 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from mpy6a.checksum import crc32c
from mpy6a.model import Attempt, Extra
from mpy6a.session import REFERENCE, Delivery, Session

# What a statement reads and binds: SQLite's own values.
Value = int | str | bytes | None
Row = tuple[Any, ...]  # of a SELECT: apsw does not know its types

INTEGERS: Final = (
    "idx",
    "term",
    "kind",
    "state",
    "epoch",
    "seq",
    "change",
    "created_ms",
    "due_ms",
    "stored_index",
    "cancel",
    "paused",
    "repeats",
    "charges",
    "barren",
    "releases",
    "fence",
    "started_ms",
    "grew",
)
TEXTS: Final = (
    "writer",
    "target",
    "sidecar",
    "key",
    "order_key",
    "schema",
    "trace",
    "park_reason",
    "last",
    "attempts",
    "positions",
)
COLUMNS: Final = (*INTEGERS, *TEXTS, "records_crc", "crc", "records")

_FIXED: Final = Struct(f"<{len(INTEGERS) + 1}q{len(TEXTS)}I")  # the integers with records_crc, then the lengths
_LAST: Final = Struct("<IIIIH")
_REFERENCE_BYTES: Final = REFERENCE.size
_NO_DELIVERY: Final = Delivery()
_NO_EXTRA: Final = Extra(0)


class BadRow(ValueError):
    """A row that says something else than its checksum."""


def row_of(session: Session, records: Sequence[bytes]) -> Row:
    """The row of a session, in the order of COLUMNS; `records` are the bytes behind `session.records`.

    Raises ValueError if they are not, in number or in length.
    """
    positions = session.positions
    if len(records) * _REFERENCE_BYTES != len(positions) or sum(map(len, records)) != session.size:
        raise ValueError(f"session {session.term}.{session.index}: other records than its references")
    delivery = session.delivery or _NO_DELIVERY
    extra = session.extra or _NO_EXTRA
    last = session.last
    joined = b"".join(records)
    records_crc = crc32c(joined)
    integers = (
        session.index,
        session.term,
        session.kind,
        session.state,
        session.epoch,
        session.seq,
        session.change,
        session.created_ms,
        session.due_ms,
        session.stored_index,
        int(delivery.cancel),
        int(delivery.paused),
        delivery.repeats,
        delivery.charges,
        delivery.barren,
        delivery.releases,
        delivery.fence,
        delivery.started_ms,
        int(delivery.grew),
    )
    texts = (
        session.writer,
        delivery.target,
        delivery.sidecar,
        extra.key or None,
        extra.order_key or None,
        extra.schema,
        extra.trace,
        delivery.park_reason,
        b"" if last is None else _LAST.pack(*last[1:]) + last[0],
        _attempts_text(delivery.attempts) if delivery.attempts else "",
        positions,
    )
    return (*integers, *texts, records_crc, _crc(integers, records_crc, texts), joined)


def session_of(row: Row) -> Session:
    """The session of a row (COLUMNS in order; its records may be left out or be None). Raises BadRow."""
    # fmt: off
    (
        index, term, kind, state, epoch, seq, change, created_ms, due_ms, stored_index, cancel, paused, repeats,
        charges, barren, releases, fence, started_ms, grew,
        writer, target, sidecar, key, order_key, schema, trace, park_reason, last, attempts, positions,
        records_crc, crc,
    ) = row[:32]
    # fmt: on
    if _crc(row[:19], records_crc, row[19:30]) != crc:
        raise BadRow("its checksum is wrong")
    session = Session(term, index, kind, writer, created_ms, due_ms)
    session.state = state
    session.epoch = epoch
    session.seq = seq
    session.change = change
    if last:
        session.last = (last[_LAST.size :], *_LAST.unpack_from(last))
    if positions:
        if len(positions) % _REFERENCE_BYTES:
            raise BadRow("its positions are cut short")
        session.positions = positions
        session.size = sum([length for length, _ in REFERENCE.iter_unpack(positions)])
    if key or order_key or schema or trace:
        session.extra = Extra(0, key or "", order_key or "", schema, trace)
    session.stored_index = stored_index
    if not any(row[10:19]) and not (target or sidecar or park_reason or attempts):
        return session
    delivery = session.delivery = Delivery()
    delivery.cancel = bool(cancel)
    delivery.paused = bool(paused)
    delivery.repeats = repeats
    delivery.charges = charges
    delivery.barren = barren
    delivery.releases = releases
    delivery.fence = fence
    delivery.started_ms = started_ms
    delivery.grew = bool(grew)
    delivery.target = target
    delivery.sidecar = sidecar
    delivery.park_reason = park_reason
    if attempts:
        delivery.attempts = tuple([Attempt(*one) for one in json.loads(attempts)])
    return session


def put_records(found: dict[int, bytes], positions: bytes, records_crc: int, records: bytes) -> None:
    """Put the bytes of a row's records into `found`, by reference; who passes `positions` has checked the row. Raises
    BadRow."""
    if crc32c(records) != records_crc:
        raise BadRow("the checksum of its records is wrong")
    if len(positions) % _REFERENCE_BYTES:
        raise BadRow("its positions are cut short")
    at = 0
    for length, position in REFERENCE.iter_unpack(positions):
        found[position << 32 | length] = records[at : at + length]
        at += length
    if at != len(records):
        raise BadRow("its records have another length than its positions say")


def crc_of(*columns: Value) -> int:
    """The checksum of a row of the smaller tables: all columns but `crc`, in the order of the table."""
    integers = [column for column in columns if isinstance(column, int)]
    texts = [_bytes(column) for column in columns if not isinstance(column, int)]
    head = Struct(f"<{len(integers)}q{len(texts)}I").pack(*integers, *map(len, texts))
    return crc32c(head + b"".join(texts))


def _crc(integers: Row, records_crc: int, texts: Row) -> int:
    """The same for a session, whose shape is known; most have none of the texts."""
    writer, target, sidecar, key, order_key, schema, trace, park_reason, last, attempts, positions = texts
    if not (sidecar or key or order_key or schema or park_reason or attempts):
        fixed = _FIXED.pack(
            *integers, records_crc, len(writer), len(target), 0, 0, 0, 0, len(trace), 0, len(last), 0, len(positions)
        )
        return crc32c(b"".join((fixed, writer, target, trace, last, positions)))
    as_bytes = [text if type(text) is bytes else text.encode() if text else b"" for text in texts]
    return crc32c(_FIXED.pack(*integers, records_crc, *map(len, as_bytes)) + b"".join(as_bytes))


def _bytes(text: str | bytes | None) -> bytes:
    if isinstance(text, str):
        return text.encode()
    return text or b""


def _attempts_text(attempts: tuple[Attempt, ...]) -> str:
    return json.dumps(attempts, ensure_ascii=False, separators=(",", ":"))
