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
    assert report(Audit((), FACTS), HITS, 48.26, 0, "mpy6a demo --seed 7").splitlines() == [
        "rows begun        500   430 done, 9 refused: the nickname is taken",
        "  left             50   by an error of the client's",
        "  cut off          11   by a kill of the client",
        "users in A        480",
        "users in B        480",
        "orphans             0   in one and not in the other",
        "recoveries         61   sessions that a handler ended for its client",
        "  finished         52   search 22, users 30",
        "  undone            9   users 9",
        "repeats            75",
        "fences refused      7   A 6, B 1",
        "parked              0",
        "kills               3     rows  sessions  requests  in flight",
        "  pipe              2       20        40         0",
        "  users             1        3         4         5",
        "time             48.3 s",
        "again            mpy6a demo --seed 7",
        "audit: every promise kept",
    ]


def test_whatever_is_off_stands_above_the_verdict() -> None:
    """A failed audit names each finding."""
    told = report(Audit(("orphan: user 8 'x' is in A and not in B",), FACTS), HITS, 1.0, 0, "").splitlines()
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
        "  0.0 s  created   0  indexed   0  unfinished   0  repeating   0"
        "  recovered   0  fenced   0  parked   0  kills   1"
    )
    assert [line.split()[0] for line in lines] == ["0.0", "2.0", "4.0", "[not"]
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_the_numbers_move_in_place() -> None:
    """The same eight numbers, drawn over."""
    shown = progress(terminal=True)
    assert "\x1b[" in shown
    assert "recovered" in shown
    assert "parked" in shown
