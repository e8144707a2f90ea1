"""One session as JSON values: all that is known of it, for a bug report. Pure; schemas/PROTOCOL.md, "Operators".

The records come beside it, as they are long: by reference first, and their bytes a page at a time.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, Protocol, runtime_checkable

from mpy6a import limits
from mpy6a.model import AttemptOutcome, SessionId, SessionState
from mpy6a.session import Delivery, Session
from mpy6a.sessions import Sessions
from mpy6a.state import State
from mpy6a.version import __version__

VERSION: Final = 1  # of the document
_LENGTH: Final = (1 << 32) - 1
_NO_DELIVERY: Final = Delivery()


def document(state: State, session: Session, source: str, why: tuple[str, str] | None) -> dict[str, Any]:
    """The document without the records' bytes. `source`: `pipe` or `directory`; only a running pipe knows `why`."""
    return {
        "export": VERSION,
        "as_of": {
            "source": source,
            "release": __version__,
            "pipe": state.pipe,
            "term": state.term,
            "next_index": state.next_index,
            "log_ms": state.log_ms,
        },
        "session": _image(state, session),
        "why": None if why is None else {"reason": why[0], "detail": why[1]},
        "policy": _policy(state.sessions, session.kind),
        "records": [
            {"segment": reference >> 64, "offset": reference >> 32 & _LENGTH, "bytes": reference & _LENGTH}
            for reference in session.records
        ],
    }


@runtime_checkable
class Parts(Protocol):
    """A checkpoint's file that reads from the middle of a row: a whole one of 16 MiB takes 25 ms of the pipe's."""

    def part(self, index: int, start: int, length: int) -> bytes:
        """Bytes of the row's records, joined. Raises DamagedLog."""
        ...


def page(sessions: Sessions, session: Session, start: int, read: Callable[[int, int], bytes]) -> bytes:
    """Bytes of the session's records, joined, from `start` on: EXPORT_PAGE_BYTES, or what is left.

    Records only come at the end, so what the file has of them is how the row's own begin.
    """
    end = min(start + limits.EXPORT_PAGE_BYTES, session.size)
    source, below = sessions.source, sessions.filed_below
    filed = sum(reference & _LENGTH for reference in session.records if reference >> 32 < below)
    found: list[bytes] = []
    if start < min(end, filed):
        if not isinstance(source, Parts):
            return b"".join(sessions.records(session, read))[start:end]
        found.append(source.part(session.index, start, min(end, filed) - start))
    at = 0
    for reference in session.records:
        length = reference & _LENGTH
        first, last = max(start - at, 0), min(end - at, length)
        if at >= filed and first < last:
            found.append(read((reference >> 32) + first, last - first))
        at += length
    return b"".join(found)


def put_records(exported: dict[str, Any], records: bytes) -> None:
    """Put the bytes of all records, joined, into a document."""
    at = 0
    for record in exported["records"]:
        record["base64"] = base64.b64encode(records[at : at + record["bytes"]]).decode()
        at += record["bytes"]
    assert at == len(records), "the lengths are those of the records"


def _image(state: State, session: Session) -> dict[str, Any]:
    delivery, extra, last = session.delivery or _NO_DELIVERY, session.extra, session.last
    kind = state.policy.kinds.get(session.kind)
    return {
        "id": str(SessionId(state.pipe, session.term, session.index)),
        "kind": kind.name if kind else str(session.kind),
        "kind_id": session.kind,
        "state": SessionState(session.state).name.lower(),
        "epoch": session.epoch,
        "seq": session.seq,
        "change": session.change,
        "fence": str(session.fence),  # over 2^53
        "created_ms": session.created_ms,
        "due_ms": session.due_ms,
        "stored_index": session.stored_index,
        "writer": session.writer.hex(),
        "target": delivery.target.hex(),
        "sidecar": delivery.sidecar,
        "last_group": last
        and {
            "client": last[0].hex(),
            **dict(zip(("epoch", "first_seq", "count", "ok", "code"), last[1:], strict=True)),
        },
        "key": extra.key if extra else "",
        "order_key": extra.order_key if extra else "",
        "schema": extra.schema if extra else "",
        "trace": extra.trace.hex() if extra else "",
        "cancel": delivery.cancel,
        "paused": delivery.paused,
        "repeats": delivery.repeats,
        "charges": delivery.charges,
        "barren": delivery.barren,
        "releases": delivery.releases,
        "started_ms": delivery.started_ms,
        "grew": delivery.grew,
        "park_reason": delivery.park_reason,
        "bytes": session.size,
        "attempts": [
            attempt._asdict() | {"outcome": AttemptOutcome(attempt.outcome).name.lower()}
            for attempt in delivery.attempts
        ],
    }


def _policy(sessions: Sessions, kind: int) -> dict[str, Any]:
    """What was in force for its kind; `kind` is None for one that the routes do not name any more."""
    policy = sessions.policy
    named = policy.kinds.get(kind)
    pipe = {
        name: getattr(policy, name)
        for name in ("lease_ms", "record_bytes_max", "session_bytes_max", "session_records_max")
    }
    return {"pipe": pipe, "kind": None if named is None else asdict(named)}
