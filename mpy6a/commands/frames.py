"""Frames as facts for people: the operations of a batch, the pipe's proposals, an operator's word."""

from __future__ import annotations

from typing import Any

from mpy6a.commands.log import describe_frame, log_commands
from mpy6a.commands.repair import repair_command
from mpy6a.entries import decode_admin, decode_opening, decode_policy, decode_proposals
from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.model import AdminVerb, Cause, ProposalVerb, Verb
from mpy6a.wire import decode_rows


def describe(frame: Frame) -> dict[str, object]:
    """Header and body as JSON values. Records are told by their length only: a dump is no place for their bytes."""
    return describe_frame(frame) | _body(frame)


def _body(frame: Frame) -> dict[str, object]:
    match frame.type:
        case FrameType.BATCH:
            return _batch(frame)
        case FrameType.PROPOSALS:
            return {
                "proposals": [
                    {
                        "verb": ProposalVerb(one.verb).name.lower(),
                        "session": f"{one.term}.{one.index}",
                        "epoch": one.epoch,
                        "change": one.change,
                        "cause": Cause(one.cause).name.lower(),
                        "target": one.target.hex(),
                        "sidecar": one.sidecar,
                        "reason": one.reason,
                    }
                    for one in decode_proposals(frame.batch)
                ]
            }
        case FrameType.ADMIN:
            admin = decode_admin(frame.batch)
            return {
                "verb": AdminVerb(admin.verb).name.lower(),
                "who": admin.who,
                "reason": admin.reason,
                "sessions": [f"{term}.{index}" for term, index in admin.sessions],
            }
        case FrameType.OPENING:
            opening = decode_opening(frame.batch)
            return {"release": opening.release, "node": opening.node, "wall_ms": opening.wall_ms}
        case FrameType.POLICY:
            return {"kinds": {kind.name: kind.id for kind in decode_policy(frame.batch).kinds.values()}}
    return {}


def _batch(frame: Frame) -> dict[str, Any]:
    batch = decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED))
    operations = []
    for row in batch.rows:
        index, epoch, seq, term, verb, argument, _, length = row
        operation: dict[str, Any] = {"verb": Verb(verb).name.lower()}
        if verb == Verb.NEW:
            operation |= {"request": index, "kind": argument}
        else:
            operation |= {"session": f"{term}.{index}", "epoch": epoch}
            if seq:
                operation["seq"] = seq
            if argument:
                operation["argument"] = argument
        if length >= 0:
            operation["record_bytes"] = length
        operations.append(operation)
    return {
        "number": batch.number,
        "mark": batch.mark,
        "first_sent_ms": batch.first_sent_ms,
        "operations": operations,
    }


log = log_commands(describe)
log.add_command(repair_command())
