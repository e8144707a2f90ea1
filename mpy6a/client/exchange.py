"""Operations of one client incarnation at one pipe, as a conversation: batches out, acks in, resent until
answered.

Sans-IO: `submit*` when the caller calls, `outgoing(now_ms)` for the packed messages to send, `receive` for
what came back, `deadline()` for when to look again. Times are the driver's monotonic milliseconds, whatever
their origin.

What it promises (semantics.md, "One writer"):
- An operation takes its place in its session when it is submitted, and its seq when its batch is packed.
- One group of a session is in flight; a batch is resent byte for byte, so its groups are never split or
  grown.
- A New has a request number, rising; every batch names the lowest that is not answered (all below are).
- `firstSentMs` of a batch is the log time heard when it was packed, or the earlier one at which a writer in it
  last heard of its session; a resend does not renew it.
- After a refusal, operations of that session that were already submitted are not applied: those in the
  group by the pipe, those still waiting here. Later ones are sent, unless the verdict is final.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final, Generic

from mpy6a import errors, limits, wire
from mpy6a.client import verdicts
from mpy6a.client.outbox import Outbox
from mpy6a.client.writer import NEVER, Decision, InFlight, T, Waiting, WaitingEnding, WaitingNew, Writer
from mpy6a.errors import Code, Mpy6aError
from mpy6a.messages import Ack, Error, Limits, Message, MessageType
from mpy6a.model import Extra, Result, SessionId, Verb

Completion = tuple[T, SessionId | Mpy6aError | None]  # a New's id, a refusal, or None: done and durable

DEFAULT_LIMITS: Final = Limits(
    limits.RECORD_BYTES_MAX,
    limits.SESSION_BYTES_MAX,
    limits.SESSION_RECORDS_MAX,
    limits.MESSAGE_BYTES_MAX,
    limits.MESSAGE_OPERATIONS_MAX,
    limits.ENVELOPE_BYTES_MAX,
)

# Looked up for every operation: a global costs half of a module's attribute.
_OPERATIONS_MAX: Final = limits.WAITING_OPERATIONS_MAX
_BYTES_MAX: Final = limits.WAITING_BYTES_MAX
_DECISIONS: Final = frozenset({int(Verb.DELETE), int(Verb.STORE)})


class Exchange(Generic[T]):
    """One per (client incarnation, pipe). Not thread-safe; the driver owns it.

    `T` is what the driver wants back with a completion. `log_ms` is the log time last heard from this pipe,
    `durable` whether its last ack said so, `trouble` the last reason why a batch was not taken.
    """

    def __init__(self, incarnation: bytes, pipe: int, *, timeout_ms: int | None = None) -> None:
        self.pipe = pipe
        self.log_ms = 0
        self.heard_at_ms = -NEVER
        self.durable = True
        self.trouble = ""
        self.unanswered = 0
        self.unanswered_bytes = 0
        self.late_acks = 0
        self.timeout_ms = timeout_ms
        self._outbox: Outbox[T] = Outbox(incarnation, pipe)
        self._in_flight: dict[int, InFlight[T]] = {}
        self._held_until_ms = 0  # nothing new is packed before, by the pipe's BUSY
        # Lower bounds of the next resend and of the next timeout: exact times would cost a heap operation
        # each.
        self._resend_check_ms = NEVER
        self._timeout_check_ms = NEVER

    # ------------------------------------------------------------------ what the caller does

    def open(self, session: SessionId, epoch: int = 1) -> Writer[T]:
        """The writer of (session, epoch): as soon as a New is answered, or an epoch pushed. One per epoch and
        exchange."""
        return Writer(self.pipe, session.term, session.index, epoch, self.log_ms)

    def submit_new(self, kind: int, record: bytes | None, token: T, now_ms: int, *, extra: Extra | None = None) -> None:
        """Queues a New. Raises TooLarge, Busy. Completes with the session's id."""
        if not 0 <= kind <= 0xFFFFFFFF:
            raise errors.UnknownKind(f"kind {kind}: a kind's number is from 0 to 4294967295")
        size = 0 if record is None else len(record)
        if (
            size > self._outbox.record_bytes_max
            or self.unanswered >= _OPERATIONS_MAX
            or self.unanswered_bytes + size > _BYTES_MAX
        ):
            raise self._not_admitted(size, "new session")
        self._outbox.news.append(WaitingNew(kind, record, extra, token, now_ms))
        self._count(size, now_ms)

    def submit(
        self,
        writer: Writer[T],
        verb: int,
        token: T,
        now_ms: int,
        record: bytes | None = None,
        argument: int = 0,
    ) -> None:
        """Queues an operation of `writer` behind those before it. Raises SessionClosed, TooLarge, Busy, or
        the final verdict on this writer. `argument` is Store's delay in ms."""
        if writer.decision or writer.final is not None:
            raise self._closed(writer)
        size = 0 if record is None else len(record)
        if verb in _DECISIONS:
            writer.decision = Decision.CALLED  # always let in: it only ends what was let in
        elif (
            size > self._outbox.record_bytes_max
            or self.unanswered >= _OPERATIONS_MAX
            or self.unanswered_bytes + size > _BYTES_MAX
        ):
            raise self._not_admitted(size, writer)
        waiting = writer.waiting
        if not waiting and not writer.in_flight:
            self._outbox.ready.append(writer)
        waiting.append((verb, argument, record, token, now_ms))
        self.unanswered += 1
        self.unanswered_bytes += size
        if self._timeout_check_ms == NEVER:
            self._watch(now_ms)

    def submit_ending(
        self,
        session: SessionId,
        epoch: int,
        verb: int,
        token: T,
        now_ms: int,
        *,
        argument: int = 0,
        message: bytes = b"",
    ) -> None:
        """Queues FAIL, RELEASE or PARK by the epoch's target. `argument`: RELEASE's retry in ms. `message`
        is cut to TEXT_BYTES_MAX. Completes with None, or Ended, Fenced, ... when the epoch had ended
        before."""
        message = message[: limits.TEXT_BYTES_MAX].decode(errors="ignore").encode()
        ending = WaitingEnding(session.term, session.index, epoch, verb, argument, message, token, now_ms)
        self._outbox.endings.append(ending)
        self._count(len(message), now_ms)

    # ------------------------------------------------------------------ what the driver does

    def configure(self, told: Limits) -> None:
        """Takes the limits that the pipe told, never beyond this release's own."""
        self._outbox.configure(told)

    def heard(self, log_ms: int, now_ms: int) -> None:
        """Takes a log time of this pipe from a welcome or pong: later batches name it as first sent."""
        self.log_ms = max(self.log_ms, log_ms)
        self.heard_at_ms = now_ms

    def wants_log_time(self, now_ms: int) -> bool:
        """Whether something waits to be packed until the log time is heard anew: the pipe refuses a New
        with a first sending of an hour ago, so an idle client has to ask before it names one."""
        return bool(self._outbox) and now_ms - self.heard_at_ms > limits.LOG_TIME_FRESH_MS

    def outgoing(self, now_ms: int) -> list[bytes]:
        """Packed messages to send now: due resends first, then everything that waits, in batches."""
        messages: list[bytes] = []
        if now_ms >= self._resend_check_ms:
            self._resend_due(messages, now_ms)
        if now_ms < self._held_until_ms:
            return messages
        self._held_until_ms = 0
        if now_ms - self.heard_at_ms <= limits.LOG_TIME_FRESH_MS:
            while self._outbox:
                messages.append(self._pack(now_ms))
        return messages

    def deadline(self) -> int | None:
        """When `outgoing` or `expire` has something to do though nothing arrives; None: never."""
        due = min(self.send_deadline(), self._timeout_check_ms)
        return None if due == NEVER else due

    def send_deadline(self) -> int:
        """When `outgoing` has something to do though nothing arrives; later than its last call."""
        if self._held_until_ms and self._outbox:
            return min(self._held_until_ms, self._resend_check_ms)
        return self._resend_check_ms

    @property
    def timeout_deadline(self) -> int:
        """When `expire` has something to do."""
        return self._timeout_check_ms

    def resend(self, now_ms: int) -> None:
        """Everything in flight is sent again at once: the connection or the other side is a new one."""
        for batch in self._in_flight.values():
            batch.resend_at_ms = now_ms
            batch.wait_ms = limits.RESEND_MS
        if self._in_flight:
            self._resend_check_ms = now_ms
        self._held_until_ms = 0

    def receive(self, message: Message, now_ms: int) -> list[Completion[T]]:
        """Completions by one ACK or ERROR of this pipe. Raises Malformed when the body is none."""
        answer = wire.decode(message)
        if isinstance(answer, Ack):
            return self._acknowledged(answer, now_ms)
        if isinstance(answer, Error):
            return self._error(answer, now_ms)
        return []

    def expire(self, now_ms: int) -> list[Completion[T]]:
        """Tokens whose operation has no answer within the timeout, each once. A New that was never sent is
        withdrawn; every other operation keeps its place and is still resent, and may complete later all the
        same."""
        if now_ms < self._timeout_check_ms or self.timeout_ms is None:
            return []
        called_by_ms = now_ms - self.timeout_ms
        expired: list[Completion[T]] = []
        oldest = min(
            self._expire_in_flight(called_by_ms, expired),
            self._expire_waiting(called_by_ms, expired),
            self._expire_news(called_by_ms, expired),
        )
        self._timeout_check_ms = NEVER if oldest == NEVER else oldest + self.timeout_ms
        return expired

    def fail_all(self, error: Mpy6aError) -> list[Completion[T]]:
        """Ends the conversation: every operation completes with `error`, every writer is final."""
        done: list[Completion[T]] = []
        for batch in list(self._in_flight.values()):
            self._failed(batch, error, done)
        for writer in self._outbox.ready:
            writer.final = error
            self._drop_waiting(writer, error, done)
        self._outbox.ready.clear()
        while self._outbox.news:
            new = self._outbox.news.popleft()
            self._uncount(new.record_bytes)
            done.append((new.token, error))
        while self._outbox.endings:
            ending = self._outbox.endings.popleft()
            self._uncount(len(ending.record))
            done.append((ending.token, error))
        return done

    # ------------------------------------------------------------------ admission

    def _not_admitted(self, record_bytes: int, subject: object) -> Mpy6aError:
        if record_bytes > self._outbox.record_bytes_max:
            return errors.TooLarge(
                f"{subject}: a record of {record_bytes} bytes; at most {self._outbox.record_bytes_max}; "
                "the session is untouched: split the record, or delete or store the session"
            )
        return errors.Busy(
            f"{subject}: {self.unanswered} operations ({self.unanswered_bytes} bytes) wait already "
            f"for pipe {self.pipe}; slow down"
        )

    def _count(self, record_bytes: int, now_ms: int) -> None:
        self.unanswered += 1
        self.unanswered_bytes += record_bytes
        if self._timeout_check_ms == NEVER:
            self._watch(now_ms)

    def _uncount(self, record_bytes: int) -> None:
        self.unanswered -= 1
        self.unanswered_bytes -= record_bytes

    def _watch(self, now_ms: int) -> None:
        if self.timeout_ms is not None:
            self._timeout_check_ms = now_ms + self.timeout_ms

    def _closed(self, writer: Writer[T]) -> Mpy6aError:
        if writer.final is not None:
            final = writer.final
            return type(final)(*final.args)  # a fresh one: a traceback belongs to one raise
        return errors.SessionClosed(f"{writer}: already deleted or stored by this caller; open a new session")

    # ------------------------------------------------------------------ sending

    def _pack(self, now_ms: int) -> bytes:
        batch = self._outbox.pack(self.log_ms)
        batch.wait_ms = limits.RESEND_MS
        batch.resend_at_ms = now_ms + limits.RESEND_MS
        if batch.resend_at_ms < self._resend_check_ms:
            self._resend_check_ms = batch.resend_at_ms
        self._in_flight[batch.number] = batch
        return batch.message

    def _resend_due(self, messages: list[bytes], now_ms: int) -> None:
        check_ms = NEVER
        for batch in self._in_flight.values():
            if batch.resend_at_ms <= now_ms:
                messages.append(batch.message)
                batch.resend_at_ms = now_ms + batch.wait_ms
                batch.wait_ms = min(2 * batch.wait_ms, limits.RESEND_MAX_MS)
            check_ms = min(check_ms, batch.resend_at_ms)
        self._resend_check_ms = check_ms

    # ------------------------------------------------------------------ answers

    def _acknowledged(self, ack: Ack, now_ms: int) -> list[Completion[T]]:
        batch = self._in_flight.get(ack.number)
        if ack.log_ms:
            self.heard(ack.log_ms, now_ms)
        if batch is None:
            self.late_acks += 1  # the answer to a copy
            return []
        if ack.code:
            return self._not_taken(batch, ack.code, ack.retry_after_ms, ack.message, now_ms)
        self.durable = ack.durable
        self._close(batch)
        tokens = batch.tokens
        done: list[Completion[T]] = list(zip(tokens, repeat(None)))
        first_index, term, pipe = ack.first_index, ack.term, self.pipe
        for position in range(batch.news_from, len(tokens)):
            done[position] = (tokens[position], SessionId(pipe, term, first_index + position))
        if ack.results:
            self._refused(batch, ack.results, done)
        ready = self._outbox.ready
        log_ms = ack.log_ms
        for writer in batch.writers:
            writer.heard_ms = log_ms
            writer.in_flight = False
            if writer.waiting:
                ready.append(writer)
            elif writer.decision:
                writer.decision = Decision.DONE
        return done

    def _close(self, batch: InFlight[T]) -> None:
        """Nothing of the batch waits any more."""
        del self._in_flight[batch.number]
        batch.answered = True
        batch.message = b""
        self.unanswered -= len(batch.tokens)
        self.unanswered_bytes -= batch.record_bytes
        if not self._in_flight:
            self._resend_check_ms = NEVER
        if not self.unanswered:
            self._timeout_check_ms = NEVER

    def _refused(self, batch: InFlight[T], results: tuple[Result, ...], done: list[Completion[T]]) -> None:
        """Puts the verdicts that are not plain OK in their places, and ends what waits behind a refusal."""
        endings_from = sum(batch.counts)
        for result in results:
            position = result.position
            if not 0 <= position < len(batch.tokens):
                continue
            token = batch.tokens[position]
            if position >= batch.news_from:
                if result.code == Code.OK:
                    done[position] = (token, SessionId(self.pipe, result.term, result.index))
                else:
                    done[position] = (token, verdicts.refusal(result, self.pipe, "new session"))
            elif result.code == Code.OK:
                continue
            elif position >= endings_from:
                subject = batch.subjects[position - endings_from]
                done[position] = (token, verdicts.refusal(result, self.pipe, subject))
            else:
                self._refuse(batch, position, result, done)

    def _refuse(self, batch: InFlight[T], position: int, result: Result, done: list[Completion[T]]) -> None:
        writer = next(writer for writer, _, end in batch.groups() if position < end)
        token = batch.tokens[position]
        if result.code == Code.AFTER_REFUSAL:
            cause = writer.refusal[1] if writer.refusal is not None else None
            done[position] = (token, verdicts.after_refusal(str(writer), cause))
            return
        error = verdicts.refusal(result, self.pipe, str(writer))
        done[position] = (token, error)
        if writer.final is None:  # of several, the first says why
            writer.refusal = (token, error)
        if result.code in verdicts.FINAL:
            writer.final = error
        writer.decision = Decision.NONE  # it was the last operation called: refused, or behind the refused one
        self._drop_waiting(writer, None, done)

    def _drop_waiting(self, writer: Writer[T], error: Mpy6aError | None, done: list[Completion[T]]) -> None:
        """What waits behind a refusal is never sent."""
        cause = writer.refusal[1] if writer.refusal is not None else None
        for _, _, record, token, _ in writer.waiting:
            self._uncount(0 if record is None else len(record))
            done.append((token, error if error is not None else verdicts.after_refusal(str(writer), cause)))
        writer.waiting.clear()

    def _not_taken(
        self, batch: InFlight[T], code: int, retry_after_ms: int, message: str, now_ms: int
    ) -> list[Completion[T]]:
        """A batch that was not logged: sent again later, or refused for good."""
        self.trouble = str(verdicts.error(code, f"pipe {self.pipe}", message))
        done: list[Completion[T]] = []
        if code not in verdicts.RETRIED:
            self._failed(batch, verdicts.error(code, f"pipe {self.pipe} refused a batch", message), done)
            return done
        if code == Code.BUSY:
            wait_ms = min(max(retry_after_ms, 1), limits.RESEND_MAX_MS)
            self._held_until_ms = max(self._held_until_ms, now_ms + wait_ms)
        else:
            wait_ms = min(limits.BACKOFF_MS << min(batch.refusals, 16), limits.RESEND_MAX_MS)
        batch.refusals += 1
        batch.resend_at_ms = now_ms + wait_ms
        self._resend_check_ms = min(self._resend_check_ms, batch.resend_at_ms)
        return done

    def _failed(self, batch: InFlight[T], error: Mpy6aError, done: list[Completion[T]]) -> None:
        """A batch that will never be taken. An earlier copy may have been, and a group of other operations
        with the same seq would be answered by that copy's verdicts: so its writers write no more."""
        self._close(batch)
        done.extend((token, error) for token in batch.tokens)
        for writer, first, _ in batch.groups():
            writer.in_flight = False
            writer.final = error
            writer.decision = Decision.NONE
            writer.refusal = (batch.tokens[first], error)
            self._drop_waiting(writer, None, done)

    def _error(self, answer: Error, now_ms: int) -> list[Completion[T]]:
        """An Error in place of an ack; without a number (a hop that reads no bodies) it only explains a
        silence."""
        if answer.type != MessageType.BATCH:
            return []
        batch = self._in_flight.get(answer.number)
        if batch is not None:
            return self._not_taken(batch, answer.code, answer.retry_after_ms, answer.message, now_ms)
        self.trouble = str(verdicts.error(answer.code, f"pipe {self.pipe}", answer.message))
        if answer.code in verdicts.RETRIED and not answer.number and self._in_flight:
            # A hop that reads no bodies did not take one of them. Which, the acks of the others will tell.
            again_ms = now_ms + min(max(answer.retry_after_ms, limits.BACKOFF_MS), limits.RESEND_MAX_MS)
            self._held_until_ms = max(self._held_until_ms, again_ms)
            for batch in self._in_flight.values():
                batch.resend_at_ms = min(batch.resend_at_ms, again_ms)
            self._resend_check_ms = min(self._resend_check_ms, again_ms)
        return []

    # ------------------------------------------------------------------ timeouts

    def _expire_in_flight(self, called_by_ms: int, expired: list[Completion[T]]) -> int:
        """Appends what is overdue of the batches in flight; when the oldest of the others was called."""
        oldest = NEVER
        for batch in self._in_flight.values():
            called = batch.called
            for position, called_ms in enumerate(called):
                if called_ms <= called_by_ms:
                    expired.append((batch.tokens[position], self._outcome_unknown()))
                    called[position] = NEVER
                elif called_ms < oldest:
                    oldest = called_ms
        return oldest

    def _expire_waiting(self, called_by_ms: int, expired: list[Completion[T]]) -> int:
        oldest = NEVER
        writers = list(self._outbox.ready)
        for batch in self._in_flight.values():
            writers += batch.writers
        for writer in writers:
            kept: list[Waiting[T]] = []
            for verb, argument, record, token, called_ms in writer.waiting:
                if called_ms <= called_by_ms:
                    expired.append((token, self._outcome_unknown()))
                    called_ms = NEVER
                oldest = min(oldest, called_ms)
                kept.append((verb, argument, record, token, called_ms))
            writer.waiting[:] = kept
        for ending in self._outbox.endings:
            if ending.called_ms <= called_by_ms:
                expired.append((ending.token, self._outcome_unknown()))
                ending.called_ms = NEVER
            oldest = min(oldest, ending.called_ms)
        return oldest

    def _expire_news(self, called_by_ms: int, expired: list[Completion[T]]) -> int:
        news = self._outbox.news
        while news and news[0].called_ms <= called_by_ms:
            new = news.popleft()
            self._uncount(new.record_bytes)
            expired.append((new.token, errors.NoPipe(f"new session: never sent, nothing was done{self._why()}")))
        return news[0].called_ms if news else NEVER

    def _outcome_unknown(self) -> errors.OutcomeUnknown:
        seconds = (self.timeout_ms or 0) / 1000
        return errors.OutcomeUnknown(
            f"no answer from pipe {self.pipe} in {seconds:g} s: the operation keeps its place and is still "
            f"resent; it may be applied later{self._why()}"
        )

    def _why(self) -> str:
        return f" (last heard: {self.trouble})" if self.trouble else ""
