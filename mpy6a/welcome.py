"""What a pipe answers a hello with, and tells by itself when its routes have changed."""

from __future__ import annotations

from typing import Final

from mpy6a import limits
from mpy6a.messages import Kind, Limits, PipeInfo, Role, Welcome
from mpy6a.policy import Policy

PROTOCOL_VERSION: Final = 1


def welcome(policy: Policy, pipe: int, term: int, log_ms: int, hop: bytes, role: Role = Role.PIPE) -> Welcome:
    """That of a pipe with this policy in force; `hop` is the incarnation of its process."""
    kinds = tuple(
        Kind(kind.id, kind.name, kind.delay_ms, kind.idle_ms, kind.silence_ms, kind.timeout_ms)
        for kind in policy.kinds.values()
    )
    bounds = Limits(
        policy.record_bytes_max,
        policy.session_bytes_max,
        policy.session_records_max,
        limits.MESSAGE_BYTES_MAX,
        limits.MESSAGE_OPERATIONS_MAX,
        limits.ENVELOPE_BYTES_MAX,
    )
    here = PipeInfo(pipe, term, True, log_ms)
    return Welcome(PROTOCOL_VERSION, role, policy.lease_ms, log_ms, bounds, kinds, (here,), hop)
