"""The tables of the wire: which struct of wire.capnp each message value is, and the bounds of every field.

Parts stand in the order of the value's fields (mpy6a/messages.py); a test holds that and that every field is
there.
"""

from __future__ import annotations

from typing import Any, Final

from mpy6a import limits, messages, model
from mpy6a.capnproto import Layout
from mpy6a.errors import Malformed
from mpy6a.fields import (
    Data,
    Enumeration,
    Flag,
    Incarnation,
    Incarnations,
    Many,
    Number,
    One,
    Scalars,
    Text,
)
from mpy6a.messages import MessageType

_FILE: Final = "wire.capnp"
_TERM: Final = Number("term", high=(1 << 31) - 1)
_NAME: Final = Text("name", limits.LABEL_BYTES_MAX)
_MESSAGE: Final = Text("message", limits.TEXT_BYTES_MAX, sentence=True)


def _ack(*values: Any) -> messages.Ack:
    ack = messages.Ack(*values)
    last = -1
    for result in ack.results:
        if not last < result.position < limits.MESSAGE_OPERATIONS_MAX:
            raise Malformed(f"Ack.results: position {result.position} after {last}; they ascend from 0")
        last = result.position
    return ack


def _repeat_part(*values: Any) -> messages.RepeatPart:
    part = messages.RepeatPart(*values)
    if part.part >= part.parts:
        raise Malformed(f"RepeatData: part {part.part} of {part.parts}; parts count from 0")
    return part


