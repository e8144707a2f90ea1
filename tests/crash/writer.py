"""A client that trusts nobody: the wire's bytes, hundreds of operations in flight, its own history synced to disk.

Run as: writer.py ADDRESS HISTORY SEED. A line "stop" on stdin (or its end): no new operations, an answer to all that
were sent, exit 0. On stdout "acked N" as operations are answered.

The history is a JSON object a line, times in monotonic ns:

    {"writer": incarnation}
    {"at": t, "sent": number, "message": base64}    before the message is sent
    {"at": t, "resent": number}                     the same bytes again, to the pipe's next life
    {"at": t, "late": number}                       the same bytes again, though they were answered
    {"at": t, "ack": number, "message": base64}     before anything is done about it
    {"at": t, "busy": number}                       the pipe did not take it: it comes again, or was a late copy
    {"at": t, "life": incarnation}                  a pipe was heard that is not the one heard before

It shares the codec with the package and nothing else: no session of the client library, no resend of it.
"""

from __future__ import annotations

import base64
import json
import os
import random
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import zmq

from mpy6a.errors import Code
from mpy6a.messages import Ack, Batch, Hello, Welcome
from mpy6a.model import Op, Verb
from mpy6a.wire import decode, encode, unpack

IN_FLIGHT_MIN: Final = 256  # never fewer operations sent and not answered, once it has begun
IN_FLIGHT: Final = 768
BATCH_OPERATIONS: Final = 32
GROUP_OPERATIONS: Final = 4
IDLE_SESSIONS: Final = 200  # that wait for their next operation; above it no New
HELLO_NS: Final = 100_000_000  # between two questions whether the pipe is still the same
POLL_MS: Final = 20
KINDS: Final = (1, 2)
UNKNOWN_KIND: Final = 99
HUGE: Final = 5_000  # bytes, over the record limit of the place's config
LATE_KEPT: Final = 64
STORE_MS: Final = 3_600_000


@dataclass(slots=True)
class Open:
    """A session that this writer made and has not finished."""

    term: int
    index: int
    seq: int = 0


@dataclass(slots=True)
class Sent:
    """A batch without an answer, and the sessions whose groups it holds."""

    message: bytes
    ops: list[Op]
    sessions: list[Open]


