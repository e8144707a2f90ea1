"""Connections as ZeroMQ makes them, and what a bad network does to them.

Within one connection order holds and nothing is lost; a cut loses a suffix of what is under way in each direction. The
dialing side may queue while nobody is there: that goes to whoever answers next, be it another process. In the harsh
mode single batches and acks are lost, doubled and delayed on top: the protocol promises to survive that too.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from typing import Final, Protocol

from mpy6a.wire import unpack

from .agenda import Agenda

_BATCH: Final = 3
_ACK: Final = 4
_TYPE_AT: Final = 35  # of a packed message's header
_QUEUED_MAX: Final = 256


class End(Protocol):
    """A process at an end of a line."""

    @property
    def reachable(self) -> bool:
        """Whether something listens there now."""
        ...

    def arrived(self, line: Line, payload: bytes) -> None: ...
    def came_up(self, line: Line) -> None: ...
    def went_down(self, line: Line) -> None: ...


class Network:
    """All lines, and the weather over them."""

    def __init__(self, agenda: Agenda, chance: Random) -> None:
        self.agenda = agenda
        self.chance = chance
        self.latency_ms = 2
        self.harsh = 0.0  # how often a single batch or ack meets something
        self.fair = False  # nothing bad happens any more
        self.faults: Counter[str] = Counter()
        self.lines: list[Line] = []

    def trouble(self, payload: bytes) -> bool:
        """Whether the harsh mode takes hold of this message."""
        return (
            self.harsh > 0
            and len(payload) > _TYPE_AT
            and payload[_TYPE_AT] in (_BATCH, _ACK)
            and self.chance.random() < self.harsh
            and all(message.type in (_BATCH, _ACK) for message in unpack(payload))  # a push may ride behind an ack
        )


class Line:
    """One connection, broken and made again: `near` dials, `far` is bound. `identity` is new each time."""

    def __init__(self, network: Network, name: str, near: End, far: End, *, queues: bool) -> None:
        self.network = network
        self.name = name
        self.near = near
        self.far = far
        self.up = False
        self.identity = b""
        self.principal = 1_001  # uid of the dialing process + 1, as the kernel would tell it
        self.open = True
        self._queues = queues
        self._made = 0
        self._dialing = False
        self._under_way: tuple[deque[tuple[int, bytes]], deque[tuple[int, bytes]]] = (deque(), deque())
        self._last_ms = [0, 0]
        self._waiting: deque[bytes] = deque()
        network.lines.append(self)

    # ------------------------------------------------------------------ being there

    def dial(self, wait_ms: int = 0) -> None:
        """Try to connect, until it works."""
        if self.up or self._dialing or not self.open:
            return
        self._dialing = True
        self.network.agenda.at(self.network.agenda.now_ms + wait_ms, self._try)

    def _try(self) -> None:
        self._dialing = False
        if self.up or not self.open:
            return
        if not (self.near.reachable and self.far.reachable):
            if self.near.reachable:
                self.dial(50 + self.network.chance.randrange(200))
            return
        self._made += 1
        self.up = True
        self.identity = b"\0%d/%s" % (self._made, self.name.encode())
        self.near.came_up(self)
        self.far.came_up(self)
        waiting, self._waiting = self._waiting, deque()
        for payload in waiting:
            self.network.faults["next incarnation"] += 1
            self.send(self.near, payload)

    def cut(self, *, wait_ms: int = 20) -> None:
        """The connection breaks: a suffix of what is under way is lost, or (the dialing side's) kept for the next."""
        if not self.up:
            return
        chance = self.network.chance
        self.up = False
        for side in (0, 1):
            under_way = self._under_way[side]
            there = self._receiver(side).reachable
            arrive = chance.randrange(len(under_way) + 1) if under_way and there else 0
            for _ in range(arrive):
                self._receiver(side).arrived(self, under_way.popleft()[1])
            if side == 0 and self._queues and under_way and chance.random() < 0.7:
                keep = chance.randrange(len(under_way) + 1)
                self._waiting.extend(payload for _, payload in list(under_way)[len(under_way) - keep :])
            if under_way:
                self.network.faults["lost by a cut"] += len(under_way)
            under_way.clear()
        self.near.went_down(self)
        self.far.went_down(self)
        self.dial(wait_ms)

    def close(self) -> None:
        """The dialing process is gone for good: what was sent may still arrive."""
        for _, payload in self._under_way[0]:
            self.far.arrived(self, payload)
        self._under_way[0].clear()
        self._under_way[1].clear()
        if self.up:
            self.up = False
            self.far.went_down(self)
        self.open = False
        self.network.lines.remove(self)

    # ------------------------------------------------------------------ messages

    def send(self, sender: End, payload: bytes) -> bool:
        """Send; False where nobody is connected and nothing is queued. Nothing that was taken counts as sent."""
        side = 0 if sender is self.near else 1
        if not self.up:
            if side == 0 and self._queues and len(self._waiting) < _QUEUED_MAX:
                self._waiting.append(payload)
                return True
            return False
        network = self.network
        now_ms = network.agenda.now_ms
        if network.harsh and network.trouble(payload):
            self._harsh(side, payload)
            return True
        at_ms = max(self._last_ms[side], now_ms + network.chance.randrange(network.latency_ms + 1))
        self._last_ms[side] = at_ms
        self._under_way[side].append((at_ms, payload))
        network.agenda.at(at_ms, self._arrive, side)
        return True

    def _harsh(self, side: int, payload: bytes) -> None:
        network = self.network
        chance, now_ms = network.chance, network.agenda.now_ms
        what = chance.randrange(4)
        if what == 0:
            network.faults["lost"] += 1
            return
        network.faults[("", "doubled", "delayed", "reordered")[what]] += 1
        late_ms = chance.choice((5, 50, 2_500)) if what == 2 else chance.randrange(8)
        network.agenda.at(now_ms + late_ms, self._stray, side, payload)
        if what == 1:
            network.agenda.at(now_ms + chance.choice((1, 30, 3_000)), self._stray, side, payload)

    def _stray(self, side: int, payload: bytes) -> None:
        receiver = self._receiver(side)
        if self.open and receiver.reachable:
            receiver.arrived(self, payload)

    def _arrive(self, side: int) -> None:
        under_way = self._under_way[side]
        if under_way and under_way[0][0] <= self.network.agenda.now_ms:
            self._receiver(side).arrived(self, under_way.popleft()[1])

    def _receiver(self, side: int) -> End:
        return self.far if side == 0 else self.near
