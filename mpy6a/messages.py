"""The messages of the wire as values: what schemas/wire.capnp says, without a byte of encoding.

Field by field as in the schema; text is str, incarnations are 16 bytes. `mpy6a.wire` turns them into bytes and back.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from mpy6a.model import Attempt, Extra, Op, Result


class MessageType(IntEnum):
    """What a packed message holds; the numbers are those of wire.capnp's MessageType."""

    HELLO = 1
    WELCOME = 2
    BATCH = 3
    ACK = 4
    HEARTBEAT = 5
    PONG = 6
    GOODBYE = 7
    ERROR = 8
    GREETING = 9
    SIDECAR_HELLO = 10
    PUSH = 11
    ACCEPTED = 12
    STOP = 13
    NOTICE = 14
    SERVE = 15
    OUTCOMES = 16
    ADMIN_REQUEST = 17
    ADMIN_REPLY = 18


class Role(IntEnum):
    """What answers a hello."""

    PIPE = 0
    SIDECAR = 1
    ADMIN = 2


class Message(NamedTuple):
    """One packed message of an envelope: its header's fields, and the body not looked into."""

    type: int
    pipe: int
    incarnation: bytes
    principal: int
    body: bytes


class Batch(NamedTuple):
    """Operations as a client packs them (the pipe reads them as rows: `wire.RowBatch`)."""

    number: int
    mark: int
    first_sent_ms: int
    ops: list[Op]
    extras: list[Extra]


class Ack(NamedTuple):
    """The answer to a batch; `results` only where an operation is not plain OK."""

    number: int
    first_index: int = 0
    log_ms: int = 0
    term: int = 0
    retry_after_ms: int = 0
    code: int = 0
    durable: bool = True
    results: tuple[Result, ...] = ()
    message: str = ""


class Hello(NamedTuple):
    version_low: int = 1
    version_high: int = 1
    pid: int = 0
    name: str = ""
    token: bytes = b""


class Kind(NamedTuple):
    """A kind as clients need it: name for number, and the times that bound a writer."""

    id: int
    name: str
    delay_ms: int = 0
    idle_ms: int = 0
    silence_ms: int = 0
    timeout_ms: int = 0


class PipeInfo(NamedTuple):
    pipe: int
    term: int
    live: bool
    log_ms: int


class Limits(NamedTuple):
    record_bytes: int
    session_bytes: int
    session_records: int
    message_bytes: int
    message_operations: int
    envelope_bytes: int


class Welcome(NamedTuple):
    version: int
    role: int
    lease_ms: int
    log_ms: int
    limits: Limits
    kinds: tuple[Kind, ...] = ()
    pipes: tuple[PipeInfo, ...] = ()
    hop: bytes = b""


class Heartbeat(NamedTuple):
    alive: tuple[bytes, ...] = ()
    gone: tuple[bytes, ...] = ()


class Pong(NamedTuple):
    log_ms: int
    term: int = 0


class Goodbye(NamedTuple):
    """No body: this incarnation is going, its sessions may be stored at once."""


class Error(NamedTuple):
    code: int
    message: str
    type: int = 0
    number: int = 0
    retry_after_ms: int = 0


class SessionEpoch(NamedTuple):
    """A session and the epoch it is held in; the pipe is the header's."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    epoch: int


class KindCredit(NamedTuple):
    """Totals granted for a kind since the dial began: sessions, and bytes of their records."""

    kind: int
    sessions: int
    bytes: int


class Greeting(NamedTuple):
    dial: int
    term: int
    lease_ms: int
    log_ms: int
    name: str


class SidecarHello(NamedTuple):
    dial: int
    term: int
    name: str
    held: tuple[SessionEpoch, ...] = ()
    credit: tuple[KindCredit, ...] = ()


class RepeatPart(NamedTuple):
    """RepeatData as it travels: in parts of at most one message, handed over whole."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    epoch: int
    fence: int
    kind: int
    number: int = 0
    created_ms: int = 0
    repeats: int = 0
    part: int = 0
    parts: int = 1
    cancel: bool = False
    records: tuple[bytes, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    key: str = ""
    order_key: str = ""
    schema: str = ""
    trace: bytes = b""


class Push(NamedTuple):
    dial: int
    term: int
    target: bytes
    sessions: tuple[RepeatPart, ...]


class Accepted(NamedTuple):
    dial: int
    term: int
    through: int
    credit: tuple[KindCredit, ...] = ()


class Stop(NamedTuple):
    dial: int
    term: int
    code: int
    sessions: tuple[SessionEpoch, ...]


class Notice(NamedTuple):
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    epoch: int
    remaining_ms: int


class Serve(NamedTuple):
    kinds: tuple[int, ...]
    concurrency: int


class Ending(NamedTuple):
    """How a run ended at an attached service; `outcome` is an AttemptOutcome."""

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    epoch: int
    outcome: int
    retry_after_ms: int = 0
    message: str = ""


class Outcomes(NamedTuple):
    endings: tuple[Ending, ...]


class AdminRequest(NamedTuple):
    number: int
    verb: str
    arguments: str = "{}"


class AdminReply(NamedTuple):
    number: int
    code: int
    message: str = ""
    body: str = "{}"


AnyMessage = (
    Hello
    | Welcome
    | Batch
    | Ack
    | Heartbeat
    | Pong
    | Goodbye
    | Error
    | Greeting
    | SidecarHello
    | Push
    | Accepted
    | Stop
    | Notice
    | Serve
    | Outcomes
    | AdminRequest
    | AdminReply
)
