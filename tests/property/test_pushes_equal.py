"""Pushes, outcomes, Accepted and proposals by hand and by pycapnp are one codec: the same bytes and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpy6a import entries, limits, wire
from mpy6a.errors import Malformed
from mpy6a.layouts import BY_TYPE
from mpy6a.messages import Accepted, Ending, KindCredit, Message, MessageType, Outcomes, Push, RepeatPart
from mpy6a.model import U64_MAX, Attempt, AttemptOutcome, Cause, Proposal, ProposalVerb
from mpy6a.proposals import read_proposals, write_proposals
from mpy6a.pushes import read_accepted, read_outcomes, read_push, write_accepted, write_outcomes, write_push

INCARNATION = bytes(range(16))
_U16 = st.one_of(st.integers(0, 3), st.integers(0, (1 << 16) - 1))
_U32 = st.one_of(st.integers(0, 3), st.integers(0, (1 << 32) - 1))
_U64 = st.one_of(st.integers(0, 3), st.integers(0, U64_MAX))
_TERM = st.integers(0, (1 << 31) - 1)
_TEXT = st.text(max_size=20)

_PARTS = st.integers(1, (1 << 16) - 1).flatmap(
    lambda parts: st.builds(
        RepeatPart,
        term=_TERM, index=_U64, epoch=_U32, fence=_U64, kind=_U32, number=_U64, created_ms=_U64, repeats=_U32,
        part=st.integers(0, parts - 1), parts=st.just(parts), cancel=st.booleans(),
        records=st.lists(st.binary(max_size=40), max_size=5).map(tuple),
        attempts=st.just(()), key=_TEXT, order_key=_TEXT, schema=_TEXT, trace=st.binary(max_size=60),
    )
)  # fmt: skip
_PUSHES = st.builds(Push, _U64, _TERM, st.binary(min_size=16, max_size=16), st.lists(_PARTS, max_size=5).map(tuple))
_ENDINGS = st.builds(Ending, _TERM, _U64, _U32, st.integers(0, AttemptOutcome.PARK), _U64, st.just(""))
_OUTCOMES = st.builds(Outcomes, st.lists(_ENDINGS, max_size=5).map(tuple))
_CREDITS = st.lists(st.builds(KindCredit, _U32, _U64, _U64), max_size=5).map(tuple)
_ACCEPTED = st.builds(Accepted, _U64, _TERM, _U64, _CREDITS)
_PROPOSALS = st.lists(
    st.builds(
        Proposal, _U16, st.integers(1, (1 << 31) - 1), st.integers(1, U64_MAX), _U32, _U64, _U16, st.booleans(), _U64,
        st.binary(min_size=16, max_size=16), _TEXT, _TEXT,
    ),
    max_size=5,
).map(tuple)  # fmt: skip

Codec = tuple[Callable[[Any], bytes | None], Callable[[bytes], Any], Callable[[Any], bytes], Callable[[bytes], Any]]
CODECS: dict[str, Codec] = {
    "push": (write_push, read_push, BY_TYPE[MessageType.PUSH].encode, BY_TYPE[MessageType.PUSH].decode),
    "outcomes": (
        write_outcomes, read_outcomes, BY_TYPE[MessageType.OUTCOMES].encode, BY_TYPE[MessageType.OUTCOMES].decode
    ),
    "accepted": (
        write_accepted, read_accepted, BY_TYPE[MessageType.ACCEPTED].encode, BY_TYPE[MessageType.ACCEPTED].decode
    ),
    "proposals": (
        write_proposals,
        read_proposals,
        lambda value: entries._PROPOSALS.encode(entries._ProposalsBody(tuple(value))),
        lambda body: entries._PROPOSALS.decode(body).proposals,
    ),
}  # fmt: skip
_VALUES = st.one_of(
    st.tuples(st.just("push"), _PUSHES),
    st.tuples(st.just("outcomes"), _OUTCOMES),
    st.tuples(st.just("accepted"), _ACCEPTED),
    st.tuples(st.just("proposals"), _PROPOSALS),
)


def elements(value: Any) -> int:
    """How long the list is that the value is about."""
    return len(value[-1] if isinstance(value, (Push, Outcomes, Accepted)) else value)


@given(_VALUES)
def test_both_ways_write_the_same_bytes_and_read_the_same_value(named: tuple[str, Any]) -> None:
    """What is on the wire and in the log does not tell which way it was written."""
    name, value = named
    write, read, careful_write, careful_read = CODECS[name]
    body = careful_write(value)
    assert careful_read(body) == value
    if not elements(value):
        assert write(value) is None
        assert read(body) is None
        return
    assert write(value) == body
    assert read(body) == value


@given(_VALUES, st.data())
def test_what_is_read_by_hand_pycapnp_reads_alike(named: tuple[str, Any], data: st.DataObject) -> None:
    """Whatever bits are turned and wherever it is cut: nothing is taken that the careful way refuses."""
    name, value = named
    _, read, careful_write, careful_read = CODECS[name]
    body = bytearray(careful_write(value))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(body) - 1))
        body[bit // 8] ^= 1 << bit % 8
    cut = bytes(body[: data.draw(st.integers(0, len(body)) | st.just(len(body)))])
    found = read(cut)
    if found is not None:
        assert careful_read(cut) == found


@pytest.mark.parametrize("name", CODECS)
def test_every_truncation_is_left_to_the_careful_way(name: str) -> None:
    """A body that is not whole is never taken."""
    value: Any = {
        "push": Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, records=(b"abc",), key="k"),)),
        "outcomes": Outcomes((Ending(3, 1, 2, 1),)),
        "accepted": Accepted(1, 3, 7, (KindCredit(1, 2, 3),)),
        "proposals": (Proposal(ProposalVerb.DISPATCH, 3, 1, 1, 5, target=INCARNATION, sidecar="users"),),
    }[name]
    write, read, *_ = CODECS[name]
    body = write(value)
    assert body is not None
    assert read(body) == value
    assert all(read(body[:length]) is None for length in range(len(body)))
    assert read(body + bytes(8)) is None


TOO_LONG = (bytes(limits.RECORD_BYTES_MAX + 1),)
ATTEMPT = Attempt(1, 2, 3, AttemptOutcome.FAIL, True, "users", "no")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, attempts=(ATTEMPT,)),))),
        ("outcomes", Outcomes((Ending(3, 1, 2, AttemptOutcome.FAIL, 0, "why"),))),
    ],
)
def test_what_is_rare_goes_the_careful_way(name: str, value: Any) -> None:
    """Attempts and messages for people are written and read all the same."""
    kind = {"push": MessageType.PUSH, "outcomes": MessageType.OUTCOMES}[name]
    assert CODECS[name][0](value) is None
    [message] = wire.unpack(wire.encode(value, incarnation=INCARNATION))
    assert message.type == kind
    assert CODECS[name][1](message.body) is None
    assert wire.decode(message) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, records=TOO_LONG),))),
        ("push", Push(1, 1 << 31, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1),))),
        ("push", Push(1, 3, b"short", (RepeatPart(3, 1, 2, 3, 7, 1),))),
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, part=1, parts=1),))),
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 1 << 32, 3, 7, 1),))),
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, key="k" * 257),))),
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, trace=bytes(129)),))),
        ("push", Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1),) * 65)),
        ("outcomes", Outcomes((Ending(3, 1, 2, 99),))),
        ("outcomes", Outcomes((Ending(1 << 31, 1, 2, 1),))),
        ("accepted", Accepted(1, 3, 7, (KindCredit(1 << 32, 2, 3),))),
        ("proposals", (Proposal(1, 0, 1, 1, 1),)),
        ("proposals", (Proposal(1, 1, 0, 1, 1),)),
        ("proposals", (Proposal(1, 1, 1, 1, 1, sidecar="s" * 257),)),
        ("proposals", (Proposal(1 << 16, 1, 1, 1, 1),)),
    ],
)
def test_what_is_out_of_bounds_is_never_written_by_hand(name: str, value: Any) -> None:
    """One place explains what is wrong: the careful way."""
    write, *_ = CODECS[name]
    assert write(value) is None


def test_bounds_hold_for_what_is_read() -> None:
    """A text, a record or a count over its bound is Malformed, with the sentence of the careful way."""
    good = Push(1, 3, INCARNATION, (RepeatPart(3, 1, 2, 3, 7, 1, key="k" * limits.KEY_BYTES_MAX),))
    body = write_push(good)
    assert body is not None
    at = body.index((limits.KEY_BYTES_MAX + 1 << 35 | 3 << 2 | 1 | 2 << 32).to_bytes(8, "little"))
    longer = body[:at] + (limits.KEY_BYTES_MAX + 2 << 35 | 3 << 2 | 1 | 2 << 32).to_bytes(8, "little") + body[at + 8 :]
    assert read_push(longer) is None
    with pytest.raises(Malformed, match="key: 257 bytes; at most 256"):
        wire.decode(Message(MessageType.PUSH, 1, INCARNATION, 0, longer))


def test_a_reason_is_cut_and_causes_come_back() -> None:
    """What is for people is cut to its limit, whichever way."""
    long = Proposal(ProposalVerb.PARK, 3, 1, 1, 5, Cause.SIDECAR_LOST, reason="x" * 600)
    body = entries.encode_proposals([long])
    [read] = entries.decode_proposals(body)
    assert read.reason == "x" * limits.TEXT_BYTES_MAX
