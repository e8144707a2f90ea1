"""The machine's files as the pipe meets them: work beside the loop goes on by itself, and is cut off by a kill."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.fakes.files import FakeFiles, PowerCut

from .agenda import Agenda


class Machine(FakeFiles):
    """As `FakeFiles`; a trim's renames happen some time after it was begun."""

    def __init__(self, chance: Random, agenda: Agenda, power_lost: Callable[[], None]) -> None:
        super().__init__(chance)
        self.calm = False
        self._agenda = agenda
        self._power_lost = power_lost

    def aside(self, work: Callable[[], None]) -> Any:  # a `mpy6a.files.Aside`, other than that of the fake
        return LateAside(self, work, 0 if self.calm else self.rng.choice((0, 0, 20, 900)))

    def later(self, wait_ms: int, call: Callable[[], None]) -> None:
        """Have a call made."""
        self._agenda.at(self._agenda.now_ms + wait_ms, call)

    def lose_power(self) -> None:
        """In the middle of it."""
        self._power_lost()


class LateAside:
    """Work of a thread: done later, or when somebody waits for it; never, once its process is gone."""

    def __init__(self, files: Machine, work: Callable[[], None], wait_ms: int) -> None:
        self.done = False
        self._files = files
        self._work = work
        self._process = files.process
        self._failure: OSError | None = None
        if wait_ms:
            files.later(wait_ms, self._by_itself)
        else:
            self._do()

    def result(self) -> None:
        """Wait for it."""
        self._do()
        if self._failure is not None:
            raise self._failure

    def _by_itself(self) -> None:
        try:
            self._do()
        except PowerCut:
            self._files.lose_power()

    def _do(self) -> None:
        if self.done or self._process != self._files.process:
            return
        self.done = True
        try:
            self._work()
        except OSError as failure:
            self._failure = failure
