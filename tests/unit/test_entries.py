"""mpy6a.entries: the pipe's own log bodies there and back, their bounds, and damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import capnp
import pytest

from mpy6a import entries, limits, resources
from mpy6a.errors import Malformed
from mpy6a.model import Proposal
from mpy6a.policy import KindPolicy, Policy
from tests.profile import some
from tests.wire_samples import ADMIN, BODIES, OPENING, POLICY, PROPOSALS

SCHEMA: Any = capnp.load(str(resources.schema("log.capnp")))
_READERS: dict[str, Callable[[bytes], object]] = {
    "log_opening": entries.decode_opening,
    "log_policy": entries.decode_policy,
    "log_proposals": entries.decode_proposals,
    "log_admin": entries.decode_admin,
}
_VALUES: dict[str, object] = {
    "log_opening": OPENING,
    "log_policy": POLICY,
    "log_proposals": PROPOSALS,
    "log_admin": ADMIN,
}


@pytest.mark.parametrize("name", _READERS)
def test_what_is_encoded_is_decoded(name: str) -> None:
    """Every body comes back as the value it was, in one segment."""
    body = BODIES[name]
    assert body[:4] == bytes(4)
    assert _READERS[name](body) == _VALUES[name]


def test_every_field_of_the_schema_is_in_a_body() -> None:
    """The samples set every field of log.capnp, so that the round trip leaves none out."""
    for name, struct in (("log_opening", "Opening"), ("log_policy", "Policy"), ("log_admin", "Admin")):
        with getattr(SCHEMA, struct).from_bytes(BODIES[name]) as body:
            assert all(body.to_dict(verbose=True).values()), struct
    with SCHEMA.Policy.from_bytes(BODIES["log_policy"]) as body:
        assert all(body.kinds[0].to_dict(verbose=True).values())
    with SCHEMA.Proposals.from_bytes(BODIES["log_proposals"]) as body:
        seen = [proposal.to_dict(verbose=True) for proposal in body.proposals]
        assert all(any(proposal[field] for proposal in seen) for field in seen[0])


def test_a_proposal_is_seven_words_and_two_pointers() -> None:
    """The row of log.capnp's Proposal is what it says there."""
    node = SCHEMA.Proposal.schema.node.struct
    assert (node.dataWordCount, node.pointerCount) == (7, 2)


@pytest.mark.parametrize("name", _READERS)
def test_truncation_at_every_byte_is_malformed(name: str) -> None:
    """A body cut anywhere is refused."""
    for end in range(len(BODIES[name])):
        with pytest.raises(Malformed):
            _READERS[name](BODIES[name][:end])


@pytest.mark.parametrize("name", _READERS)
def test_a_flipped_bit_is_malformed_or_a_value(name: str) -> None:
    """No single damaged bit leads anywhere but to a clean refusal or to a value."""
    body = bytearray(BODIES[name])
    for bit in some(8 * len(body)):
        body[bit >> 3] ^= 1 << (bit & 7)
        try:
            read = _READERS[name](bytes(body))
        except Malformed:
            read = _VALUES[name]
        assert type(read) is type(_VALUES[name])
        body[bit >> 3] ^= 1 << (bit & 7)


@pytest.mark.parametrize("orphans", ["refuse", "hold", "park"])
def test_orphans_by_name(orphans: Any) -> None:
    """What becomes of kinds that left the routes comes back as the word it was."""
    policy = replace(POLICY, orphans=orphans)
    assert entries.decode_policy(entries.encode_policy(policy)).orphans == orphans


def test_the_largest_policy_and_proposals_fit_a_frame() -> None:
    """As many kinds and proposals as the limits allow are written, and stay below the largest message."""
    kinds = [KindPolicy(1 + n, f"{n:064}", ("s" * limits.NAME_BYTES_MAX,)) for n in range(limits.KINDS_MAX)]
    policy = Policy({kind.id: kind for kind in kinds})
    body = entries.encode_policy(policy)
    assert len(body) < limits.MESSAGE_BYTES_MAX
    assert entries.decode_policy(body) == policy
    proposals = (Proposal(1, 1, 1, 1, 1, reason="x" * limits.TEXT_BYTES_MAX),) * limits.PROPOSALS_MAX
    body = entries.encode_proposals(proposals)
    assert len(body) < limits.MESSAGE_BYTES_MAX
    assert entries.decode_proposals(body) == proposals
    with pytest.raises(ValueError, match="at most"):
        entries.encode_proposals((*proposals, proposals[0]))


def _policy(*kinds: dict[str, Any], **fields: Any) -> bytes:
    made: bytes = SCHEMA.Policy.new_message(kinds=list(kinds), **fields).to_bytes()
    return made


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (_policy({"id": 2, "name": "a"}, {"id": 1, "name": "b"}), "ascend"),
        (_policy({"id": 1, "name": "a"}, {"id": 1, "name": "b"}), "ascend"),
        (_policy({"id": 1, "name": "a"}, {"id": 2, "name": "a"}), "one name"),
        (_policy({"id": 0, "name": "a"}), r"kinds\[0\].id: 0; allowed: 1"),
        (_policy(orphans=3), "orphans: 3; allowed: 0 to 2"),
        (_policy({"id": 1, "sidecars": ["x" * 300]}), r"sidecars\[0\]: 300 bytes; at most 256"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_malformed(body: bytes, why: str) -> None:
    """A policy that no config makes is refused where it is read, not where it decides."""
    with pytest.raises(Malformed, match=why):
        entries.decode_policy(body)


def test_an_opening_names_log_term_and_pipe() -> None:
    """Term 0, pipe 0 or a uuid of another length stand in no log."""
    for wrong in (replace(OPENING, term=0), replace(OPENING, pipe=0), replace(OPENING, uuid=b"short")):
        with pytest.raises(ValueError):
            entries.encode_opening(wrong)
