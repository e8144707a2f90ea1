"""One client incarnation at one door, sans-IO: hello and welcome, the kinds, one exchange per pipe behind
the door.

The driver says `link_up` when the socket's handshake succeeded and `link_down` when it broke; nothing is
sent while it is down. After each welcome on a new link everything unanswered is sent again: what ZeroMQ
accepted does not count as sent. A New that is called before a pipe is known waits here.
"""

from __future__ import annotations

import zlib
from collections import deque
from difflib import get_close_matches
from typing import Generic, Literal, NamedTuple

from mpy6a import errors, limits, wire
from mpy6a.client import verdicts
from mpy6a.client.exchange import DEFAULT_LIMITS, Completion, Exchange
from mpy6a.client.writer import NEVER, T, Writer
from mpy6a.errors import Code, Mpy6aError
from mpy6a.messages import (
    AnyMessage,
    Error,
    Goodbye,
    Hello,
    Message,
    MessageType,
    Notice,
    PipeInfo,
    Push,
    Role,
    Stop,
    Welcome,
)
from mpy6a.model import BY_POLICY, Extra, SessionId, Verb


class Waiting(NamedTuple, Generic[T]):
    """A New that was called before the door told its pipes."""

    kind: str | int
    record: bytes | None
    extra: Extra | None
    token: T
    called_ms: int


class Event(NamedTuple):
    """What the sidecar tells its service: a Push, Stop or Notice of `pipe`, or an Error about a Serve."""

    pipe: int
    message: Push | Stop | Notice | Error


