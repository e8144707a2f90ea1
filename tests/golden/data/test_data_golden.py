"""Directories that an earlier release wrote are read as they were meant, and lived on in.

Frozen: what is there is never made again (making.py), and what it says (expected.json) is never edited. A directory of
a newer format is refused by its number: tests/unit/log/test_segments.py (pipe.json, segment headers, types of frames),
tests/unit/checkpoint/test_file.py (`user_version`) and test_loading.py (apply level).
"""

from __future__ import annotations

import json
import os
import zipfile
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.joining import inspect
from mpy6a.errors import Code
from mpy6a.files import OsFiles
from mpy6a.log.verify import verify
from mpy6a.model import Op, SessionId, Verb
from tests.crash.lives import Life, tell
from tests.crash.working import POLICY, STATES, USERS, Work
from tests.fakes.core import WALL_MS
from tests.golden.data.making import CONTENT, EXPECTED, GOLDEN, MADE

pytestmark = pytest.mark.parametrize("name", MADE)


def _unpacked(name: str, path: Path) -> Path:
    directory = path / "data"
    with zipfile.ZipFile(GOLDEN / name / CONTENT) as content:
        content.extractall(directory)
    return directory


def _expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / EXPECTED).read_text(encoding="utf-8"))
    return found


def _missing(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where `found` does not say what was expected; it may say more, as a later release does."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            one
            for key, value in expected.items()
            for one in (_missing(value, found[key], f"{where}/{key}") if key in found else [f"{where}/{key}: missing"])
        ]
    return [] if expected == found else [f"{where}: {found!r:.100}, frozen is {expected!r:.100}"]


def _assert_whole(directory: Path) -> None:
    report = verify(OsFiles(), str(directory))
    assert report.damage == []
    assert inspect(OsFiles(), str(directory), report).damage == []


def test_it_holds_what_a_release_can_hold(name: str) -> None:
    """Sessions of every state, more than one term, outcomes, keys, finished epochs: what is frozen is worth it."""
    expected = _expected(name)
    assert {session["state"] for session in expected["sessions"].values()} == STATES
    assert len(expected["terms"]) > 1
    assert expected["keys"]
    assert expected["finished"]
    codes = [code for client in expected["outcomes"].values() for code, _, _ in client.values()]
    assert {0, Code.UNKNOWN_KIND} <= set(codes)


def test_it_is_read_as_it_was_meant(name: str, tmp_path: Path) -> None:
    """Every session with its records, and all else that a pipe knows; nothing is found damaged."""
    directory = _unpacked(name, tmp_path)
    _assert_whole(directory)
    found, expected = tell(directory), _expected(name)
    assert _missing(expected, found) == []
    assert found["sessions"].keys() == expected["sessions"].keys()


def test_it_is_lived_on_in(name: str, tmp_path: Path) -> None:
    """Requests get the answers they got, sessions take what their writers send next; checkpointed, closed, opened."""
    directory, expected = _unpacked(name, tmp_path), _expected(name)
    life = Life(directory, os.urandom, POLICY, now_ms=1_000, wall_ms=WALL_MS + 120_000)
    for client, outcomes in expected["outcomes"].items():
        for request, (code, index, term) in outcomes.items():
            kind = USERS.id if not code else 99
            ack = life.batch(bytes.fromhex(client), [Op(Verb.NEW, int(request), argument=kind)])
            [result] = ack.results
            assert (result.code, result.index, result.term) == (code, index, term)
    before = {id: session for id, session in expected["sessions"].items() if session["state"] == "open"}
    for text, session in before.items():
        id = SessionId.parse(text)
        op = Op(Verb.APPEND, id.index, id.term, session["epoch"], session["seq"] + 1, record=b"and on")
        assert not life.batch(bytes.fromhex(session["writer"]), [op]).results
    for text, session in expected["sessions"].items():
        life_session = life.session(SessionId.parse(text))
        assert life_session is not None
        data = life.state.sessions.records(life_session, life.log.read)
        assert len(data) == len(session["data"]) + (text in before)
    work = Work(life, Random(3), first_request=1_000_000)
    work.do(30)
    life.checkpoint(trim=True)
    work.do(30)
    life.close()

    _assert_whole(directory)
    found = tell(directory)
    assert found["term"] == expected["term"] + 1
    kept = [id for id in before if id in found["sessions"]]
    assert kept
    for id in kept:
        assert found["sessions"][id]["data"][: len(before[id]["data"])] == before[id]["data"]
    with closing(CheckpointFile.open(str(directory))) as file:
        header = file.header()
        assert header is not None
        assert header.next_index > expected["next_index"]
