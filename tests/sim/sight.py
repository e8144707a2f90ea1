"""What the oracle is shown: frames, policies and live sessions of the pipe, as plain tuples."""

from __future__ import annotations

from collections.abc import Callable

from mpy6a.entries import decode_admin, decode_opening, decode_policy, decode_proposals
from mpy6a.framing import Frame, FrameType
from mpy6a.policy import Policy
from mpy6a.session import REPEATING, Session

from .oracle import FrameSeen, Kept, KindSeen, PolicySeen


def seen(frame: Frame, *, items: bool = True) -> FrameSeen:
    """A frame as the oracle takes it; its items may be left out where it is only compared."""
    read: tuple[tuple[object, ...], ...] = ()
    match frame.type if items else FrameType.BATCH:
        case FrameType.PROPOSALS:
            read = tuple(tuple(proposal) for proposal in decode_proposals(frame.batch))
        case FrameType.ADMIN:
            word = decode_admin(frame.batch)
            read = ((word.verb, word.kind, word.until_ms, word.reason), *(tuple(key) for key in word.sessions))
        case FrameType.POLICY:
            read = (policy_seen(decode_policy(frame.batch)),)
        case FrameType.OPENING:
            read = ((decode_opening(frame.batch).term,),)
    return FrameSeen(
        int(frame.type), frame.flags, frame.term, frame.first_index, frame.count, frame.log_ms, frame.origin,
        frame.batch, frame.verdicts, read,
    )  # fmt: skip


def policy_seen(policy: Policy) -> PolicySeen:
    """A policy as the oracle takes it."""
    kinds = {
        number: KindSeen(
            kind.sidecars, kind.delay_ms, kind.jitter_ms, kind.backoff_base_ms, kind.backoff_cap_ms, kind.idle_ms,
            kind.silence_ms, kind.barren_limit, kind.charge_limit, kind.rate, kind.rate_ms, kind.burst,
            kind.concurrency_total, kind.breaker,
        )
        for number, kind in policy.kinds.items()
    }
    return PolicySeen(kinds, policy.session_bytes_max, policy.session_records_max)


def kept(session: Session, read: Callable[[Session], list[bytes]] | None) -> Kept:
    """A live session as the oracle takes it; its records by `read`, or only how long they are."""
    delivery = session.delivery
    records: tuple[bytes, ...] | tuple[int, ...]
    records = tuple(one & 0xFFFFFFFF for one in session.records) if read is None else tuple(read(session))
    if delivery is None:
        extra = (False, False, 0, 0, 0, 0, "")
        target = b""
    else:
        extra = (
            delivery.cancel, delivery.paused, delivery.repeats, delivery.charges, delivery.barren, delivery.releases,
            delivery.park_reason,
        )  # fmt: skip
        target = delivery.target if session.state == REPEATING else b""
    return Kept(
        session.term, session.index, session.kind, session.state, session.epoch, session.seq, session.writer, target,
        session.fence, session.due_ms, session.stored_index, session.change, records, *extra,
        session.extra.key if session.extra is not None else "",
    )  # fmt: skip
