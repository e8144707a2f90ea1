"""The library's exchange and connection with one more eye: every single ack is asked whether it means durable."""

from __future__ import annotations

from mpy6a.client.connection import Connection
from mpy6a.client.exchange import Completion, Exchange
from mpy6a.client.writer import T
from mpy6a.messages import Message, MessageType


class CheckedExchange(Exchange[T]):
    """Counts acks, and those that were no promise."""

    acks = 0
    acks_not_durable = 0

    def receive(self, message: Message, now_ms: int) -> list[Completion[T]]:
        done = super().receive(message, now_ms)
        if message.type == MessageType.ACK:
            self.acks += 1
            if not self.durable:
                self.acks_not_durable += 1
        return done


class CheckedConnection(Connection[T]):
    """A connection whose exchanges count their acks."""

    def exchange(self, pipe: int) -> CheckedExchange[T]:
        found = self.exchanges.get(pipe)
        if found is None:
            found = self.exchanges[pipe] = CheckedExchange(self.incarnation, pipe)
        assert isinstance(found, CheckedExchange)
        return found

    def acks(self) -> tuple[int, int]:
        """How many acks came, and how many of them did not say durable."""
        mine = [each for each in self.exchanges.values() if isinstance(each, CheckedExchange)]
        return sum(each.acks for each in mine), sum(each.acks_not_durable for each in mine)
