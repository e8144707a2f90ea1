"""One process of the world: it lives, stands still, dies and is started again; between turns it only gathers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from .network import Line

if TYPE_CHECKING:
    from .world import World

NEVER: Final = 1 << 60
TURN_MS: Final = 1  # from the first message to the turn that takes it, and what else has come


class Process:
    """Turns are made when something arrived or a deadline passed. Every process has a clock of its own origin."""

    def __init__(self, world: World, name: str, skew_ms: int) -> None:
        self.world = world
        self.name = name
        self.alive = False
        self.lives = 0
        self.inbox: deque[tuple[Line, bytes, bytes]] = deque()  # line, its identity then, payload
        self._skew_ms = skew_ms
        self._paused_until_ms = 0
        self._turn_ms = NEVER
        self._steady_from_ms = 0

    @property
    def reachable(self) -> bool:
        """Whether a connection to it can be made: a process that stands still accepts none."""
        return self.alive and not self.paused

    @property
    def paused(self) -> bool:
        return self._paused_until_ms > self.world.agenda.now_ms

    def clock(self) -> int:
        """Monotonic ms of this process."""
        return self.world.agenda.now_ms + self._skew_ms

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """A new process."""
        assert not self.alive
        self.alive = True
        self.lives += 1
        self._paused_until_ms = 0
        self._turn_ms = NEVER
        self.inbox.clear()
        self.disturbed()

    def die(self) -> None:
        """As by kill -9."""
        self.alive = False
        self.inbox.clear()

    def pause(self, ms: int) -> None:
        """As by SIGSTOP, or a machine that is too busy: it finds its inbox when it wakes."""
        self._paused_until_ms = max(self._paused_until_ms, self.world.agenda.now_ms + ms)
        self.wake_at(self._paused_until_ms)
        self.disturbed(ms)

    def disturbed(self, ms: int = 0) -> None:
        """From here on it may have missed something, or have been missed, without a fault of the pipe's."""
        self._steady_from_ms = max(self._steady_from_ms, self.world.agenda.now_ms + ms)

    @property
    def steady(self) -> bool:
        """It lives, and for two leases nothing has happened to it and its connections."""
        return self.alive and self._steady_from_ms + 2 * self.world.lease_ms < self.world.agenda.now_ms

    # ------------------------------------------------------------------ turns

    def arrived(self, line: Line, payload: bytes) -> None:
        if self.alive:
            self.inbox.append((line, line.identity, payload))
            self.wake()

    def wake(self) -> None:
        """A turn soon."""
        self.wake_at(self.world.agenda.now_ms + TURN_MS)

    def wake_at(self, when_ms: int) -> None:
        """A turn at that time of the world, or before."""
        when_ms = max(when_ms, self.world.agenda.now_ms)
        if when_ms < self._turn_ms:
            self._turn_ms = when_ms
            self.world.agenda.at(when_ms, self._turn, self.lives, when_ms)

    def _turn(self, life: int, when_ms: int) -> None:
        if life != self.lives or when_ms != self._turn_ms or not self.alive:
            return
        self._turn_ms = NEVER
        if self.paused:
            self.wake_at(self._paused_until_ms)
            return
        self.turn()
        if self.alive:
            self.wake_at(max(self.world.agenda.now_ms + 1, self.deadline() - self._skew_ms))

    def turn(self) -> None:
        """Take what is in the inbox, and do what is due."""
        raise NotImplementedError

    def deadline(self) -> int:
        """When the next turn is due, by its own clock, if nothing arrives."""
        raise NotImplementedError

    # ------------------------------------------------------------------ lines

    def came_up(self, line: Line) -> None:
        """A connection stands."""

    def went_down(self, line: Line) -> None:
        """A connection is gone."""
