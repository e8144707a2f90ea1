"""One named value of every message of the wire and of every body of the log, with every field set somewhere.

Shared by the tests that round-trip, damage and freeze them.
"""

from __future__ import annotations

from typing import Final

from mpy6a import entries, messages
from mpy6a.messages import AnyMessage
from mpy6a.model import (
    BY_POLICY,
    U64_MAX,
    AdminVerb,
    Attempt,
    AttemptOutcome,
    Cause,
    Extra,
    Op,
    Proposal,
    ProposalVerb,
    Result,
    SessionState,
    Verb,
)
from mpy6a.policy import KindPolicy, Policy

INCARNATION: Final = bytes(range(1, 17))
TRACE: Final = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# Every verb, records of every shape (null, empty, padded, whole words), two sessions whose groups interleave.
OPS: Final = [
    Op(Verb.NEW, 41, argument=7, record=b'{"nickname":"ada"}'),
    Op(Verb.APPEND, 48213, term=3, epoch=1, seq=4, record=b"12345678"),
    Op(Verb.NEW, 43, argument=7),
    Op(Verb.REPLACE, 48300, term=3, epoch=2, seq=1, record=b""),
    Op(Verb.TOUCH, 48213, term=3, epoch=1, seq=5),
    Op(Verb.DELETE, 48213, term=3, epoch=1, seq=6),
    Op(Verb.STORE, 48300, term=3, epoch=2, seq=2, argument=30_000),
    Op(Verb.FAIL, 48301, term=2, epoch=9, record=b"division by zero"),
    Op(Verb.RELEASE, 48302, term=2, epoch=1, argument=BY_POLICY, record=b"drain"),
    Op(Verb.PARK, 48303, term=2, epoch=1),
    Op(Verb.STORE, 48304, term=3, epoch=1, seq=1, argument=BY_POLICY),
]
EXTRAS: Final = [
    Extra(0, key="user:ada", order_key="tenant-1", schema="user/2", trace=TRACE),
    Extra(2, key="Ада"),
]

MESSAGES: Final[dict[str, AnyMessage]] = {
    "hello": messages.Hello(1, 1, 4711, "users", b"token"),
    "welcome": messages.Welcome(
        version=1,
        role=messages.Role.SIDECAR,
        lease_ms=15_000,
        log_ms=1_700_000_000_000,
        limits=messages.Limits(1 << 20, 16 << 20, 4_096, 4 << 20, 1_024, (4 << 20) + 65_536),
        kinds=(messages.Kind(7, "user-create", 500, 300_000, 300_001, 30_000), messages.Kind(8, "mail")),
        pipes=(messages.PipeInfo(1, 3, True, 1_700_000_000_001), messages.PipeInfo(2, 1, False, 0)),
        hop=INCARNATION[::-1],
    ),
    "batch": messages.Batch(12, 41, 1_699_999_999_000, OPS, EXTRAS),
    "batch_plain": messages.Batch(13, 44, 0, OPS[1:2], []),
    "ack": messages.Ack(12, 48_310, 1_700_000_000_002, 3),
    "ack_results": messages.Ack(
        12,
        48_310,
        1_700_000_000_002,
        3,
        durable=False,
        results=(
            Result(0, 9, index=48_100, term=2, state=SessionState.REPEATING),
            Result(5, 1, epoch=7),
        ),
    ),
    "ack_texts": messages.Ack(
        12,
        retry_after_ms=250,
        code=32,
        results=(Result(3, 7, message="the record has 2097152 bytes; at most 1048576"),),
        message="the log is full: slow down",
    ),
    "heartbeat": messages.Heartbeat((INCARNATION, INCARNATION[::-1]), (bytes(15) + b"\1",)),
    "pong": messages.Pong(1_700_000_000_003, 3),
    "goodbye": messages.Goodbye(),
    "error": messages.Error(34, "not a message", messages.MessageType.BATCH, 12, 100),
    "greeting": messages.Greeting(5, 3, 15_000, 1_700_000_000_004, "users"),
    "sidecar_hello": messages.SidecarHello(
        5,
        3,
        "users",
        (messages.SessionEpoch(2, 48_301, 9), messages.SessionEpoch(3, 48_300, 2)),
        (messages.KindCredit(7, 32, 64 << 20),),
    ),
    "push": messages.Push(
        5,
        3,
        INCARNATION,
        (
            messages.RepeatPart(
                term=3,
                index=48_300,
                epoch=2,
                fence=3 << 32 | 2,
                kind=7,
                number=17,
                created_ms=1_699_999_000_000,
                repeats=1,
                part=0,
                parts=2,
                cancel=True,
                records=(b"", b"abc", b"12345678"),
                attempts=(Attempt(1, 1_699_999_100_000, 250, AttemptOutcome.FAIL, True, "users", "division by zero"),),
                key="user:ada",
                order_key="tenant-1",
                schema="user/2",
                trace=TRACE,
            ),
            messages.RepeatPart(3, 48_305, 1, 3 << 32 | 1, 8, number=18),
        ),
    ),
    "accepted": messages.Accepted(5, 3, 18, (messages.KindCredit(7, 33, 65 << 20),)),
    "stop": messages.Stop(5, 3, 1, (messages.SessionEpoch(3, 48_300, 2),)),
    "notice": messages.Notice(3, 48_300, 2, 60_000),
    "serve": messages.Serve((7, 8), 32),
    "outcomes": messages.Outcomes(
        (
            messages.Ending(3, 48_300, 2, AttemptOutcome.RELEASE, U64_MAX, "no room"),
            messages.Ending(3, 48_305, 1, AttemptOutcome.DECIDED),
        )
    ),
    "admin_request": messages.AdminRequest(1, "sessions.kick", '{"ids":["1.3.48300"]}'),
    "admin_reply": messages.AdminReply(1, 38, "no live session has this id", '{"id":"1.3.48300"}'),
}

OPENING: Final = entries.Opening(1_700_000_000_000, INCARNATION, 3, 1, 1, "0.1.0", "node-a")
POLICY: Final = Policy(
    {
        7: KindPolicy(
            7, "user-create", ("users", "search"), "http", 500, 1, 200, 2_000, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
        ),
        8: KindPolicy(8, "mail", ()),
    },
    lease_ms=9_000,
    record_bytes_max=1_000,
    session_bytes_max=2_000,
    session_records_max=30,
    orphans="park",
)
PROPOSALS: Final = (
    Proposal(ProposalVerb.DISPATCH, 3, 48_300, 1, 48_290, target=INCARNATION, sidecar="users"),
    Proposal(
        ProposalVerb.PARK,
        3,
        48_305,
        2,
        48_299,
        cause=Cause.CHARGE_LIMIT,
        charged=True,
        due_ms=1_700_000_100_000,
        reason="charged 1000 times",
    ),
)
ADMIN: Final = entries.Admin(
    AdminVerb.PAUSE,
    "uid 1000",
    "the search index is rebuilt",
    (entries.SessionKey(3, 48_300), entries.SessionKey(2, 48_301)),
    7,
    1_700_000_600_000,
)
BODIES: Final[dict[str, bytes]] = {
    "log_opening": entries.encode_opening(OPENING),
    "log_policy": entries.encode_policy(POLICY),
    "log_proposals": entries.encode_proposals(PROPOSALS),
    "log_admin": entries.encode_admin(ADMIN),
}
