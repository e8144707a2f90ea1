"""A conversation between an exchange and the honest fake pipe, with a clock that the test moves."""

from __future__ import annotations

import os

from mpy6a import wire
from mpy6a.client.exchange import Exchange
from mpy6a.client.writer import Writer
from mpy6a.errors import Mpy6aError
from mpy6a.model import SessionId
from tests.fakes.hop import FakePipe

Answer = SessionId | Mpy6aError | None


class Talk:
    """Tokens are texts that the test chooses; `answers` has what each was completed with, the last time."""

    def __init__(self, *, timeout_ms: int | None = None, pipe: FakePipe | None = None) -> None:
        self.pipe = pipe if pipe is not None else FakePipe()
        self.incarnation = os.urandom(16)
        self.exchange: Exchange[str] = Exchange(self.incarnation, self.pipe.number, timeout_ms=timeout_ms)
        self.now_ms = 1_000
        self.exchange.heard(self.pipe.log_ms, self.now_ms)
        self.answers: dict[str, Answer] = {}
        self.order: list[str] = []  # of the completions
        self.sent: list[bytes] = []

    def send(self) -> list[bytes]:
        """What the exchange sends now; the pipe takes it, and its answers are returned and not delivered."""
        answers: list[bytes] = []
        for payload in self.exchange.outgoing(self.now_ms):
            self.sent.append(payload)
            for message in wire.unpack(payload):
                answers += self.pipe.receive(message)
        return answers

    def deliver(self, answers: list[bytes]) -> None:
        for payload in answers:
            for message in wire.unpack(payload):
                for token, answer in self.exchange.receive(message, self.now_ms):
                    self.answers[token] = answer
                    self.order.append(token)

    def turn(self) -> None:
        """Sends and delivers until nothing is sent any more."""
        while answers := self.send():
            self.deliver(answers)

    def pass_ms(self, ms: int) -> None:
        """Moves the clock, and does what is due then. Log time is told now and then, as by pongs."""
        self.now_ms += ms
        self.exchange.heard(self.pipe.log_ms, self.now_ms)
        for token, answer in self.exchange.expire(self.now_ms):
            self.answers[token] = answer
        self.turn()

    def open(self, token: str = "new", first: bytes | None = None) -> Writer[str]:
        """A session of kind 1, made at the pipe."""
        self.exchange.submit_new(1, first, token, self.now_ms)
        self.turn()
        return self.exchange.open(self.session(token))

    def session(self, token: str) -> SessionId:
        """The id that a New was answered with."""
        session = self.answers[token]
        assert isinstance(session, SessionId), session
        return session

    def call(self, writer: Writer[str], verb: int, token: str, record: bytes | None = None, argument: int = 0) -> None:
        self.exchange.submit(writer, verb, token, self.now_ms, record, argument)

    def done(self, *tokens: str) -> bool:
        """All of these are done and durable."""
        return all(token in self.answers and self.answers[token] is None for token in tokens)
