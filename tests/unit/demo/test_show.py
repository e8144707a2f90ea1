"""The demo tells what happened in plain words that look the same on a terminal and in a file."""

from __future__ import annotations

import io

from rich.console import Console

from mpy6a.demo.audit import Audit, Facts
from mpy6a.demo.show import InFlight, Progress, report

FACTS = Facts(
    users=480,
    indexed=480,
    orphans=0,
    done=430,
    refused=9,
    left=50,
    killed=11,
    finished={"users": 30, "search": 22},
    undone={"users": 9},
    repeats=75,
    fenced={"A": 6, "B": 1},
)
HITS = [InFlight("pipe", 12, 30, 0), InFlight("users", 3, 4, 5), InFlight("pipe", 8, 10, 0)]


def test_the_report_is_a_table_of_facts_and_a_verdict() -> None:
    """Users, orphans, recoveries by handler, repeats, fences, kills by process and what they hit."""
    assert report(Audit((), FACTS), HITS, 48.26, 0).splitlines() == [
        "users       480 in A, 480 in B",
        "orphans     0",
        "rows        430 done, 9 refused (nickname taken), 50 left by an error, 11 cut off by a kill of the client",
        "recoveries  61",
        "  finished  52 (search 22, users 30)",
        "  undone    9 (users 9)",
        "repeats     75",
        "fenced      7 (A 6, B 1)",
        "parked      0",
        "kills       3",
        "  pipe      2, with 20 rows and 40 sessions in flight",
        "  users     1, with 3 rows and 4 sessions in flight, 5 requests in it",
        "time        48.3 s",
        "audit: every promise kept",
    ]


def test_whatever_is_off_stands_above_the_verdict() -> None:
    """A failed audit names each finding."""
    told = report(Audit(("orphan: user 8 'x' is in A and not in B",), FACTS), HITS, 1.0, 0).splitlines()
    assert told[-2:] == ["OFF: orphan: user 8 'x' is in A and not in B", "audit: FAILED"]


def progress(*, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False)
    with Progress(console) as shown:
        for tenth in range(45):
            shown.show(tenth / 10, {"created": tenth, "kills": 1})
        shown.say("[not markup] said")
    return out.getvalue()


def test_piped_progress_is_a_plain_line_every_two_seconds() -> None:
    """A log of a build shows how far it is, without control characters."""
    lines = progress(terminal=False).splitlines()
    assert lines[0] == (
        "  0.0s  created 0  indexed 0  unfinished 0  repeating 0  recovered 0  fenced 0  parked 0  kills 1"
    )
    assert [line.split()[0] for line in lines] == ["0.0s", "2.0s", "4.0s", "[not"]
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_the_numbers_move_in_place() -> None:
    """The same eight numbers, drawn over."""
    shown = progress(terminal=True)
    assert "\x1b[" in shown
    assert "recovered" in shown
    assert "parked" in shown
