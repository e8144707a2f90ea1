"""What the sidecar says to its own service: the conversation with each client of the library.

Pure. Hello, heartbeat, serve and outcomes are answered here; operations are queued for their pipe without a
look into their bodies. Whatever a client sends gets an answer or is counted; it never raises.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from mpy6a import limits, wire
from mpy6a.errors import Code, Malformed, VersionMismatch
from mpy6a.messages import Error, Hello, Message, MessageType, Outcomes, Pong, Serve, Welcome
from mpy6a.model import NOBODY
from sidecar.clients import Client, Clients
from sidecar.handing import Handing
from sidecar.letters import Letters
from sidecar.links import Link, link_to
from sidecar.values import AgentSetup, Effect, Told
from sidecar.welcomes import PROTOCOL, Welcomes

RETIRED_MAX = 64  # names of processes that a reload has replaced; the last ones may still run


class ServiceSide:
    """Everything behind the sidecar's ROUTER."""

    def __init__(
        self,
        setup: AgentSetup,
        clients: Clients,
        links: Sequence[Link],
        handing: Handing,
        letters: Letters,
        counts: Counter[str],
        now_ms: int,
    ) -> None:
        self.told: list[Effect] = []
        self._setup = setup
        self._clients = clients
        self._links = links
        self._handing = handing
        self._letters = letters
        self._counts = counts
        self._welcomes = Welcomes(links, now_ms)
        self._retired: deque[str] = deque(maxlen=RETIRED_MAX)

    def received(self, identity: bytes, payload: bytes, now_ms: int, principal: int) -> None:
        """One message of one connection: an envelope of packed messages."""
        try:
            if len(payload) > limits.ENVELOPE_BYTES_MAX:
                raise Malformed(f"an envelope is at most {limits.ENVELOPE_BYTES_MAX} bytes")
            messages = wire.unpack(payload)
        except (Malformed, VersionMismatch) as error:
            self._counts["service_garbage"] += 1
            self._refuse(identity, self._someone_at(identity), error.code, str(error))
            return
        for message in messages:
            self._heard(identity, message, now_ms, principal)

    def forward(self, message: Message) -> None:
        """A pipe's answer to one of the clients."""
        client = self._clients.get(message.incarnation)
        if client is None:
            self._counts["answer_without_client"] += 1
            return
        packed = wire.pack(message.type, message.body, incarnation=message.incarnation, pipe=message.pipe)
        self._letters.to(client.identity, packed)

    def gone(self, client: Client, *, died: bool, now_ms: int) -> None:
        """The client is no more: its runs end, the pipes are told."""
        self._clients.serve(client, client.serves, 0)
        self._handing.left(client, died=died, now_ms=now_ms)
        self._clients.forget(client)
        for link in self._links:
            link.tell_gone(client.incarnation)
        if died:
            self.told.append(Told("warning", "a client is gone without a goodbye", {"name": client.name}))

    def retire(self, name: str) -> None:
        """Clients of this name get no more runs; what they run they finish."""
        self._retired.append(name)
        for client in self._clients.named(name):
            self._handing.serve(client, client.serves, 0)

    def drain(self) -> None:
        """Tells the services that serve kinds that no more will come."""
        for client in self._clients.all():
            if client.serves:
                self._stopping(client)
                self._clients.serve(client, client.serves, 0)

    def tell_changes(self, now_ms: int) -> None:
        """A new welcome to everybody, if what the last one said no longer holds."""
        if self._welcomes.changed(self._links, now_ms):
            for client in self._clients.all():
                if client.greeted:
                    self._letters.send(client, self._welcome(client.hop, now_ms))

    # ---- one message

    def _heard(self, identity: bytes, message: Message, now_ms: int, principal: int) -> None:
        if message.incarnation in (self._setup.incarnation, NOBODY):
            self._counts["service_unexpected"] += 1
            return
        beats = message.type == MessageType.HEARTBEAT
        client = self._clients.heard(message.incarnation, identity, principal, now_ms, beats=beats)
        if client is None:
            self._counts["service_late_beat" if beats else "service_too_many"] += 1
            left = self._clients.left(message.incarnation)
            if beats and left is not None:  # if it stood still and lives, it announces itself anew
                welcome = self._welcome(left.hop, now_ms)
                self._letters.to(left.identity, wire.encode(welcome, incarnation=message.incarnation))
            elif not beats:
                self._refuse(identity, message.incarnation, Code.BUSY, "too many clients here", message.type)
        elif message.type == MessageType.GOODBYE:
            self.gone(client, died=False, now_ms=now_ms)
        elif beats:
            self._pong(identity, client)
        else:
            if message.type == MessageType.BATCH:
                self._batch(client, message)
            else:
                self._converse(client, message, now_ms)
            if not client.greeted:
                # Its connection came back by itself: it learns that this is another sidecar process.
                client.greeted = True
                self._letters.send(client, self._welcome(client.hop, now_ms))

    def _batch(self, client: Client, message: Message) -> None:
        link = link_to(self._links, message.pipe)
        if link is None:
            self._counts["no_pipe"] += 1
            which = f"pipe {message.pipe}" if message.pipe else "its pipe"
            self._error(client, message.type, Code.NO_PIPE, f"the sidecar has not heard {which}", message.pipe)
            return
        packed = wire.pack(
            message.type,
            message.body,
            incarnation=message.incarnation,
            pipe=link.pipe,
            principal=client.principal,
        )
        if not link.wait(packed, client):
            self._counts["busy"] += 1
            self._error(client, message.type, Code.BUSY, "too much waits for the pipe at the sidecar", link.pipe)

    def _converse(self, client: Client, message: Message, now_ms: int) -> None:
        try:
            value = wire.decode(message)
        except Malformed as error:
            self._counts["service_garbage"] += 1
            self._error(client, message.type, Code.MALFORMED, str(error))
            return
        match value:
            case Hello():
                self._hello(client, value, now_ms)
            case Serve():
                self._serve(client, value)
            case Outcomes():
                pipe = link_to(self._links, message.pipe)
                for ending in value.endings:
                    number = pipe.pipe if pipe is not None else message.pipe
                    self._handing.outcome(client, number, ending, now_ms)
            case _ if message.type == MessageType.ADMIN_REQUEST:
                self._counts["service_unexpected"] += 1
                why = "operators' verbs are answered on the pipe's admin door"
                self._error(client, message.type, Code.NOT_ADMIN, why)
            case _:
                self._counts["service_unexpected"] += 1
                self._error(client, message.type, Code.MALFORMED, "a sidecar takes no such message")

    def _hello(self, client: Client, hello: Hello, now_ms: int) -> None:
        client.greeted = True
        if hello.version_low <= PROTOCOL <= hello.version_high:
            client.name = hello.name
            self._letters.send(client, self._welcome(client.hop, now_ms))
        else:
            self._counts["service_version"] += 1
            why = f"this sidecar speaks version {PROTOCOL} of the protocol"
            self._error(client, MessageType.HELLO, Code.VERSION, why)

    def _pong(self, identity: bytes, client: Client) -> None:
        """The log time of every pipe heard: a pong for each, since each has a log of its own."""
        for link in [link for link in self._links if link.pipe] or self._links[:1]:
            pong = Pong(link.log_ms, link.term)
            self._letters.to(identity, wire.encode(pong, incarnation=client.incarnation, pipe=link.pipe))

    def _serve(self, client: Client, serve: Serve) -> None:
        taken = frozenset(kind for kind in serve.kinds if self._handing.serves(kind))
        refused = ", ".join(map(str, sorted(set(serve.kinds) - taken)[:8]))
        if refused:
            why = (
                f"the routes do not let a service serve kind {refused} at sidecar {self._setup.name!r}:"
                " list the sidecar there, with handler: {attached: true}"
            )
            self._error(client, MessageType.SERVE, Code.UNKNOWN_KIND, why)
        if self._handing.draining:
            self._stopping(client)
        concurrency = 0 if client.name in self._retired else min(serve.concurrency, limits.CONCURRENCY_MAX)
        self._handing.serve(client, taken, concurrency)

    def _stopping(self, client: Client) -> None:
        self._error(client, MessageType.SERVE, Code.SHUTTING_DOWN, "the sidecar is stopping")

    def _welcome(self, hop: bytes, now_ms: int) -> Welcome:
        return self._welcomes.now(hop, self._links, now_ms)

    def _error(self, client: Client, type: int, code: Code, why: str, pipe: int = 0) -> None:
        retry_ms = limits.HELLO_MS if code in (Code.BUSY, Code.NO_PIPE) else 0
        why = why[: limits.TEXT_BYTES_MAX]
        self._letters.send(client, Error(code, why, type, retry_after_ms=retry_ms), pipe)

    def _refuse(self, identity: bytes, incarnation: bytes, code: int | None, why: str, type: int = 0) -> None:
        error = Error(code or Code.MALFORMED, why[: limits.TEXT_BYTES_MAX], type)
        self._letters.to(identity, wire.encode(error, incarnation=incarnation))

    def _someone_at(self, identity: bytes) -> bytes:
        """Who an error is for when the message could not be read: the connection's client, if it is known."""
        there = self._clients.at(identity)
        return there[0].incarnation if there else NOBODY
