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
        self.console.print(line, markup=False, soft_wrap=True)

    def show(self, at_s: float, counts: dict[str, int]) -> None:
        """The numbers at this moment; plain lines come every two seconds only."""
        if self._screen is not None:
            self._screen.update(_row(at_s, counts))
        elif at_s >= self._next_line_s:
            self._next_line_s = at_s + PLAIN_EVERY_S
            self.say(f"{at_s:5.1f} s  " + "  ".join(f"{name} {counts.get(name, 0):>3}" for name in COLUMNS))


def _row(at_s: float, counts: dict[str, int]) -> Table:
    table = Table(title=f"mpy6a demo, {at_s:.0f} s")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    table.add_row(*(str(counts.get(name, 0)) for name in COLUMNS))
    return table


def report(audit: Audit, hits: list[InFlight], elapsed_s: float, parked: int, again: str) -> str:
    """The audit's table and what it found, as text that looks the same on a terminal and in a file.

    `again` is the command that runs the same schedules of faults and kills once more.
    """
    facts = audit.facts
    ended = f"{facts.done} done, {facts.refused} refused: the nickname is taken"
    table: list[tuple[str, int, str]] = [
        ("rows begun", facts.begun, ended),
        ("  left", facts.left, "by an error of the client's"),
        ("  cut off", facts.killed, "by a kill of the client"),
        ("users in A", facts.users, ""),
        ("users in B", facts.indexed, ""),
        ("orphans", facts.orphans, "in one and not in the other"),
        ("recoveries", facts.recoveries, "sessions that a handler ended for its client"),
        ("  finished", *_by(facts.finished)),
        ("  undone", *_by(facts.undone)),
        ("repeats", facts.repeats, ""),
        ("fences refused", *_by(facts.fenced)),
        ("parked", parked, ""),
        ("kills", len(hits), f"{'rows':>6}{'sessions':>10}{'requests':>10}  in flight" if hits else ""),
        *_kills(hits),
    ]
    wide = max(len(name) for name, _, _ in table)
    told = [f"{name:<{wide}} {number:>6}   {remark}".rstrip() for name, number, remark in table]
    told += [f"{'time':<{wide}} {elapsed_s:>6.1f} s", f"{'again':<{wide}}   {again}"]
    told += [f"OFF: {finding}" for finding in audit.findings]
    told.append("audit: every promise kept" if not audit.findings else "audit: FAILED")
    return "\n".join(told)


def _kills(hits: list[InFlight]) -> list[tuple[str, int, str]]:
    """One line a process: how often it was killed, and what was in flight then, summed."""
    lines: list[tuple[str, int, str]] = []
    for name in PROCESSES:
        mine = [hit for hit in hits if hit.name == name]
        if mine:
            rows, sessions, requests = (
                sum(getattr(hit, what) for hit in mine) for what in ("rows", "sessions", "requests")
            )
            lines.append((f"  {name}", len(mine), f"{rows:>6}{sessions:>10}{requests:>10}"))
    return lines


def _by(counted: dict[str, int]) -> tuple[int, str]:
    """The sum, and what it is made of: 12 and `search 5, users 7`."""
    return sum(counted.values()), ", ".join(f"{name} {number}" for name, number in sorted(counted.items()))
