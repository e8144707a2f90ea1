"""What the sidecar itself writes to the pipes: endings of runs, and the operations of http handlers.

Pure. One exchange of the client library for each pipe, with the sidecar's own incarnation as the writer; it
resends until the pipe has answered. Any answer to an ending settles it: OK, ENDED, FENCED and GONE all say
that the epoch is over.
"""

from __future__ import annotations

from mpy6a.client.exchange import Exchange
from mpy6a.client.writer import NEVER, Writer
from mpy6a.errors import Mpy6aError
from mpy6a.messages import Limits, Message
from mpy6a.model import Verb
from sidecar.values import RunKey

Token = RunKey | int  # of an ending; of an operation of an http handler
Done = tuple[Token, Mpy6aError | None]


class Writing:
    """The exchanges, by the pipe's number, and the writers of the http runs."""

    __slots__ = ("_exchanges", "_incarnation", "_writers")

    def __init__(self, incarnation: bytes) -> None:
        self._incarnation = incarnation
        self._exchanges: dict[int, Exchange[Token]] = {}
        self._writers: dict[RunKey, Writer[Token]] = {}

    def end(self, key: RunKey, verb: Verb, retry_after_ms: int, message: str, now_ms: int) -> None:
        """Ends the epoch of a run by its target; `received` gives the key back when the pipe has answered."""
        self._writers.pop(key, None)
        self._of(key.pipe).submit_ending(
            key.session,
            key.epoch,
            verb,
            key,
            now_ms,
            argument=retry_after_ms if verb is Verb.RELEASE else 0,
            message=message.encode("utf-8", "replace"),
        )

    def write(self, key: RunKey, verb: Verb, token: int, now_ms: int, record: bytes | None, argument: int) -> None:
        """An operation of the run's writer, this process. Raises Refused and Busy at once, where they are
        known."""
        exchange = self._of(key.pipe)
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = exchange.open(key.session, key.epoch)
        exchange.submit(writer, verb, token, now_ms, record, argument)

    def forget(self, key: RunKey) -> None:
        """The run is over: its writer is no longer needed."""
        self._writers.pop(key, None)

    def told(self, pipe: int, log_ms: int, limits: Limits | None, now_ms: int) -> None:
        """What the pipe said of its log time and its limits."""
        exchange = self._of(pipe)
        exchange.heard(log_ms, now_ms)
        if limits is not None:
            exchange.configure(limits)

    def reconnected(self, pipe: int, now_ms: int) -> None:
        """Whoever had what is in flight may be gone: it is sent again at once."""
        if pipe in self._exchanges:
            self._exchanges[pipe].resend(now_ms)

    def outgoing(self, pipe: int, now_ms: int) -> list[bytes]:
        """Packed messages for this pipe, due now."""
        exchange = self._exchanges.get(pipe)
        return exchange.outgoing(now_ms) if exchange is not None else []

    def received(self, pipe: int, message: Message, now_ms: int) -> list[Done]:
        """What an ACK or ERROR for this process completes. Raises Malformed."""
        exchange = self._exchanges.get(pipe)
        if exchange is None:
            return []
        return [
            (token, verdict if isinstance(verdict, Mpy6aError) else None)
            for token, verdict in exchange.receive(message, now_ms)
        ]

    def deadline(self, pipe: int) -> int:
        """When `outgoing` has something for this pipe though nothing happened."""
        exchange = self._exchanges.get(pipe)
        due = exchange.deadline() if exchange is not None else None
        return NEVER if due is None else due

    def _of(self, pipe: int) -> Exchange[Token]:
        exchange = self._exchanges.get(pipe)
        if exchange is None:
            exchange = self._exchanges[pipe] = Exchange(self._incarnation, pipe)
        return exchange