class Writer:
    """Makes batches, remembers which are not answered, and says all to its history first."""

    def __init__(self, address: str, history: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._incarnation = os.urandom(16)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.RECONNECT_IVL, 10), (zmq.RECONNECT_IVL_MAX, 50)):
            self._socket.setsockopt(option, value)
        self._socket.connect(address)
        self._history = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[str] = []
        self._to_send: list[bytes] = []
        self._number = 0
        self._request = 0
        self._records = 0
        self._unanswered: dict[int, Sent] = {}
        self._in_flight = 0
        self._new_requests: dict[int, None] = {}  # not answered, ascending
        self._idle: list[Open] = []
        self._answered: list[tuple[int, bytes]] = []  # the last ones, for late copies
        self._put_off: list[tuple[int, int]] = []  # (when, number) of batches that the pipe was too busy for
        self._log_ms = 0
        self._life = b""
        self._hello_ns = 0
        self.acked = 0
        self.stopping = False
        self._note(writer=self._incarnation.hex())

    def run(self) -> None:
        """Until it is told to stop and all is answered."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(0, zmq.POLLIN)
        told = 0
        while not (self.stopping and not self._unanswered):
            ready = dict(poller.poll(POLL_MS))
            if 0 in ready and os.read(0, 64)[-5:] in (b"", b"stop\n"):
                self.stopping = True
                poller.unregister(0)
            self._receive()
            if self._log_ms and not self.stopping:
                self._fill()
            self._send_put_off()
            self._say_hello()
            self._flush()
            if self.acked != told:
                told = self.acked
                print("acked", told, flush=True)

    # ------------------------------------------------------------------ in

    def _receive(self) -> None:
        """Take answers, and leave those in the socket that would bring what is in flight below its minimum."""
        while self.stopping or self._in_flight >= IN_FLIGHT_MIN + BATCH_OPERATIONS or not self._life:
            try:
                payload = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            for message in unpack(payload):
                match decode(message):
                    case Ack(code=Code.BUSY) as ack:
                        self._note(busy=ack.number)
                        self._put_off.append((time.monotonic_ns() + ack.retry_after_ms * 1_000_000, ack.number))
                    case Ack() as ack:
                        self._note(ack=ack.number, message=base64.b64encode(payload).decode())
                        self._take(ack)
                    case Welcome() as welcome:
                        self._log_ms = max(self._log_ms, welcome.log_ms)
                        if welcome.hop != self._life:
                            self._new_life(welcome.hop)
                    case other:
                        raise SystemExit(f"the pipe sent {other!r:.500}")

    def _new_life(self, hop: bytes) -> None:
        """What the old one did not answer is sent again, byte for byte, in the old order."""
        self._note(life=hop.hex())
        if self._life:
            for number, sent in self._unanswered.items():
                self._note(resent=number)
                self._to_send.append(sent.message)
        self._life = hop

    def _take(self, ack: Ack) -> None:
        if ack.code:
            raise SystemExit(f"a whole batch was refused: {ack!r:.500}")
        sent = self._unanswered.pop(ack.number, None)
        if sent is None:
            return  # the answer to a copy
        self._log_ms = max(self._log_ms, ack.log_ms)
        self._in_flight -= len(sent.ops)
        self.acked += len(sent.ops)
        results = {result.position: result for result in ack.results}
        for position, op in enumerate(sent.ops):
            if op.verb != Verb.NEW:
                continue
            del self._new_requests[op.index]
            result = results.get(position)
            if result is None:
                self._idle.append(Open(ack.term, ack.first_index + position))
            elif not result.code:
                self._idle.append(Open(result.term, result.index))
        refused = {(op.term, op.index) for p, op in enumerate(sent.ops) if p in results and op.verb != Verb.NEW}
        ended = {(op.term, op.index) for op in sent.ops if op.verb in (Verb.DELETE, Verb.STORE)}
        # A group whose ending was refused too left its session as it was, with its numbers taken.
        for session in sent.sessions:
            key = session.term, session.index
            if key not in ended or (key in refused and self._still_mine(sent.ops, results, key)):
                self._idle.append(session)
        self._answered.append((ack.number, sent.message))
        del self._answered[:-LATE_KEPT]

    @staticmethod
    def _still_mine(ops: list[Op], results: dict[int, Any], key: tuple[int, int]) -> bool:
        return all(
            position in results and results[position].code != Code.OK
            for position, op in enumerate(ops)
            if (op.term, op.index) == key and op.verb in (Verb.DELETE, Verb.STORE)
        )

    # ------------------------------------------------------------------ out

    def _send_put_off(self) -> None:
        """What the pipe was too busy for, once it may come again: many refused operations do that on a slow machine."""
        now_ns = time.monotonic_ns()
        due = [number for at_ns, number in self._put_off if at_ns <= now_ns and number in self._unanswered]
        self._put_off = [one for one in self._put_off if one[0] > now_ns]
        self._to_send += [self._unanswered[number].message for number in due]

    def _fill(self) -> None:
        while self._in_flight < IN_FLIGHT:
            self._make_batch()
        if self._answered and self._random.random() < 0.1:
            number, message = self._random.choice(self._answered)
            self._note(late=number)
            self._to_send.append(message)

    def _make_batch(self) -> None:
        chance, idle = self._random, self._idle
        ops: list[Op] = []
        sessions: list[Open] = []
        while len(ops) < BATCH_OPERATIONS:
            if idle and (len(idle) > IDLE_SESSIONS or chance.random() < 0.75):
                place = chance.randrange(len(idle))
                idle[place], idle[-1] = idle[-1], idle[place]
                session = idle.pop()
                sessions.append(session)
                for _ in range(min(chance.randint(1, GROUP_OPERATIONS), BATCH_OPERATIONS - len(ops))):
                    ops.append(self._operation(session))
            else:
                self._request += 1
                self._new_requests[self._request] = None
                kind = UNKNOWN_KIND if chance.random() < 0.01 else chance.choice(KINDS)
                record = None if chance.random() < 0.3 else self._record()
                ops.append(Op(Verb.NEW, self._request, argument=kind, record=record))
        self._number += 1
        mark = next(iter(self._new_requests), self._request + 1)
        batch = Batch(self._number, mark, self._log_ms, ops, [])
        message = encode(batch, incarnation=self._incarnation, pipe=1)
        self._unanswered[self._number] = Sent(message, ops, sessions)
        self._in_flight += len(ops)
        self._note(sent=self._number, message=base64.b64encode(message).decode())
        self._to_send.append(message)

    def _operation(self, session: Open) -> Op:
        """The next one at random. Endings come in the middle of a group too: what follows has to be refused."""
        session.seq += 1
        verb = self._random.choices(
            (Verb.APPEND, Verb.REPLACE, Verb.TOUCH, Verb.DELETE, Verb.STORE), (60, 12, 8, 12, 8)
        )[0]
        record, argument = None, 0
        if verb in (Verb.APPEND, Verb.REPLACE):
            record = self._record() if self._random.random() > 0.01 else b"h" * HUGE
        elif verb == Verb.STORE:
            argument = STORE_MS
        return Op(verb, session.index, session.term, 1, session.seq, argument, record)

    def _record(self) -> bytes:
        """Bytes that no other record of any writer has."""
        self._records += 1
        text = f"{self._incarnation.hex()}:{self._records}:".encode()
        return text + b"." * self._random.randrange(200)

    def _say_hello(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._hello_ns >= HELLO_NS:
            self._hello_ns = now_ns
            self._to_send.append(encode(Hello(name="writer", pid=os.getpid()), incarnation=self._incarnation))

    def _note(self, **facts: Any) -> None:
        self._lines.append(json.dumps({"at": time.monotonic_ns(), **facts}))

    def _flush(self) -> None:
        """The history first, durably; then the socket."""
        if self._lines:
            os.write(self._history, ("\n".join(self._lines) + "\n").encode())
            os.fdatasync(self._history)
            self._lines.clear()
        for message in self._to_send:
            self._socket.send(message)
        self._to_send.clear()


if __name__ == "__main__":
    Writer(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
