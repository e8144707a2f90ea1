"""The audit finds every way in which the promise can be broken, and counts what the run did."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpy6a.demo import audit, search, users
from mpy6a.demo.journal import Entry, Journal
from mpy6a.demo.service import SERVICE, Settings

TERM = 3 << 32


@dataclass
class World:
    """Two services' databases and a journal, written by hand."""

    path: Path
    a: sqlite3.Connection
    b: sqlite3.Connection
    journal: Journal

    def user(self, number: int, nickname: str, *, in_a: bool = True, in_b: bool = True) -> None:
        if in_a:
            self.a.execute("INSERT INTO user (id, nickname, data) VALUES (?, ?, '{}')", (number, nickname))
        if in_b:
            self.b.execute("INSERT INTO document VALUES (?, ?, '{}')", (number, nickname))
            self.b.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, nickname))

    def row(self, number: int, nickname: str, *phases: str, user: int = 0) -> None:
        for phase in phases:
            self.journal.write(Entry(number, nickname, phase, user=user))  # type: ignore[arg-type] # test data

    def visit(self, session: str, epoch: int, what: str, answer: int, at: str = "users") -> None:
        database = self.b if what == "index" else self.a
        agent = f"mpy6a-demo-handler/{at}"
        database.execute("INSERT INTO visit VALUES (?, ?, ?, ?, ?)", (session, TERM | epoch, what, answer, agent))

    def audit(self, live: tuple[str, ...] = ()) -> audit.Audit:
        return audit.audit(self.path / "a.db", self.path / "b.db", self.path / "journal", live)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    a = users.app(Settings("users", 0, tmp_path / "a.db"))[SERVICE]
    b = search.app(Settings("search", 0, tmp_path / "b.db"))[SERVICE]
    with closing(a), closing(b), Journal(tmp_path / "journal") as journal:
        made = World(tmp_path, a.connection, b.connection, journal)
        made.user(1, "zoe")
        made.row(2, "zoe", "started", "done", user=1)
        yield made


def test_a_world_in_order_has_no_findings(world: World) -> None:
    """Users of repeats, refused rows and rows cut off by a kill are all in order."""
    world.user(2, "by a repeat")
    world.row(3, "by a repeat", "started")
    world.row(4, "zoe", "started", "refused")
    world.row(5, "undone", "started", "left")
    found = world.audit()
    assert found.findings == ()
    facts = found.facts
    assert (facts.users, facts.indexed, facts.orphans) == (2, 2, 0)
    assert (facts.done, facts.refused, facts.left, facts.killed) == (1, 1, 1, 1)


def test_an_orphan_in_either_service_is_found(world: World) -> None:
    """Whoever created it: a user is in both services or in none."""
    world.user(8, "only A", in_b=False)
    world.user(9, "only B", in_a=False)
    found = world.audit()
    assert found.findings == (
        "orphan: user 8 'only A' is in A and not in B",
        "orphan: user 9 'only B' is in B and not in A",
    )
    assert found.facts.orphans == 2


def test_what_the_client_saw_done_must_be_there(world: World) -> None:
    """Done is a promise, also when both services agree that there is no such user."""
    world.row(7, "lost", "started", "done", user=99)
    world.row(8, "another", "started", "done", user=1)
    findings = world.audit().findings
    assert [finding.split(",")[0] for finding in findings] == ["line 7: journaled as done"] * 1 + [
        "line 8: journaled as done", "line 7: journaled as done", "line 8: journaled as done",
    ]  # fmt: skip


def test_services_that_disagree_on_a_user_are_found(world: World) -> None:
    """The same id with another nickname, and text that is no longer what was indexed."""
    world.a.execute("UPDATE user SET nickname = 'renamed' WHERE id = 1")
    world.b.execute("DELETE FROM words")
    world.b.execute("INSERT INTO words (rowid, text) VALUES (5, 'stray')")
    findings = world.audit().findings
    assert "user 1 is 'renamed' in A and 'zoe' in B" in findings
    assert "user 1 is in B but cannot be searched" in findings
    assert "user 5 can be searched but is not in B" in findings


def test_a_live_session_and_a_row_begun_twice_are_found(world: World) -> None:
    """Nothing may be left over, and the client may not begin again what it left to the pipe."""
    world.row(2, "zoe", "started")
    assert world.audit(("1.3.5 (stored, TIMER)",)).findings == (
        "line 2: begun 2 times",
        "session 1.3.5 (stored, TIMER) is still live",
    )


def test_many_findings_of_a_sort_are_told_as_a_number(world: World) -> None:
    """A broken run is not a thousand lines."""
    for number in range(100, 150):
        world.user(number, str(number), in_b=False)
    findings = world.audit().findings
    assert len(findings) == audit.SAID_MAX + 1
    assert findings[-1] == "... and 30 more like it"


def test_recoveries_are_counted_by_the_handler_that_ended_them(world: World) -> None:
    """Finished: a repeat indexed the user. Undone: a repeat found none. The first epoch is the client's."""
    world.visit("1.3.5", 1, "find", 200)
    world.visit("1.3.5", 1, "index", 200)
    world.visit("1.3.6", 2, "find", 200)
    world.visit("1.3.6", 2, "index", 200)
    world.visit("1.3.6", 3, "find", 200, "search")
    world.visit("1.3.6", 3, "index", 200, "search")
    world.visit("1.3.7", 2, "find", 404, "search")
    world.visit("1.3.8", 2, "find", 200)
    world.a.execute("INSERT INTO refusal VALUES ('1.3.7', ?, 'create', 'x')", (TERM | 1,))
    facts = world.audit().facts
    assert facts.finished == {"search": 1}
    assert facts.undone == {"search": 1}
    assert facts.recoveries == 2
    assert facts.repeats == 4
    assert facts.fenced == {"A": 1, "B": 0}
    counted = audit.counts(world.path / "a.db", world.path / "b.db")
    assert counted == {"created": 1, "indexed": 1, "recovered": 2, "fenced": 1}


def test_progress_before_the_services_are_up_is_empty(tmp_path: Path) -> None:
    """The first progress line comes before the first table."""
    (tmp_path / "a.db").touch()
    assert audit.counts(tmp_path / "a.db", tmp_path / "b.db") == {}
    (tmp_path / "b.db").touch()
    assert audit.counts(tmp_path / "a.db", tmp_path / "b.db") == {}
