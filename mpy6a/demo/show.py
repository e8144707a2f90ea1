"""What the demo shows: live progress on a terminal, plain lines when piped, the audit's table at the end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from mpy6a.demo.audit import Audit
from mpy6a.demo.kills import PROCESSES

PLAIN_EVERY_S: Final = 2.0  # a line of progress, when piped
COLUMNS: Final = ("created", "indexed", "unfinished", "repeating", "recovered", "fenced", "parked", "kills")


@dataclass(frozen=True, slots=True)
class InFlight:
    """What one SIGKILL hit: rows begun and not ended, sessions live, requests the killed service was at."""

    name: str
    rows: int
    sessions: int
    requests: int


@dataclass(slots=True)
class Progress:
    """Shows the eight numbers as they move. A context manager."""

    console: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False, soft_wrap=True))
    _screen: Screen | None = None
    _next_line_s: float = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._screen = Screen(console=self.console, refresh_per_second=4, transient=True)
            self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.stop()

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, markup=False)

    def show(self, at_s: float, counts: dict[str, int]) -> None:
        """The numbers at this moment; plain lines come every two seconds only."""
        if self._screen is not None:
            self._screen.update(_row(at_s, counts))
        elif at_s >= self._next_line_s:
            self._next_line_s = at_s + PLAIN_EVERY_S
            self.say(f"{at_s:5.1f}s  " + "  ".join(f"{name} {counts.get(name, 0)}" for name in COLUMNS))


def _row(at_s: float, counts: dict[str, int]) -> Table:
    table = Table(title=f"mpy6a demo, {at_s:.0f} s")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    table.add_row(*(str(counts.get(name, 0)) for name in COLUMNS))
    return table


def report(audit: Audit, hits: list[InFlight], elapsed_s: float, parked: int) -> str:
    """The audit's table and what it found, as text that looks the same on a terminal and in a file."""
    facts = audit.facts
    ended = (
        f"{facts.done} done, {facts.refused} refused (nickname taken), {facts.left} left by an error, "
        f"{facts.killed} cut off by a kill of the client"
    )
    lines = [
        ("users", f"{facts.users} in A, {facts.indexed} in B"),
        ("orphans", str(facts.orphans)),
        ("rows", ended),
        ("recoveries", str(facts.recoveries)),
        ("  finished", _by(facts.finished)),
        ("  undone", _by(facts.undone)),
        ("repeats", str(facts.repeats)),
        ("fenced", _by(facts.fenced)),
        ("parked", str(parked)),
        ("kills", str(len(hits))),
        *_kills(hits),
        ("time", f"{elapsed_s:.1f} s"),
    ]
    wide = max(len(name) for name, _ in lines)
    told = [f"{name:<{wide}}  {value}" for name, value in lines]
    told += [f"OFF: {finding}" for finding in audit.findings]
    told.append("audit: every promise kept" if not audit.findings else "audit: FAILED")
    return "\n".join(told)


def _kills(hits: list[InFlight]) -> list[tuple[str, str]]:
    """One line a process: how often it was killed, and what was in flight then, summed."""
    lines: list[tuple[str, str]] = []
    for name in PROCESSES:
        mine = [hit for hit in hits if hit.name == name]
        if not mine:
            continue
        rows, sessions, requests = (
            sum(getattr(hit, what) for hit in mine) for what in ("rows", "sessions", "requests")
        )
        said = f"{len(mine)}, with {rows} rows and {sessions} sessions in flight"
        lines.append((f"  {name}", said + (f", {requests} requests in it" if requests else "")))
    return lines


def _by(counted: dict[str, int]) -> str:
    """12 (users 7, search 5)"""
    parts = ", ".join(f"{name} {number}" for name, number in sorted(counted.items()))
    return f"{sum(counted.values())}" + (f" ({parts})" if parts else "")