_RESULT: Final = Layout(
    _FILE,
    "Result",
    model.Result,
    Number("position"),
    Number("code"),
    Number("index"),
    _TERM,
    Number("epoch"),
    Number("state"),
    _MESSAGE,
)
_ACK: Final = Layout(
    _FILE,
    "Ack",
    _ack,
    Number("number"),
    Number("first_index"),
    Number("log_ms"),
    _TERM,
    Number("retry_after_ms"),
    Number("code"),
    Flag("durable"),
    Many("results", _RESULT, limits.MESSAGE_OPERATIONS_MAX),
    _MESSAGE,
)
_HELLO: Final = Layout(
    _FILE,
    "Hello",
    messages.Hello,
    Number("version_low"),
    Number("version_high"),
    Number("pid"),
    Text("name", limits.LABEL_BYTES_MAX, sentence=True),
    Data("token", limits.TOKEN_BYTES_MAX),
)
_LIMITS: Final = Layout(
    _FILE,
    "Limits",
    messages.Limits,
    *(Number(name, low=1) for name in messages.Limits._fields),
)
_KIND: Final = Layout(
    _FILE,
    "Kind",
    messages.Kind,
    Number("id"),
    _NAME,
    Number("delay_ms"),
    Number("idle_ms"),
    Number("silence_ms"),
    Number("timeout_ms"),
)
_PIPE_INFO: Final = Layout(
    _FILE, "PipeInfo", messages.PipeInfo, Number("pipe", low=1), _TERM, Flag("live"), Number("log_ms")
)
_WELCOME: Final = Layout(
    _FILE,
    "Welcome",
    messages.Welcome,
    Number("version"),
    Enumeration("role", high=max(messages.Role)),
    Number("lease_ms"),
    Number("log_ms"),
    One("limits", _LIMITS),
    Many("kinds", _KIND, limits.KINDS_MAX),
    Many("pipes", _PIPE_INFO, limits.PIPES_MAX),
    Data("hop", 16),
)
_HEARTBEAT: Final = Layout(
    _FILE,
    "Heartbeat",
    messages.Heartbeat,
    Incarnations("alive", limits.CLIENTS_MAX),
    Incarnations("gone", limits.CLIENTS_MAX),
)
_PONG: Final = Layout(_FILE, "Pong", messages.Pong, Number("log_ms"), _TERM)
_ERROR: Final = Layout(
    _FILE,
    "Error",
    messages.Error,
    Number("code"),
    _MESSAGE,
    Number("type"),
    Number("number"),
    Number("retry_after_ms"),
)
_SESSION_EPOCH: Final = Layout(
    _FILE, "SessionEpoch", messages.SessionEpoch, _TERM, Number("index"), Number("epoch")
)
_KIND_CREDIT: Final = Layout(
    _FILE, "KindCredit", messages.KindCredit, Number("kind"), Number("sessions"), Number("bytes")
)
_CREDIT: Final = Many("credit", _KIND_CREDIT, limits.KINDS_MAX)
_GREETING: Final = Layout(
    _FILE,
    "Greeting",
    messages.Greeting,
    Number("dial"),
    _TERM,
    Number("lease_ms"),
    Number("log_ms"),
    _NAME,
)
_SIDECAR_HELLO: Final = Layout(
    _FILE,
    "SidecarHello",
    messages.SidecarHello,
    Number("dial"),
    _TERM,
    _NAME,
    Many("held", _SESSION_EPOCH, limits.HELD_SESSIONS_MAX),
    _CREDIT,
)
_ATTEMPT: Final = Layout(
    _FILE,
    "Attempt",
    model.Attempt,
    Number("epoch"),
    Number("started_ms"),
    Number("duration_ms"),
    Number("outcome"),
    Flag("charged"),
    Text("sidecar", limits.LABEL_BYTES_MAX),
    _MESSAGE,
)
_REPEAT_PART: Final = Layout(
    _FILE,
    "RepeatData",
    _repeat_part,
    _TERM,
    Number("index"),
    Number("epoch"),
    Number("fence"),
    Number("kind"),
    Number("number"),
    Number("created_ms"),
    Number("repeats"),
    Number("part"),
    Number("parts", low=1),
    Flag("cancel"),
    Scalars("records", limits.SESSION_RECORDS_MAX, limits.RECORD_BYTES_MAX),
    Many("attempts", _ATTEMPT, limits.ATTEMPTS_KEPT),
    Text("key", limits.KEY_BYTES_MAX),
    Text("order_key", limits.KEY_BYTES_MAX),
    Text("schema", limits.LABEL_BYTES_MAX),
    Data("trace", limits.TRACE_BYTES_MAX),
)
_PUSH: Final = Layout(
    _FILE,
    "Push",
    messages.Push,
    Number("dial"),
    _TERM,
    Incarnation("target"),
    Many("sessions", _REPEAT_PART, limits.PUSH_SESSIONS_MAX),
)
_ACCEPTED: Final = Layout(
    _FILE, "Accepted", messages.Accepted, Number("dial"), _TERM, Number("through"), _CREDIT
)
_STOP: Final = Layout(
    _FILE,
    "Stop",
    messages.Stop,
    Number("dial"),
    _TERM,
    Number("code"),
    Many("sessions", _SESSION_EPOCH, limits.HELD_SESSIONS_MAX),
)
_NOTICE: Final = Layout(
    _FILE, "Notice", messages.Notice, _TERM, Number("index"), Number("epoch"), Number("remaining_ms")
)
_SERVE: Final = Layout(
    _FILE, "Serve", messages.Serve, Scalars[int]("kinds", limits.KINDS_MAX), Number("concurrency")
)
_ENDING: Final = Layout(
    _FILE,
    "Ending",
    messages.Ending,
    _TERM,
    Number("index"),
    Number("epoch"),
    Number("outcome", high=model.AttemptOutcome.PARK),
    Number("retry_after_ms"),
    _MESSAGE,
)
_OUTCOMES: Final = Layout(
    _FILE, "Outcomes", messages.Outcomes, Many("endings", _ENDING, limits.MESSAGE_OPERATIONS_MAX)
)
_ADMIN_REQUEST: Final = Layout(
    _FILE,
    "AdminRequest",
    messages.AdminRequest,
    Number("number"),
    Text("verb", limits.LABEL_BYTES_MAX),
    Text("arguments", limits.ADMIN_BYTES_MAX),
)
_ADMIN_REPLY: Final = Layout(
    _FILE,
    "AdminReply",
    messages.AdminReply,
    Number("number"),
    Number("code"),
    _MESSAGE,
    Text("body", limits.ADMIN_BYTES_MAX),
)

# Every type that has a body, but BATCH, which is read as rows.
BY_TYPE: Final[dict[int, Layout[Any]]] = {
    MessageType.WELCOME: _WELCOME,
    MessageType.HELLO: _HELLO,
    MessageType.ACK: _ACK,
    MessageType.HEARTBEAT: _HEARTBEAT,
    MessageType.PONG: _PONG,
    MessageType.ERROR: _ERROR,
    MessageType.GREETING: _GREETING,
    MessageType.SIDECAR_HELLO: _SIDECAR_HELLO,
    MessageType.PUSH: _PUSH,
    MessageType.ACCEPTED: _ACCEPTED,
    MessageType.STOP: _STOP,
    MessageType.NOTICE: _NOTICE,
    MessageType.SERVE: _SERVE,
    MessageType.OUTCOMES: _OUTCOMES,
    MessageType.ADMIN_REQUEST: _ADMIN_REQUEST,
    MessageType.ADMIN_REPLY: _ADMIN_REPLY,
}
