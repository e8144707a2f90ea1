"""The audit: from both databases and the client's journal, is the promise kept?

It reads what the services and the client wrote for themselves; of the pipe it takes only the list of live
sessions.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpy6a.demo.journal import Entry, read
from mpy6a.demo.service import EPOCH_MASK

SAID_MAX: Final = 20  # findings of one sort told one by one


@dataclass(frozen=True, slots=True)
class Facts:
    """What the run did, counted in the databases and the journal."""

    users: int  # in A
    indexed: int  # in B
    orphans: int  # in one and not in the other
    done: int  # rows that the client saw through itself
    refused: int  # rows whose nickname was taken
    left: int  # rows left to the pipe by an error
    killed: int  # rows begun and never ended: the client was killed in them
    finished: dict[str, int]  # users finished by a repeat, by handler
    undone: dict[str, int]  # begun sessions of which a repeat found no user, by handler
    repeats: int  # (session, epoch > 1) that reached A
    fenced: dict[str, int]  # requests with an older fence turned away, by service

    @property
    def begun(self) -> int:
        """Rows that the client began: each ended in one of four ways."""
        return self.done + self.refused + self.left + self.killed

    @property
    def recoveries(self) -> int:
        """Sessions that their client did not end and a handler did, one way or the other."""
        return sum(self.finished.values()) + sum(self.undone.values())


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that is off (nothing: the promise was kept), and the facts."""

    findings: tuple[str, ...]
    facts: Facts


def audit(users: Path, search: Path, journal: Path, live: Sequence[str]) -> Audit:
    """Compare A with B and both with the journal; `live` are the ids of sessions that are not finished."""
    entries = read(journal)
    with _open(users) as a, _open(search) as b:
        in_a = dict(a.execute("SELECT id, nickname FROM user"))
        in_b = dict(b.execute("SELECT id, nickname FROM document"))
        words = {row[0] for row in b.execute("SELECT rowid FROM words")}
        findings = [
            *_differ(in_a, in_b, words),
            *_broken_promises(entries, in_a, in_b),
            *_many(f"session {session} is still live" for session in live),
        ]
        finished, undone, repeats = _repeats(a, b)
        fenced = {name: _count(database, "refusal") for name, database in (("A", a), ("B", b))}
    phases = Counter(entry.phase for entry in entries)
    facts = Facts(
        users=len(in_a),
        indexed=len(in_b),
        orphans=len(in_a.keys() ^ in_b.keys()),
        done=phases["done"],
        refused=phases["refused"],
        left=phases["left"],
        killed=phases["started"] - phases["done"] - phases["refused"] - phases["left"],
        finished=finished,
        undone=undone,
        repeats=repeats,
        fenced=fenced,
    )
    return Audit(tuple(findings), facts)


def counts(users: Path, search: Path) -> dict[str, int]:
    """What a progress line shows while the services write; nothing while a database cannot be read."""
    try:
        with _open(users) as a, _open(search) as b:
            finished, undone, _ = _repeats(a, b)
            return {
                "created": _count(a, "user"),
                "indexed": _count(b, "document"),
                "recovered": sum(finished.values()) + sum(undone.values()),
                "fenced": _count(a, "refusal") + _count(b, "refusal"),
            }
    except (sqlite3.OperationalError, FileNotFoundError):
        return {}


def _differ(in_a: dict[int, str], in_b: dict[int, str], words: set[int]) -> Iterator[str]:
    yield from _many(
        f"orphan: user {user} {in_a[user]!r} is in A and not in B" for user in sorted(in_a.keys() - in_b.keys())
    )
    yield from _many(
        f"orphan: user {user} {in_b[user]!r} is in B and not in A" for user in sorted(in_b.keys() - in_a.keys())
    )
    yield from _many(
        f"user {user} is {in_a[user]!r} in A and {in_b[user]!r} in B"
        for user in sorted(in_a.keys() & in_b.keys())
        if in_a[user] != in_b[user]
    )
    yield from _many(f"user {user} is in B but cannot be searched" for user in sorted(in_b.keys() - words))
    yield from _many(f"user {user} can be searched but is not in B" for user in sorted(words - in_b.keys()))


def _broken_promises(entries: list[Entry], in_a: dict[int, str], in_b: dict[int, str]) -> Iterator[str]:
    for name, users in (("A", in_a), ("B", in_b)):
        yield from _many(
            f"line {entry.row}: journaled as done, but user {entry.user} {entry.nickname!r} is not in {name}"
            for entry in entries
            if entry.phase == "done" and users.get(entry.user) != entry.nickname
        )
    begun = Counter(entry.row for entry in entries if entry.phase == "started")
    yield from _many(f"line {row}: begun {times} times" for row, times in begun.items() if times > 1)


def _repeats(a: sqlite3.Connection, b: sqlite3.Connection) -> tuple[dict[str, int], dict[str, int], int]:
    """(users finished by handler, sessions undone by handler, repeats that reached A)."""
    finds = a.execute(
        "SELECT session, fence, answer, agent FROM visit WHERE what = 'find' AND fence & ? > 1 ORDER BY fence",
        (EPOCH_MASK,),
    ).fetchall()
    indexed = b.execute(
        "SELECT session, agent FROM visit WHERE what = 'index' AND answer = 200 AND fence & ? > 1 ORDER BY fence",
        (EPOCH_MASK,),
    ).fetchall()
    finished = dict(indexed)  # of several repeats the last one counts
    undone = {session: agent for session, _, answer, agent in finds if answer == 404 and session not in finished}
    return (
        dict(Counter(_handler(agent) for agent in finished.values())),
        dict(Counter(_handler(agent) for agent in undone.values())),
        len({(session, fence) for session, fence, _, _ in finds}),
    )


def _handler(agent: str) -> str:
    return agent.removeprefix("mpy6a-demo-handler/")


def _count(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _many(findings: Iterator[str]) -> Iterator[str]:
    """The first findings one by one, the rest as a number."""
    told = list(findings)
    yield from told[:SAID_MAX]
    if len(told) > SAID_MAX:
        yield f"... and {len(told) - SAID_MAX} more like it"


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise FileNotFoundError(path)
    with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as database:
        database.execute("PRAGMA query_only = on")
        yield database
