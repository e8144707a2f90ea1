"""Bodies of the log's frames that the pipe itself writes: openings, policies, proposals and operators' words.

Values to bytes and back by schemas/log.capnp. Reading raises `Malformed`; in a log, whose frames carry
checksums, that means damage or a newer release, which the caller says. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from mpy6a import limits
from mpy6a.capnproto import Layout
from mpy6a.errors import Malformed
from mpy6a.fields import Flag, Incarnation, Many, Number, Scalars, Text
from mpy6a.model import Proposal
from mpy6a.policy import KindPolicy, Orphans, Policy
from mpy6a.proposals import read_proposals, write_proposals

_FILE: Final = "log.capnp"
_TERM: Final = Number("term", high=(1 << 31) - 1)
_ORPHANS: Final[tuple[Orphans, ...]] = ("refuse", "hold", "park")  # by their number in the log


@dataclass(frozen=True, slots=True)
class Opening:
    """The first frame of each opening: who opened the log, when by the wall clock, and the term from here
    on."""

    wall_ms: int
    uuid: bytes  # 16 bytes, of the log
    term: int
    pipe: int
    level: int  # the highest apply level this node has
    release: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Admin:
    """An operator's word: an AdminVerb on sessions, on a kind (pause, resume) or on the clock."""

    verb: int
    who: str
    reason: str = ""
    sessions: tuple[SessionKey, ...] = ()
    kind: int = 0
    until_ms: int = 0  # pause: log time it ends by itself, 0: never


class SessionKey(NamedTuple):
    """A session of this log: its id without the pipe."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on an id


class _PolicyBody(NamedTuple):
    kinds: tuple[KindPolicy, ...]
    lease_ms: int
    record_bytes_max: int
    session_bytes_max: int
    session_records_max: int
    orphans: int


class _ProposalsBody(NamedTuple):
    proposals: tuple[Proposal, ...]


_OPENING: Final = Layout(
    _FILE,
    "Opening",
    Opening,
    Number("wall_ms"),
    Incarnation("uuid"),
    Number("term", low=1, high=_TERM.high),
    Number("pipe", low=1),
    Number("level"),
    Text("release", limits.LABEL_BYTES_MAX),
    Text("node", limits.LABEL_BYTES_MAX),
)
_KIND_POLICY: Final = Layout(
    _FILE,
    "KindPolicy",
    KindPolicy,
    Number("id", low=1),
    Text("name", limits.LABEL_BYTES_MAX),
    Scalars[str]("sidecars", limits.SIDECARS_MAX, limits.LABEL_BYTES_MAX),
    Text("handler", limits.LABEL_BYTES_MAX),
    Number("delay_ms"),
    Number("jitter_ms"),
    Number("backoff_base_ms"),
    Number("backoff_cap_ms"),
    Number("idle_ms"),
    Number("silence_ms"),
    Number("timeout_ms"),
    Number("concurrency"),
    Number("barren_limit"),
    Number("charge_limit"),
    Number("rate"),
    Number("rate_ms"),
    Number("burst"),
    Number("concurrency_total"),
    Number("breaker"),
    Flag("order_skips_parked"),
)
_POLICY: Final = Layout(
    _FILE,
    "Policy",
    _PolicyBody,
    Many("kinds", _KIND_POLICY, limits.KINDS_MAX),
    Number("lease_ms"),
    Number("record_bytes_max"),
    Number("session_bytes_max"),
    Number("session_records_max"),
    Number("orphans", high=len(_ORPHANS) - 1),
)
_PROPOSAL: Final = Layout(
    _FILE,
    "Proposal",
    Proposal,
    Number("verb"),
    Number("term", low=1, high=_TERM.high),
    Number("index", low=1),
    Number("epoch"),
    Number("change"),
    Number("cause"),
    Flag("charged"),
    Number("due_ms"),
    Incarnation("target"),
    Text("sidecar", limits.LABEL_BYTES_MAX),
    Text("reason", limits.TEXT_BYTES_MAX, sentence=True),
)
_PROPOSALS: Final = Layout(
    _FILE, "Proposals", _ProposalsBody, Many("proposals", _PROPOSAL, limits.PROPOSALS_MAX)
)
_SESSION_KEY: Final = Layout(_FILE, "SessionId", SessionKey, _TERM, Number("index", low=1))
_ADMIN: Final = Layout(
    _FILE,
    "Admin",
    Admin,
    Number("verb"),
    Text("who", limits.LABEL_BYTES_MAX, sentence=True),
    Text("reason", limits.TEXT_BYTES_MAX, sentence=True),
    Many("sessions", _SESSION_KEY, limits.HELD_SESSIONS_MAX),
    Number("kind"),
    Number("until_ms"),
)


def encode_opening(opening: Opening) -> bytes:
    """The body of an opening's frame. ValueError if a field is out of its bounds."""
    return _OPENING.encode(opening)


def decode_opening(body: bytes) -> Opening:
    """The opening of a frame's body, or Malformed."""
    return _OPENING.decode(body)


def encode_policy(policy: Policy) -> bytes:
    """The body of a policy's frame, kinds ascending by number. ValueError if a field is out of its bounds."""
    return _POLICY.encode(
        _PolicyBody(
            tuple(policy.kinds.values()),
            policy.lease_ms,
            policy.record_bytes_max,
            policy.session_bytes_max,
            policy.session_records_max,
            _ORPHANS.index(policy.orphans),
        )
    )


def decode_policy(body: bytes) -> Policy:
    """The policy of a frame's body, or Malformed."""
    found = _POLICY.decode(body)
    numbers = [kind.id for kind in found.kinds]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise Malformed("Policy.kinds: they ascend by number, each once")
    if len({kind.name for kind in found.kinds}) < len(numbers):
        raise Malformed("Policy.kinds: two of them have one name")
    return Policy(
        {kind.id: kind for kind in found.kinds},
        found.lease_ms,
        found.record_bytes_max,
        found.session_bytes_max,
        found.session_records_max,
        _ORPHANS[found.orphans],
    )


def encode_proposals(proposals: Sequence[Proposal]) -> bytes:
    """The body of a frame of proposals, at most PROPOSALS_MAX. ValueError if a field is out of its bounds."""
    return write_proposals(proposals) or _PROPOSALS.encode(_ProposalsBody(tuple(proposals)))


def decode_proposals(body: bytes) -> tuple[Proposal, ...]:
    """The proposals of a frame's body, in order, or Malformed."""
    found = read_proposals(body)
    return _PROPOSALS.decode(body).proposals if found is None else found


def encode_admin(admin: Admin) -> bytes:
    """The body of an operator's frame. ValueError if a field is out of its bounds."""
    return _ADMIN.encode(admin)


def decode_admin(body: bytes) -> Admin:
    """The operator's word of a frame's body, or Malformed."""
    return _ADMIN.decode(body)
