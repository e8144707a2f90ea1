"""One run of a handler that speaks by callback: what it was given, what it has written since, whether it has decided.

No I/O here: `sidecar.http` and `sidecar.execs` begin it, `sidecar.callbacks` takes what the handler says meanwhile.
The run's operations are this process's own, as the writer of the epoch.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, Protocol

from mpy6a.errors import Code, Fenced, Mpy6aError, SessionClosed, Unavailable
from mpy6a.messages import RepeatPart
from mpy6a.model import Verb
from sidecar.outcomes import CALLBACK_REFUSED, CALLBACK_STATUS
from sidecar.values import KindSetup, RunKey

TOKEN: Final = re.compile(r"[0-9a-f]{32}")
REMEMBERED_MAX: Final = 1_024  # numbered callbacks of one run whose answer is kept
SLICE_BYTES: Final = 256 * 1024  # of a body between two turns of the loop: 1 ms
_TRACE: Final = re.compile(rb"[0-9a-f-]{1,128}")
DECISIONS: Final = frozenset({Verb.DELETE, Verb.STORE, Verb.RELEASE, Verb.PARK})

Answer = asyncio.Future[None]


class Writes(Protocol):
    """Where a run's operations go; each future has the pipe's verdict."""

    def write(self, run: CallbackRun, verb: Verb, record: bytes | None, argument: int) -> Answer: ...
    def end(self, run: CallbackRun, verb: Verb, retry_after_ms: int, message: str) -> Answer: ...


class CallbackRun:
    """A run, from its start to its end. `token` is the secret of its callback URL."""

    def __init__(self, key: RunKey, kind: KindSetup, repeat: RepeatPart, form: str, writes: Writes) -> None:
        self.key = key
        self.kind = kind
        self.token = secrets.token_hex(16)
        self.records = list(repeat.records)
        self.decision: Answer | None = None  # of the last word said by callback, until it was refused
        self.over: Mpy6aError | None = None
        self._repeat = repeat
        self._form = form
        self._writes = writes
        self._waiting: set[Answer] = set()
        self._numbered: OrderedDict[int, tuple[str, bytes, Answer]] = OrderedDict()

    @property
    def fence(self) -> str:
        """The session's fence, as text: JSON's numbers end at 2^53."""
        return str(self._repeat.fence)

    @property
    def trace(self) -> str:
        """The session's traceparent (W3C Trace Context); "" when it has none, or none that may stand in a header."""
        return self._repeat.trace.decode() if _TRACE.fullmatch(self._repeat.trace) else ""

    def callback(self, base: str) -> str:
        """Its callback URL; `base` is the URL of the callback server."""
        return f"{base}/s/{self.token}"

    def body(self) -> bytes:
        """RepeatData as JSON, with the records as of now. Raises ValueError if one is not valid in its
        form."""
        return b"".join(self._pieces())

    async def first_body(self) -> bytes:
        """The same, in slices that let the loop go on: 16 MiB at once would hold it up."""
        pieces: list[bytes] = []
        size = 0
        for piece in self._pieces():
            pieces.append(piece)
            size += len(piece)
            if size >= SLICE_BYTES:
                size = 0
                await asyncio.sleep(0)
        return b"".join(pieces)

    def _pieces(self) -> Iterator[bytes]:
        head = {
            "session": str(self.key.session),
            "epoch": self.key.epoch,
            "fence": self.fence,
            "kind": self.kind.name,
            "repeats": self._repeat.repeats,
            "cancel": self._repeat.cancel,
        }
        write = FORMS[self._form]
        yield f'{json.dumps(head)[:-1]},"records":['.encode()
        comma = ""
        for record in self.records:
            yield f'{comma}{{"{self._form}":{write(record)}}}'.encode()
            comma = ","
        yield b"]}"

    async def say(self, verb: Verb, record: bytes | None, argument: int, reason: str, number: int | None) -> None:
        """A callback: returns when it is durable, raises what refused it. One of the same number is not done
        twice."""
        if number is None:
            await self._wait(self._do(verb, record, argument, reason))
            return
        said = f"{verb.name} {argument} {reason}", record or b""
        known = self._numbered.get(number)
        if known is not None and known[:2] != said:
            raise ValueError(f"Mpy6a-Op: {number} was another call")
        if known is None:
            known = *said, self._do(verb, record, argument, reason)
            self._numbered[number] = known
            if len(self._numbered) > REMEMBERED_MAX:
                self._numbered.popitem(last=False)
        try:
            await self._wait(known[2])
        except Mpy6aError as error:
            if is_retried(error):
                self._numbered.pop(number, None)
            raise

    def end(self, error: Mpy6aError) -> None:
        """The run is over: whoever still waits, or still calls, is told `error`."""
        self.over = error
        for waiting in list(self._waiting):
            if not waiting.done():
                waiting.set_exception(error)

    def _do(self, verb: Verb, record: bytes | None, argument: int, reason: str) -> Answer:
        if self.over is not None:
            self._refuse(self.over)
        if self.decision is not None:
            raise SessionClosed(f"session {self.key.session}: this run has decided it already")
        if verb in (Verb.RELEASE, Verb.PARK):
            answer = self._writes.end(self, verb, argument, reason)
        else:
            answer = self._writes.write(self, verb, record, argument)
        if verb in DECISIONS:
            self.decision = answer
        answer.add_done_callback(lambda done: self._answered(verb, record, done))
        return answer

    def _answered(self, verb: Verb, record: bytes | None, answer: Answer) -> None:
        if answer.cancelled() or answer.exception() is not None:
            if self.decision is answer:
                self.decision = None
        elif verb is Verb.APPEND:
            self.records.append(record or b"")
        elif verb is Verb.REPLACE:
            self.records = [record or b""]

    async def _wait(self, answer: Answer) -> None:
        """For the answer, or the end of the run; the operation itself goes on whoever waits."""
        if self.over is not None and not answer.done():
            self._refuse(self.over)
        ended: Answer = asyncio.get_running_loop().create_future()
        self._waiting.add(ended)
        try:
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
            else:
                ended.result()
        finally:
            self._waiting.discard(ended)
            if ended.done() and not ended.cancelled():
                ended.exception()  # seen

    def _refuse(self, error: Mpy6aError) -> NoReturn:
        raise type(error)(*error.args)  # a fresh one: a traceback belongs to one raise


def status_of(error: Mpy6aError) -> int:
    """The status of a callback that was refused."""
    code: Code | None = getattr(type(error), "code", None)
    if code is not None:
        return CALLBACK_STATUS.get(code, CALLBACK_REFUSED)
    return 503 if isinstance(error, Unavailable) else CALLBACK_REFUSED


def name_of(error: Mpy6aError) -> str:
    """What the error is called on the wire; FENCED where it has no code of its own."""
    code: Code | None = getattr(type(error), "code", None)
    return code.name if code is not None else Fenced.code.name


def is_retried(error: Mpy6aError) -> bool:
    """Was nothing applied, and may the same call succeed later?"""
    return status_of(error) == 503


def _base64(record: bytes) -> str:
    return f'"{base64.b64encode(record).decode()}"'


def _text(record: bytes) -> str:
    return json.dumps(record.decode("utf-8"))


def _json(record: bytes) -> str:
    """The record itself, if it is JSON: numbers of any size stay as they were written."""
    text = record.decode("utf-8")
    try:
        json.loads(text, parse_constant=_no_json)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    return text


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


FORMS: Final[dict[str, Callable[[bytes], str]]] = {"base64": _base64, "text": _text, "json": _json}