class Connection(Generic[T]):
    """Routes operations and answers between the callers of one process and the pipes behind one door.

    `timeout_ms` None: operations wait for ever. Not thread-safe; the driver owns it. `dropped` counts
    messages that were not for this client, or none at all.
    """

    def __init__(
        self,
        incarnation: bytes,
        *,
        door: str = "",
        name: str = "",
        pid: int = 0,
        token: bytes = b"",
        timeout_ms: int | None = None,
    ) -> None:
        self.incarnation = incarnation
        self.welcome: Welcome | None = None
        self.exchanges: dict[int, Exchange[T]] = {}
        self.kinds: dict[str, int] = {}
        self.kind_names: dict[int, str] = {}
        self.fatal: Mpy6aError | None = None
        self.welcomes = 0
        self.links = 0  # welcomes on new links or of new hops: what was said before may be lost
        self.dropped = 0
        self._door = door
        self._hello = Hello(pid=pid, name=name, token=token)
        self._timeout_ms = timeout_ms
        self._linked = False
        self._welcomed = False  # on this link
        self._hello_at_ms = NEVER
        self._hello_wait_ms = limits.RESEND_MS
        self._pipes: dict[int, PipeInfo] = {}
        self._active: list[Exchange[T]] = []  # of the pipes that the door answers for now
        self._live: list[Exchange[T]] = []  # of these, where a New may go
        self._turn = 0
        self._waiting: deque[Waiting[T]] = deque()
        self._control: list[bytes] = []
        self._events: deque[Event] = deque()
        self._trouble = ""

    # ------------------------------------------------------------------ what the caller does

    def new(self, kind: str | int, record: bytes | None, extra: Extra | None, token: T, now_ms: int) -> None:
        """Queues a New at a pipe that is live. Raises UnknownKind, TooLarge, Busy, or what ended the
        connection."""
        if self.fatal is not None:
            raise type(self.fatal)(*self.fatal.args)
        if not self._live or self._waiting:
            self._check_waiting(record)
            self._waiting.append(Waiting(kind, record, extra, token, now_ms))
            return
        self._place(kind, record, extra, token, now_ms)

    def submit(
        self,
        writer: Writer[T],
        verb: int,
        token: T,
        now_ms: int,
        record: bytes | None = None,
        argument: int = 0,
    ) -> None:
        """As `Exchange.submit`, at the writer's pipe."""
        if self.fatal is not None:
            raise type(self.fatal)(*self.fatal.args)
        self.exchanges[writer.pipe].submit(writer, verb, token, now_ms, record, argument)

    def open(self, session: SessionId, epoch: int = 1) -> Writer[T]:
        """The writer of (session, epoch), whether or not its pipe answers now."""
        return self.exchange(session.pipe).open(session, epoch)

    def give_up(self, session: SessionId, token: T, now_ms: int) -> None:
        """For a New whose caller left before its answer: stores the session, so that a handler finds it
        soon."""
        self.submit(self.open(session), Verb.STORE, token, now_ms, argument=BY_POLICY)

    @property
    def unanswered(self) -> int:
        """Operations called and not answered."""
        return len(self._waiting) + sum(exchange.unanswered for exchange in self.exchanges.values())

    # ------------------------------------------------------------------ what the driver does

    def link_up(self, now_ms: int) -> None:
        """The socket reached a door (again): says hello, and after its welcome sends everything
        unanswered."""
        self._linked = True
        self._welcomed = False
        self._hello_at_ms = now_ms
        self._hello_wait_ms = limits.RESEND_MS

    def link_down(self) -> None:
        """The socket lost its door: nothing is sent until `link_up`."""
        self._linked = False
        self._welcomed = False
        self._hello_at_ms = NEVER

    def tell(self, message: AnyMessage, pipe: int = 0) -> None:
        """Queues a message for the door (serve, outcomes) behind the hello. Not resent: see `links`."""
        self._control.append(wire.encode(message, incarnation=self.incarnation, pipe=pipe))

    def goodbye(self) -> bytes:
        """The message that says that this incarnation is going: its sessions may be stored at once."""
        return wire.encode(Goodbye(), incarnation=self.incarnation)

    def outgoing(self, now_ms: int) -> list[bytes]:
        """Packed messages to send now, each an envelope of its own."""
        if not self._linked:
            return []
        messages: list[bytes] = []
        if now_ms >= self._hello_at_ms:
            messages.append(wire.encode(self._hello, incarnation=self.incarnation))
            self._hello_at_ms = now_ms + self._hello_wait_ms
            self._hello_wait_ms = min(2 * self._hello_wait_ms, limits.RESEND_MAX_MS)
        if not self._welcomed:
            return messages
        if self._control:
            messages += self._control
            self._control.clear()
        for exchange in self._active:
            messages += exchange.outgoing(now_ms)
            if self._hello_at_ms == NEVER and exchange.wants_log_time(now_ms):
                messages.append(wire.encode(self._hello, incarnation=self.incarnation))
                self._hello_at_ms = now_ms + limits.RESEND_MS
        return messages

    def deadline(self) -> int | None:
        """When `outgoing` or `expire` has something to do though nothing arrives; None: never."""
        due = self._hello_at_ms if self._linked else NEVER
        for exchange in self.exchanges.values():
            due = min(due, exchange.timeout_deadline)
        if self._welcomed:
            for exchange in self._active:
                due = min(due, exchange.send_deadline())
        if self._waiting and self._timeout_ms is not None:
            due = min(due, self._waiting[0].called_ms + self._timeout_ms)
        return None if due == NEVER else due

    def expire(self, now_ms: int) -> list[Completion[T]]:
        """Operations without an answer in time; what was never sent is withdrawn, the rest keeps its
        place."""
        expired: list[Completion[T]] = []
        for exchange in self.exchanges.values():
            expired += exchange.expire(now_ms)
        waiting, timeout_ms = self._waiting, self._timeout_ms
        while waiting and timeout_ms is not None and waiting[0].called_ms + timeout_ms <= now_ms:
            expired.append((waiting.popleft().token, self._nobody(timeout_ms)))
        return expired

    def receive(self, payload: bytes, now_ms: int) -> list[Completion[T]]:
        """Completions by one envelope. What is not for this client, or no message, is dropped and counted."""
        try:
            messages = wire.unpack(payload)
        except errors.Mpy6aError:
            self.dropped += 1
            return []
        done: list[Completion[T]] = []
        for message in messages:
            if message.incarnation != self.incarnation:
                self.dropped += 1
                continue
            try:
                done += self._message(message, now_ms)
            except errors.Malformed:
                self.dropped += 1
        return done

    def events(self) -> list[Event]:
        """What the sidecar told since the last call, in its order."""
        events = list(self._events)
        self._events.clear()
        return events

    @property
    def has_events(self) -> bool:
        """Whether `events` has something."""
        return bool(self._events)

    def exchange(self, pipe: int) -> Exchange[T]:
        """The exchange with `pipe`, made when it is first needed."""
        found = self.exchanges.get(pipe)
        if found is None:
            found = self.exchanges[pipe] = Exchange(self.incarnation, pipe, timeout_ms=self._timeout_ms)
            found.configure(self.welcome.limits if self.welcome is not None else DEFAULT_LIMITS)
        return found

    def kind_number(self, kind: str | int) -> int:
        """The number of a kind by the door's table; a number goes as it is. Raises UnknownKind with the
        nearest."""
        if isinstance(kind, int):
            return kind
        number = self.kinds.get(kind)
        if number is not None:
            return number
        near = get_close_matches(kind, self.kinds, n=3)
        known = f"did you mean {' or '.join(map(repr, near))}?" if near else self._known()
        raise errors.UnknownKind(
            f"kind {kind!r} is not in the pipe's routes; {known} Add new kinds to routes.yaml and reload."
        )

    def kind_name(self, kind: int) -> str:
        """The name of a kind by the door's table; its number as text where the table has none."""
        return self.kind_names.get(kind, str(kind))

    # ------------------------------------------------------------------ inside

    def _place(self, kind: str | int, record: bytes | None, extra: Extra | None, token: T, now_ms: int) -> None:
        number = self.kind_number(kind)
        if len(self._pipes) == 1:
            exchange = self._live[0]
        elif extra is not None and extra.key:
            # One key has one pipe, live or not: (kind, key) over all that the door names.
            pipes = sorted(self._pipes)
            place = zlib.crc32(f"{number}\0{extra.key}".encode())
            exchange = self.exchange(pipes[place % len(pipes)])
        else:
            self._turn += 1
            exchange = self._live[self._turn % len(self._live)]
        exchange.submit_new(number, record, token, now_ms, extra=extra)

    def _check_waiting(self, record: bytes | None) -> None:
        if record is not None and len(record) > limits.RECORD_BYTES_MAX:
            raise errors.TooLarge(
                f"new session: a first record of {len(record)} bytes; at most {limits.RECORD_BYTES_MAX}"
            )
        if len(self._waiting) >= limits.WAITING_OPERATIONS_MAX:
            raise errors.Busy(f"new session: {len(self._waiting)} wait already for an answer at {self._door}")

    def _message(self, message: Message, now_ms: int) -> list[Completion[T]]:
        if message.type == MessageType.ACK:
            exchange = self.exchanges.get(message.pipe)
            if exchange is None:
                self.dropped += 1
                return []
            return exchange.receive(message, now_ms)
        answer = wire.decode(message)
        if isinstance(answer, Welcome):
            return self._welcome(answer, now_ms)
        if isinstance(answer, Error) and answer.type != MessageType.SERVE:
            return self._error(message, answer, now_ms)
        if isinstance(answer, (Push, Stop, Notice, Error)):
            if len(self._events) < limits.CLIENT_EVENTS_MAX:
                self._events.append(Event(message.pipe, answer))
            else:
                self.dropped += 1
        return []

    def _error(self, message: Message, answer: Error, now_ms: int) -> list[Completion[T]]:
        error = verdicts.error(answer.code, self._door, answer.message)
        self._trouble = str(error)
        if answer.code == Code.VERSION:
            return self.fail_all(error)
        exchange = self.exchanges.get(message.pipe)
        return exchange.receive(message, now_ms) if exchange is not None else []

    def fail_all(self, error: Mpy6aError) -> list[Completion[T]]:
        """Nothing can be said over this connection any more."""
        self.fatal = error
        self._linked = False
        done: list[Completion[T]] = [(waiting.token, error) for waiting in self._waiting]
        self._waiting.clear()
        for exchange in self.exchanges.values():
            done += exchange.fail_all(error)
        return done

    def _welcome(self, welcome: Welcome, now_ms: int) -> list[Completion[T]]:
        anew = not self._welcomed or (self.welcome is not None and self.welcome.hop != welcome.hop)
        before = {} if anew else self._pipes
        self.welcome = welcome
        self._welcomed = True
        self._hello_at_ms = NEVER
        self.kinds = {kind.name: kind.id for kind in welcome.kinds}
        self.kind_names = {kind.id: kind.name for kind in welcome.kinds}
        self._pipes = {pipe.pipe: pipe for pipe in welcome.pipes}
        self._active = [self.exchange(pipe) for pipe in self._pipes]
        direct = welcome.role != Role.SIDECAR
        self._live = [each for each in self._active if direct or self._pipes[each.pipe].live]
        self.welcomes += 1
        if anew:
            self.links += 1
        for exchange in self._active:
            pipe = self._pipes[exchange.pipe]
            exchange.configure(welcome.limits)
            exchange.heard(max(pipe.log_ms, welcome.log_ms) if direct else pipe.log_ms, now_ms)
            was = before.get(exchange.pipe)
            if was is None or (was.live, was.term) != (pipe.live, pipe.term):
                exchange.resend(now_ms)
        done: list[Completion[T]] = []
        while self._waiting and self._live:
            waiting = self._waiting.popleft()
            try:
                self._place(*waiting)
            except errors.Mpy6aError as error:
                done.append((waiting.token, error))
        return done

    def _nobody(self, timeout_ms: int) -> errors.NoPipe:
        if self.welcome is None:
            said = f"nobody answers at {self._door}: start the sidecar or pipe there, or check the address"
        else:
            said = f"{self._door} answers, and knows no pipe: check its `pipes:`, and that the pipe runs"
        trouble = f" (last heard: {self._trouble})" if self._trouble else ""
        return errors.NoPipe(f"new session: {said}; waited {timeout_ms / 1000:g} s, nothing was done{trouble}")

    def _known(self) -> str:
        names = sorted(self.kinds)
        more: Literal["", ", ..."] = ", ..." if len(names) > 8 else ""
        return f"known: {', '.join(names[:8])}{more}." if names else "no kinds are known."
