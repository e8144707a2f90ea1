"""Who of the service is connected: incarnations, where their answers go, when they were last heard.

Pure. A client is one incarnation of the client library; it has the ZeroMQ identity of its newest connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mpy6a import limits
from sidecar.values import RunKey


@dataclass(slots=True)
class Client:
    """One incarnation; `concurrency` above 0: an attached service, `running` are the runs it was handed. `hop` is what
    welcomes to it say: another one after it was given up, so that it says again what it serves."""

    incarnation: bytes
    identity: bytes
    heard_ms: int
    hop: bytes
    principal: int = 0
    name: str = ""
    greeted: bool = False
    serves: frozenset[int] = frozenset()
    concurrency: int = 0
    running: set[RunKey] = field(default_factory=set)
    pushes: int = 0  # handed over so far: their numbers on this connection
    waiting_bytes: int = 0  # of its operations that wait for a pipe

    def free(self) -> int:
        """How many more runs it takes now."""
        return max(0, self.concurrency - len(self.running))


@dataclass(frozen=True, slots=True)
class Left:
    """Who is gone: where it spoke last, and what its next welcome will say."""

    identity: bytes
    hop: bytes


class Clients:
    """The clients heard, by incarnation; at most `limits.CLIENTS_MAX`."""

    __slots__ = ("_by_identity", "_by_incarnation", "_hop", "_left", "_servers", "_taken_in", "back")

    def __init__(self, hop: bytes) -> None:
        self._hop = hop
        self._taken_in = 0
        self._by_incarnation: dict[bytes, Client] = {}
        self._by_identity: dict[bytes, set[bytes]] = {}
        self._servers: dict[int, dict[bytes, Client]] = {}
        self.back: list[bytes] = []  # told gone, and heard again: the pipes have to hear it before what they say
        self._left: dict[bytes, Left] = {}  # who is gone: a heartbeat that was on its way revives nobody

    def __len__(self) -> int:
        return len(self._by_incarnation)

    def get(self, incarnation: bytes) -> Client | None:
        return self._by_incarnation.get(incarnation)

    def all(self) -> list[Client]:
        return list(self._by_incarnation.values())

    def left(self, incarnation: bytes) -> Left | None:
        """Of one that is gone, if that is not too long ago."""
        return self._left.get(incarnation)

    def at(self, identity: bytes) -> list[Client]:
        """The clients of one connection."""
        return [self._by_incarnation[one] for one in self._by_identity.get(identity, ())]

    def heard(
        self, incarnation: bytes, identity: bytes, principal: int, now_ms: int, *, beats: bool = False
    ) -> Client | None:
        """The client, known from now on; None when there are too many, or one beats that is gone. Answers go
        where it spoke last; a heartbeat only renews it, since the library beats from a connection of its
        own."""
        client = self._by_incarnation.get(incarnation)
        if client is None:
            if beats and incarnation in self._left:
                return None
            if len(self._by_incarnation) >= limits.CLIENTS_MAX or not self._has_room(identity):
                return None
            left = self._left.pop(incarnation, None)
            if left is not None:
                self.back.append(incarnation)
            hop = left.hop if left is not None else self._next_hop()
            client = self._by_incarnation[incarnation] = Client(incarnation, identity, now_ms, hop, principal)
            self._by_identity.setdefault(identity, set()).add(incarnation)
        elif client.identity != identity and not beats:
            if not self._has_room(identity):
                return None
            self._leave(client)
            client.identity = identity
            client.principal = principal
            client.greeted = False
            self._by_identity.setdefault(identity, set()).add(incarnation)
        client.heard_ms = now_ms
        return client

    def serve(self, client: Client, kinds: frozenset[int], concurrency: int) -> None:
        """From now on this client takes runs of these kinds, up to `concurrency` at a time in all; 0: no
        more."""
        for kind in client.serves:
            self._servers[kind].pop(client.incarnation, None)
        client.serves, client.concurrency = kinds, concurrency
        for kind in kinds:
            self._servers.setdefault(kind, {})[client.incarnation] = client

    def least_busy(self, kind: int) -> Client | None:
        """Who takes the next run of the kind; None: nobody has room."""
        found, least = None, 0
        for client in self._servers.get(kind, {}).values():  # a plain loop: it is asked for every run
            running = len(client.running)
            if running < client.concurrency and (found is None or running < least):
                found, least = client, running
        return found

    def free(self, kind: int) -> int:
        """Runs of the kind that the services connected would take now."""
        return sum(client.free() for client in self._servers.get(kind, {}).values())

    def named(self, name: str) -> list[Client]:
        """Clients that call themselves so."""
        return [client for client in self._by_incarnation.values() if client.name == name]

    def served(self, kind: int) -> bool:
        """Is there a service that takes this kind, busy or not?"""
        return any(client.concurrency > 0 for client in self._servers.get(kind, {}).values())

    def forget(self, client: Client) -> None:
        self.serve(client, frozenset(), 0)
        self._leave(client)
        self._by_incarnation.pop(client.incarnation, None)
        self._left[client.incarnation] = Left(client.identity, self._next_hop())
        if len(self._left) > limits.CLIENTS_MAX:
            del self._left[next(iter(self._left))]

    def excuse(self, late_ms: int) -> None:
        """For so long nobody could be heard."""
        for client in self._by_incarnation.values():
            client.heard_ms += late_ms

    def silent(self, since_ms: int) -> list[Client]:
        """Those not heard after `since_ms`."""
        return [client for client in self._by_incarnation.values() if client.heard_ms <= since_ms]

    def _next_hop(self) -> bytes:
        self._taken_in += 1
        return self._hop[:8] + self._taken_in.to_bytes(8, "big")

    def _has_room(self, identity: bytes) -> bool:
        """One connection cannot use up the room for all."""
        return len(self._by_identity.get(identity, ())) < limits.CONNECTION_CLIENTS_MAX

    def _leave(self, client: Client) -> None:
        there = self._by_identity.get(client.identity)
        if there is not None:
            there.discard(client.incarnation)
            if not there:
                del self._by_identity[client.identity]
