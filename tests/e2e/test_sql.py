"""`mpy6a sql` over the checkpoint of a pipe that runs, or has run: what it says, refuses, and leaves as it was."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpy6a.exits import EXIT_CANNOT_START, EXIT_DAMAGED, EXIT_FOUND_BAD, EXIT_USAGE
from mpy6a.model import SessionId
from tests.e2e.filed import FiledLive, store_many
from tests.e2e.live import START_S, Peer, environment
from tests.e2e.test_serve import mpy6a
from tests.ports import FreePorts, short_directory
from tests.processes import Processes

pytestmark = pytest.mark.e2e

SESSIONS = 512
RECORD = b"r" * 4_096  # 2 MiB of log: one checkpoint
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


class Filed:
    """A running pipe with a checkpoint, and the sessions in it."""

    def __init__(self, live: FiledLive, ids: list[SessionId]) -> None:
        self.live, self.ids, self.path = live, ids, live.path


@pytest.fixture(scope="module")
def filed(free_port: FreePorts) -> Iterator[Filed]:
    """One for all tests that only ask."""
    with short_directory() as path, Processes() as processes:
        live = FiledLive(path, free_port, processes)
        live.pipe = live.start_pipe()
        with Peer(live.listen) as owner:
            ids = store_many(owner, SESSIONS, RECORD)
            live.wait_filed(ids[200].index)
            yield Filed(live, ids)


def files_of(path: Path) -> dict[str, int]:
    """Sizes of the checkpoint's files; the shared memory of its readers is no data."""
    return {
        name: (path / name).stat().st_size for name in os.listdir(path) if "checkpoint" in name and name[-4:] != "-shm"
    }


def test_a_select_beside_a_running_pipe(filed: Filed) -> None:
    """Ids as text, kinds and states by name, and as of when; the same with --config and --data, from anywhere."""
    statement = "SELECT id, kind, state, bytes FROM live ORDER BY idx LIMIT 3"
    facts = mpy6a("sql", statement, "--json", at=filed.path).facts
    assert facts["rows"] == [
        {"id": str(id), "kind": "work", "state": "STORED", "bytes": 4_096} for id in filed.ids[:3]
    ]
    as_of = facts["as_of"]
    assert (as_of["pipe"], as_of["term"]) == (1, 1)
    assert filed.ids[200].index < as_of["next_index"] <= filed.live.status()["next_index"]
    assert as_of["log_time"].endswith("Z")
    for place in (["--config", str(filed.path / "pipe.yaml")], ["--data", str(filed.path / "data")]):
        assert mpy6a("sql", statement, "--json", *place, at=Path("/")).facts["rows"] == facts["rows"]
    text = mpy6a("sql", statement, at=filed.path)
    assert text.code == 0, text.err
    lines = text.out.splitlines()
    assert lines[0].split() == ["id", "kind", "state", "bytes"]
    assert lines[1].split() == [str(filed.ids[0]), "work", "STORED", "4096"]
    assert f"as of log index {as_of['next_index'] - 1}, log time {as_of['log_time']}" in lines[-1]
    assert "in the pipe's memory" in lines[-1]


def test_rows_and_values_are_bounded(filed: Filed) -> None:
    """--limit, said where it cut; blobs in hexadecimal with their length."""
    ended = mpy6a("sql", "SELECT idx, records FROM sessions", "--limit", "2", at=filed.path)
    assert "2 rows, and there are more (--limit)" in ended.out
    assert f"x'{'72' * 16}…' (4096 B)" in ended.out
    facts = mpy6a("sql", "SELECT records, records FROM sessions", "--limit", "1", "--json", at=filed.path).facts
    assert facts["more"] is True
    blob = {"hex": "72" * 16, "bytes": 4_096}
    assert facts["rows"] == [{"records": blob, "records_2": blob}]


def test_without_a_statement_tables_and_examples_that_work(filed: Filed, tmp_path: Path) -> None:
    """Also where there is no pipe."""
    listed = mpy6a("sql", at=tmp_path)
    assert listed.code == 0, listed.err
    assert "live: id, kind, state, due" in listed.out
    facts = mpy6a("sql", "--json", at=tmp_path).facts
    assert {"live", "sessions", "checkpoint", "counts", "kinds"} <= set(facts["tables"])
    assert len(facts["examples"]) == 3
    for example in facts["examples"]:
        assert example in listed.out
        assert mpy6a("sql", example, at=filed.path).code == 0


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM sessions", "writing to sessions is refused"),
        ("SELECT 1; DELETE FROM sessions", "one statement at a time: 'DELETE FROM sessions'"),
        ("ATTACH 'other.db' AS other", "ATTACH other.db is refused"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint is refused"),
        ("SELECT foo FROM live", "no such column: foo, near 'foo FROM live'"),
    ],
)
def test_what_does_not_only_read_is_refused(filed: Filed, statement: str, said: str) -> None:
    """One sentence, exit 2, and nothing is touched."""
    before = files_of(filed.path / "data")
    assert said in mpy6a("sql", statement, at=filed.path).refused(EXIT_USAGE)
    assert files_of(filed.path / "data") == before


