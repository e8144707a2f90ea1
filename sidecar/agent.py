"""The sidecar without I/O: takes messages from service, pipes and dials; says what to send, start and stop.

Pure: `now_ms` is an argument. Feed everything that one drain of the sockets brought, then call `pass_on` and `flush`
once: what belongs together leaves in one envelope. A message that is not understood is answered or dropped, and
counted in `counts`; nothing that a peer sends raises. Source: semantics "Pushing", "Two clocks".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mpy6a import wire
from mpy6a.errors import Code, Malformed, VersionMismatch
from mpy6a.messages import Greeting, Push, Stop
from mpy6a.model import Verb
from sidecar.clients import Clients
from sidecar.dialed import Dialed
from sidecar.handing import Handing
from sidecar.letters import Letters
from sidecar.links import Link
from sidecar.service import ServiceSide
from sidecar.upstream import PipeSide
from sidecar.values import AgentSetup, Effect, KindSetup, RunKey, SendPipe
from sidecar.writing import Writing


class Agent:
    """One sidecar's life, from start to drained."""

    def __init__(self, setup: AgentSetup, now_ms: int) -> None:
        self.setup = setup
        self.counts: Counter[str] = Counter()
        self.clients = Clients(setup.incarnation)
        self.links = [Link(number, now_ms) for number in range(setup.links)]
        self._writing = Writing(setup.incarnation)
        self._letters = Letters(setup.incarnation)
        self.handing = Handing(setup.kinds, self.clients, self._writing, self._letters, setup.credit_bytes, self.counts)
        self._service = ServiceSide(setup, self.clients, self.links, self.handing, self._letters, self.counts, now_ms)
        self._pipes = PipeSide(setup, self.links, self.clients, self._writing, self.counts)
        self._dialed = Dialed(setup, self.links, self.handing, self.counts)
        self._pipes.on_client = self._service.forward
        self._pipes.on_stop = self._dialed.stopped
        self._pipes.on_refused = self._dialed.refused
        self._pipes.on_ended = self.handing.answered
        self._sweep_ms = now_ms

    # ---- messages

    def from_service(self, identity: bytes, payload: bytes, now_ms: int, principal: int = 0) -> None:
        """One message of the ROUTER; `principal` is the uid + 1 of the peer's process, 0 if not known."""
        self._service.received(identity, payload, now_ms, principal)

    def from_pipe(self, number: int, payload: bytes, now_ms: int) -> None:
        """One message of the DEALER of link `number`."""
        self._pipes.received(self.links[number], payload, now_ms)

    def from_dial(self, payload: bytes, now_ms: int) -> None:
        """One message of the bound DEALER that the pipes dial; it says itself of which pipe and dial it
        is."""
        try:
            for message in wire.unpack(payload):
                match wire.decode(message):
                    case Greeting() as greeting:
                        self._dialed.greeted(message.pipe, message.incarnation, greeting)
                    case Push() as push:
                        self._dialed.pushed(message.pipe, message.incarnation, push, now_ms)
                    case Stop() as stop:
                        self._dialed.stopped(message.pipe, stop, message.incarnation)
                    case _:
                        self.counts["dial_unexpected"] += 1
        except (Malformed, VersionMismatch):
            self.counts["dial_garbage"] += 1

    # ---- events of the driver

    def connected(self, number: int, now_ms: int) -> None:
        """The link's connection stands (again)."""
        self._pipes.connected(self.links[number], now_ms)
        self._dialed.reconnected()

    def writable(self, number: int) -> None:
        """The link's DEALER takes messages again."""
        self.links[number].writable = True

    def unsent(self, number: int, payload: bytes) -> None:
        """The payload of a SendPipe that would have blocked."""
        self.links[number].unsent(payload)

    def undelivered(self, keys: Iterable[RunKey], now_ms: int) -> None:
        """The runs of a SendService that could not be sent."""
        self.counts["push_undelivered"] += 1
        self.handing.undelivered(keys, now_ms)

    def died(self, identity: bytes, now_ms: int) -> None:
        """The process at the other end of this connection is known dead."""
        for client in self.clients.at(identity):
            self._service.gone(client, died=True, now_ms=now_ms)

    def finished(self, key: RunKey, now_ms: int, verb: Verb | None, retry_after_ms: int = 0, message: str = "") -> None:
        """The http or exec handler of the run ended: FAIL, RELEASE or PARK; None: its own operation decided."""
        self.handing.finished(key, now_ms, verb, retry_after_ms, message)

    def healthy(self, kind: int, is_healthy: bool) -> None:
        """Whether the http handler of the kind is there; without it there is no credit."""
        self.handing.healthy(kind, is_healthy)

    def reload(self, kinds: Iterable[KindSetup], now_ms: int) -> None:
        """These are the sidecar's kinds from now on; what runs goes on. The pipes are asked for theirs again."""
        self.handing.reload(kinds, now_ms)
        for link in self.links:
            link.greet, link.speak_ms = True, min(link.speak_ms, now_ms)

    def retire(self, name: str) -> None:
        """Services of this name get no more runs; what they run they finish."""
        self._service.retire(name)

    def write(
        self,
        key: RunKey,
        verb: Verb,
        token: int,
        now_ms: int,
        record: bytes | None = None,
        argument: int = 0,
    ) -> None:
        """An operation of the http or exec handler of this run, this process being the writer. Its verdict is the
        effect Wrote; raises Refused or Busy where the verdict is known at once."""
        self._writing.write(key, verb, token, now_ms, record, argument)

    def drain(self, now_ms: int) -> None:
        """Intake stops: no credit, what waits is released, services that take runs are told."""
        self._service.drain()
        self.handing.drain(now_ms)

    def release_rest(self, now_ms: int) -> None:
        """The grace is over: what still runs is stopped and released."""
        self.handing.release_rest(now_ms, Code.SHUTTING_DOWN)

    @property
    def running(self) -> int:
        """Runs at handlers now."""
        return self.handing.running

    @property
    def drained(self) -> bool:
        """Nothing is held any more: every ending was answered."""
        return not self.handing.held

    # ---- time

    def deadline(self) -> int:
        """When `tick` or `flush` has something to do though nothing happens."""
        return min(self._sweep_ms, self._pipes.deadline(), self.handing.deadline())

    def tick(self, now_ms: int) -> None:
        """Hellos, heartbeats, clients that fell silent."""
        if now_ms >= self._sweep_ms:
            lease_ms = min(link.lease_ms for link in self.links)
            late_ms = now_ms - self._sweep_ms
            if late_ms > lease_ms // 6:  # this process stood still: what clients said meanwhile is not read yet
                self.clients.excuse(late_ms)
            self._sweep_ms = now_ms + lease_ms // 6
            for client in self.clients.silent(now_ms - lease_ms):
                self._service.gone(client, died=True, now_ms=now_ms)
        self._pipes.tick(now_ms)

    def pass_on(self) -> list[Effect]:
        """What only goes through here, operations and their answers, before anything else is looked at: whoever sent it
        waits. Empty where something has to be said before it; `flush` sends it then."""
        if self.clients.back or not self._dialed.settled:
            return []
        return self._envelopes()

    def flush(self, now_ms: int) -> list[Effect]:
        """Everything to be done for what was taken since the last flush, and what is due by now."""
        self.handing.hand_out(now_ms)
        self._service.tell_changes(now_ms)
        self._dialed.answer()
        self._pipes.queue_writes(now_ms)
        effects: list[Effect] = []
        for side in (self._service, self._pipes, self._dialed, self.handing):
            effects.extend(side.told)
            side.told = []
        effects += self._envelopes()
        return effects

    def _envelopes(self) -> list[Effect]:
        found: list[Effect] = []
        for link in self.links:
            if link.waits:
                found.extend(SendPipe(link.number, envelope) for envelope in link.envelopes())
        found.extend(self._letters.envelopes())
        return found
