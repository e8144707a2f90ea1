"""What waits to be sent to one pipe, in the callers' order, and how it becomes batches.

Source: semantics.md "One writer": seq and request numbers are given when a batch is packed; one group of a
session is in flight; every batch names the lowest request number that is not answered.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, cast

from mpy6a import limits, wire
from mpy6a.client.writer import InFlight, T, WaitingEnding, WaitingNew, Writer
from mpy6a.messages import Limits, MessageType
from mpy6a.model import Extra, Op, Verb

_NEW: Final = int(Verb.NEW)
# Over-estimates of the encoding, so that a packed message is never over its limit: header, segment table,
# struct and list tags; a row and the padding of its record; a row of the extras and the padding of its four
# fields.
_BATCH_BYTES: Final = wire.HEADER_BYTES + 128
_OP_BYTES: Final = 48
_EXTRA_BYTES: Final = 48 + 4 * 8
_SLACK_BYTES: Final = 8 * limits.KIB  # room for one operation's extras and all of the above beside a largest record

# An operation is packed from a plain tuple of Op's fields (see writer.Waiting).
Fields = tuple[int, int, int, int, int, int, "bytes | None"]


class Outbox(Generic[T]):
    """Queues of one (incarnation, pipe). `ready` are writers with waiting operations and no group in
    flight."""

    def __init__(self, incarnation: bytes, pipe: int) -> None:
        self.pipe = pipe
        self.ready: deque[Writer[T]] = deque()
        self.endings: deque[WaitingEnding[T]] = deque()
        self.news: deque[WaitingNew[T]] = deque()
        self.record_bytes_max = limits.RECORD_BYTES_MAX
        self._message_bytes_max = limits.MESSAGE_BYTES_MAX
        self._operations_max = limits.BATCH_OPERATIONS
        self._incarnation = incarnation
        self._batch_number = 1
        self._request_number = 1
        self._with_news: deque[InFlight[T]] = deque()  # in order of their request numbers, answered ones in front cut

    def __bool__(self) -> bool:
        """Something waits to be packed."""
        return bool(self.ready or self.news or self.endings)

    def configure(self, told: Limits) -> None:
        """Takes the limits that the pipe told: never beyond this release's own, never so small that nothing
        fits."""
        self._message_bytes_max = max(min(told.message_bytes, limits.MESSAGE_BYTES_MAX), 2 * _SLACK_BYTES)
        self._operations_max = max(min(told.message_operations, limits.BATCH_OPERATIONS), 1)
        most = self._message_bytes_max - _SLACK_BYTES
        self.record_bytes_max = min(told.record_bytes, limits.RECORD_BYTES_MAX, most)

    def pack(self, log_ms: int) -> InFlight[T]:
        """One batch of what waits: groups of the ready writers, then endings, then News. At least one
        operation. It is first sent at log time `log_ms`, or, where a writer heard of its session last before that,
        then: somebody else may have finished it since, and no trace tells of that for longer than a day."""
        batch: InFlight[T] = InFlight(self._batch_number)
        batch.first_sent_ms = log_ms
        self._batch_number += 1
        ops: list[Fields] = []
        extras: list[Extra] = []
        room = self._groups(batch, ops, self._message_bytes_max - _BATCH_BYTES)
        if self.endings and room >= 0:
            room = self._endings(batch, ops, room)
        batch.news_from = len(ops)
        mark = self._mark()
        if self.news and room >= 0 and log_ms - batch.first_sent_ms <= limits.LOG_TIME_FRESH_MS:
            self._news(batch, ops, extras, room)
        body = wire.encode_batch_body(batch.number, mark, batch.first_sent_ms, cast("list[Op]", ops), extras)
        batch.message = wire.pack(MessageType.BATCH, body, incarnation=self._incarnation, pipe=self.pipe)
        return batch

    def _groups(self, batch: InFlight[T], ops: list[Fields], room: int) -> int:
        """Appends groups; the bytes that are left, negative when one operation did not fit."""
        ready, operations_max = self.ready, self._operations_max
        add_op, add_token, add_called = ops.append, batch.tokens.append, batch.called.append
        add_writer, add_count = batch.writers.append, batch.counts.append
        packed = 0
        record_bytes = 0
        first_sent_ms = batch.first_sent_ms
        alone = False
        sessions: set[tuple[int, int]] = set()
        while ready and room >= 0:
            writer = ready[0]
            waiting = writer.waiting
            term, index, epoch, seq = writer.term, writer.index, writer.epoch, writer.seq
            if (term, index) in sessions:  # of another epoch (its opener handles it too): a batch has one group of it
                room = -1
                break
            if writer.heard_ms < first_sent_ms and epoch == 1:  # of a later epoch the pipe does not ask
                if batch.first_sent_ms - writer.heard_ms > limits.FINISHED_TRACE_MS // 2:
                    if packed:
                        room = -1
                        break
                    alone = True  # or its neighbours would be taken for as old as it is
                first_sent_ms = writer.heard_ms
            sessions.add((term, index))
            for verb, argument, record, token, called_ms in waiting:
                size = 0 if record is None else len(record)
                room -= _OP_BYTES + size
                if room < 0 or packed == operations_max:
                    room = -1
                    break
                seq += 1
                packed += 1
                record_bytes += size
                add_op((verb, index, term, epoch, seq, argument, record))
                add_token(token)
                add_called(called_ms)
            count = seq - writer.seq
            assert count or room < 0, "a ready writer has something that waits"
            if count:
                ready.popleft()
                writer.seq = seq
                writer.in_flight = True
                add_writer(writer)
                add_count(count)
                del waiting[:count]
            if alone:
                room = -1
        batch.record_bytes += record_bytes
        batch.first_sent_ms = first_sent_ms
        return room

    def _endings(self, batch: InFlight[T], ops: list[Fields], room: int) -> int:
        """Appends waiting endings; the bytes that are left, negative when one did not fit."""
        endings = self.endings
        while endings:
            ending = endings[0]
            room -= _OP_BYTES + len(ending.record)
            if room < 0 or len(ops) >= self._operations_max:
                return -1
            endings.popleft()
            ops.append((ending.verb, ending.index, ending.term, ending.epoch, 0, ending.argument, ending.record))
            batch.tokens.append(ending.token)
            batch.called.append(ending.called_ms)
            batch.subjects.append(f"session {self.pipe}.{ending.term}.{ending.index}")
            batch.record_bytes += len(ending.record)
        return room

    def _news(self, batch: InFlight[T], ops: list[Fields], extras: list[Extra], room: int) -> None:
        """Appends News as they fit, each with the next request number."""
        news = self.news
        first_request = self._request_number
        while news and len(ops) < self._operations_max:
            new = news[0]
            room -= _OP_BYTES + new.record_bytes + (0 if new.extra is None else _extra_bytes(new.extra))
            if room < 0:
                break
            news.popleft()
            if new.extra is not None:
                extras.append(new.extra._replace(position=len(ops)))
            ops.append((_NEW, self._request_number, 0, 0, 0, new.kind, new.record))
            self._request_number += 1
            batch.tokens.append(new.token)
            batch.called.append(new.called_ms)
            batch.record_bytes += new.record_bytes
        if self._request_number > first_request:
            batch.first_request = first_request
            self._with_news.append(batch)

    def _mark(self) -> int:
        """The lowest request number that is not answered; batches are answered whole."""
        with_news = self._with_news
        while with_news and with_news[0].answered:
            with_news.popleft()
        return with_news[0].first_request if with_news else self._request_number


def _extra_bytes(extra: Extra) -> int:
    texts = len(extra.key.encode()) + len(extra.order_key.encode()) + len(extra.schema.encode())
    return _EXTRA_BYTES + texts + len(extra.trace)