def test_a_statement_that_runs_too_long_is_ended(filed: Filed) -> None:
    """By its time, with what to do."""
    said = mpy6a("sql", ENDLESS, "--timeout", "0.2", at=filed.path).refused(EXIT_FOUND_BAD)
    assert "stopped after 0.2 s: ask for less" in said


def test_a_table_on_a_terminal(filed: Filed) -> None:
    """Drawn, and no control character of a client's reaches it."""
    statement = "SELECT id, char(27) || '[31m' AS odd FROM live ORDER BY idx LIMIT 1"
    command = f"{sys.executable} -m mpy6a sql {shlex.quote(statement)}"
    said = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=filed.path,
        env=environment(COLUMNS="120", TERM="dumb"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert str(filed.ids[0]) in said
    assert "\\x1b[31m" in said
    assert "\x1b[31m" not in said
    assert "1 row in" in said


def test_readers_beside_a_pipe_do_not_make_its_files_grow(
    short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """Statements that take all their time while checkpoints are written: the journal is emptied all the same."""
    live = FiledLive(short_tmp, free_port, processes)
    live.start_pipe()
    journal = short_tmp / "data" / "checkpoint.db-wal"
    sizes = []
    with Peer(live.listen) as owner:
        ids = store_many(owner, SESSIONS, RECORD)
        live.wait_filed(ids[100].index)
        for number in range(1, 4):
            argv = [sys.executable, "-m", "mpy6a", "sql", f"{ENDLESS}, sessions", "--timeout", "1", "--data", "data"]
            with (short_tmp / "sql.log").open("wb") as log:
                reader = processes.start(argv, cwd=short_tmp, env=environment(), stdout=log, stderr=log)
            before = live.checkpoint()["checkpoints"]
            ids = store_many(owner, SESSIONS, RECORD, first_request=number * SESSIONS + 1)
            assert reader.wait(START_S) == EXIT_FOUND_BAD
            assert "stopped after 1 s" in live.said("sql.log")
            live.wait_filed(ids[100].index)
            assert live.checkpoint()["checkpoints"] > before
            sizes.append(journal.stat().st_size)
    # 8 MiB went through it; what stays is at most what one step of it left while a statement ran.
    assert max(sizes) <= 2 * SESSIONS * len(RECORD), sizes


def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    """No config, no data there."""
    assert "mpy6a init" in mpy6a("sql", "SELECT 1", at=tmp_path).refused(EXIT_USAGE)
    said = mpy6a("sql", "SELECT 1", "--data", "data", at=tmp_path).refused(EXIT_CANNOT_START)
    assert "data/pipe.json: name the directory" in said


def test_after_the_pipe(short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """No checkpoint yet is said; what a killed pipe left answers; a flipped bit is damage, not an answer."""
    live = FiledLive(short_tmp, free_port, processes)
    pipe = live.start_pipe()
    said = mpy6a("sql", "SELECT 1", at=short_tmp).refused(EXIT_FOUND_BAD)
    assert "no checkpoint in" in said
    with Peer(live.listen) as owner:
        ids = store_many(owner, SESSIONS, RECORD)
    live.wait_filed(ids[100].index)
    pipe.kill()
    pipe.wait(START_S)
    facts = mpy6a("sql", "SELECT id FROM live ORDER BY idx LIMIT 1", "--json", at=short_tmp).facts
    assert facts["rows"] == [{"id": str(ids[0])}]
    database = short_tmp / "data" / "checkpoint.db"
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    ended = mpy6a("sql", "SELECT sum(length(hex(records))) FROM sessions", "--json", at=short_tmp)
    assert "checksum" in ended.refused(EXIT_DAMAGED)
    verified = mpy6a("log", "verify", "data", "--json", at=short_tmp)
    assert verified.code == EXIT_DAMAGED
    assert json.loads(verified.out)["checkpoint"]["damage"]
