"""What the sidecar says to its pipes over its own connections: hellos, heartbeats for its clients, its
writes.

Pure. Answers to clients are passed on; those to the sidecar itself end here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from mpy6a import limits, wire
from mpy6a.errors import Code, Malformed, VersionMismatch
from mpy6a.messages import AnyMessage, Error, Heartbeat, Hello, Message, MessageType, Notice, Pong, Stop, Welcome
from mpy6a.model import NOBODY, SessionId
from sidecar.clients import Clients
from sidecar.links import Link
from sidecar.values import AgentSetup, Effect, Ended, RunKey, Told, Wrote
from sidecar.welcomes import PROTOCOL
from sidecar.writing import Writing

ANSWERS = frozenset({MessageType.ACK, MessageType.ERROR})
FORWARDED = ANSWERS | {MessageType.NOTICE}


class PipeSide:
    """The links to all pipes."""

    def __init__(
        self,
        setup: AgentSetup,
        links: Sequence[Link],
        clients: Clients,
        writing: Writing,
        counts: Counter[str],
    ) -> None:
        self.told: list[Effect] = []
        self.on_client: Callable[[Message], None]
        self.on_stop: Callable[[int, Stop], None]
        self.on_refused: Callable[[int, Error], None]
        self.on_ended: Callable[[RunKey], None]
        self._setup = setup
        self._links = links
        self._clients = clients
        self._writing = writing
        self._counts = counts

    def received(self, link: Link, payload: bytes, now_ms: int) -> None:
        """One message of the link's DEALER: an envelope of answers."""
        try:
            messages = wire.unpack(payload)
        except (Malformed, VersionMismatch):
            self._counts["pipe_garbage"] += 1
            return
        link.heard_ms = now_ms
        for message in messages:
            if message.incarnation == self._setup.incarnation:
                self._to_us(link, message, now_ms)
            elif message.incarnation == NOBODY:  # an error: something that was sent could not be read
                self._counts["pipe_refused"] += 1
            elif message.type in FORWARDED:
                self.on_client(message)
            else:
                self._counts["pipe_unexpected"] += 1

    def connected(self, link: Link, now_ms: int) -> None:
        """The connection stands (again): whoever was spoken to before may be another process now."""
        link.writable = True
        link.greet = True
        link.speak_ms = now_ms
        self._writing.reconnected(link.pipe, now_ms)

    def tick(self, now_ms: int) -> None:
        """Hellos where they are due, heartbeats to those who answered."""
        for link in self._links:
            if now_ms < link.speak_ms:
                continue
            live = link.live(now_ms)
            if link.writable:
                self._speak(link, live)
            link.speak_ms = now_ms + (link.lease_ms // 3 if live and link.writable else limits.HELLO_MS)

    def queue_writes(self, now_ms: int) -> None:
        """What is to be sent now beside the operations of clients: who is gone, and the sidecar's own
        writes."""
        back = tuple(self._clients.back)
        self._clients.back.clear()
        for link in self._links:
            for incarnation in back:
                link.gone.pop(incarnation, None)
            if link.writable and link.pipe:
                self._tell_gone(link)
                if back:  # before their operations, or the pipe takes what they open for a dead client's
                    link.say(self._encode(Heartbeat(back, ()), link.pipe))
                for message in self._writing.outgoing(link.pipe, now_ms):
                    link.say(message)

    def deadline(self) -> int:
        """When there is something to say though nothing happened."""
        writes = [self._writing.deadline(link.pipe) for link in self._links if link.pipe and link.writable]
        return min([*writes, *(link.speak_ms for link in self._links)])

    # ---- one message

    def _to_us(self, link: Link, message: Message, now_ms: int) -> None:
        if message.type in ANSWERS:
            self._answered(link, message, now_ms)
            return
        try:
            value = wire.decode(message)
        except Malformed:
            self._counts["pipe_garbage"] += 1
            return
        if isinstance(value, Welcome):
            self._welcomed(link, value, now_ms)
        elif message.pipe != link.pipe:
            self._counts["pipe_wrong_number"] += 1
        elif isinstance(value, Pong):
            if value.term != link.term:  # another leader, or a restart: what it is may have changed
                link.greet, link.speak_ms = True, now_ms
            link.log_ms = max(link.log_ms, value.log_ms)
            self._writing.told(link.pipe, value.log_ms, None, now_ms)
        elif isinstance(value, Stop):
            self.on_stop(message.pipe, value)
        elif isinstance(value, Notice):
            facts: dict[str, object] = {"session": str(SessionId(link.pipe, value.term, value.index))}
            self.told.append(Told("warning", "an http run is silent, and will be repeated elsewhere", facts))
        else:
            self._counts["pipe_unexpected"] += 1

    def _answered(self, link: Link, message: Message, now_ms: int) -> None:
        try:
            if message.type == MessageType.ERROR and self._hello_refused(link, message):
                return
            done = self._writing.received(link.pipe, message, now_ms)
        except Malformed:
            self._counts["pipe_garbage"] += 1
            return
        for token, error in done:
            if isinstance(token, RunKey):
                self.on_ended(token)
                self.told.append(Ended(token, error))
            else:
                self.told.append(Wrote(token, error))

    def _hello_refused(self, link: Link, message: Message) -> bool:
        """Whether the pipe said that the dial which a hello of ours named is none of its own."""
        error = wire.decode(message)
        if not isinstance(error, Error) or (error.type, error.code) != (MessageType.SIDECAR_HELLO, Code.BAD_REQUEST):
            return False
        self.on_refused(link.pipe, error)
        return True

    def _welcomed(self, link: Link, welcome: Welcome, now_ms: int) -> None:
        before = link.pipe, link.term
        if not link.welcomed(welcome):
            self._counts["pipe_unexpected"] += 1
            return
        self._writing.told(link.pipe, link.log_ms, link.limits, now_ms)
        if (link.pipe, link.term) != before:
            link.speak_ms = now_ms  # it knows none of our clients yet
            self._writing.reconnected(link.pipe, now_ms)
            self.told.append(Told("info", "heard a pipe", {"pipe": link.pipe, "term": link.term}))

    # ---- what is said

    def _speak(self, link: Link, live: bool) -> None:
        if not live or link.greet:
            hello = Hello(PROTOCOL, PROTOCOL, name=f"sidecar {self._setup.name}")
            link.say(self._encode(hello, link.pipe))
            link.greet = False
        if link.pipe:
            alive = tuple(client.incarnation for client in self._clients.all())
            link.say(self._encode(Heartbeat(alive, tuple(link.gone)), link.pipe))
            link.gone = {one: times - 1 for one, times in link.gone.items() if times > 1}

    def _tell_gone(self, link: Link) -> None:
        """At once, without waiting for the next heartbeat: their sessions may be stored now."""
        new = tuple(one for one, times in link.gone.items() if times == limits.GONE_TOLD)
        if new:
            link.say(self._encode(Heartbeat((), new), link.pipe))
            link.gone.update((one, limits.GONE_TOLD - 1) for one in new)

    def _encode(self, value: AnyMessage, pipe: int) -> bytes:
        return wire.encode(value, incarnation=self._setup.incarnation, pipe=pipe)
