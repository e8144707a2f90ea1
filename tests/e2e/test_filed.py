"""What operators do with a pipe whose log was trimmed below a checkpoint: verify, dump, export; running and stopped."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpy6a.exits import EXIT_CANNOT_START, EXIT_FOUND_BAD
from mpy6a.model import Op, SessionId, Verb
from tests.e2e.filed import WAIT_MS, FiledLive, store_many
from tests.e2e.live import START_S, Peer
from tests.e2e.test_serve import Ended, mpy6a
from tests.ports import FreePorts, short_directory
from tests.processes import Processes

pytestmark = pytest.mark.e2e

BIG = [bytes([n]) * (400 << 10) for n in range(4)]  # 1.6 MiB: 13 pages of an export
FILL = 1_000
RECORD = b"r" * 9_000  # 9 MB: the log's first segment of 8 MiB is trimmed


class Trimmed:
    """What became of one pipe: commands asked while it ran, and after it was killed."""

    def __init__(self, live: FiledLive, processes: Processes) -> None:
        self.path = live.path
        pipe = live.start_pipe()
        with Peer(live.listen) as owner:
            self.big = owner.new(1, record=BIG[0])
            of = (self.big.index, self.big.term, 1)
            for seq, record in enumerate(BIG[1:], 1):
                assert owner.batch(Op(Verb.APPEND, *of, seq, record=record), mark=2).results == ()
            assert owner.batch(Op(Verb.STORE, *of, len(BIG), argument=WAIT_MS), mark=2).results == ()
            ids = store_many(owner, FILL, RECORD, first_request=2)
            live.wait_filed(ids[-1].index - 100)
            self.fresh = owner.new(5_000, record=b"after the checkpoint")
        self.running = {"dump": self.ask("log", "dump", "data", "--json"), **self.exports()}
        pipe.kill()
        pipe.wait(START_S)
        self.stopped = {"dump": self.ask("log", "dump", "data", "--json"), **self.exports("--data", "data")}

    def ask(self, *argv: str) -> Ended:
        return mpy6a(*argv, at=self.path)

    def exports(self, *where: str) -> dict[str, Ended]:
        """Of a session that is in the checkpoint, with and without its records, and of one that is not."""
        return {
            "big": self.ask("sessions", "export", str(self.big), "--records", *where),
            "lean": self.ask("sessions", "export", str(self.big), *where),
            "fresh": self.ask("sessions", "export", str(self.fresh), "--records", *where),
            "gone": self.ask("sessions", "export", str(SessionId(1, 1, 999_999)), *where),
        }


@pytest.fixture(scope="module")
def trimmed(free_port: FreePorts) -> Iterator[Trimmed]:
    """One life for all tests of this file."""
    with short_directory() as path, Processes() as processes:
        yield Trimmed(FiledLive(path, free_port, processes), processes)


def records(facts: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(record["base64"]) for record in facts["records"]]


def test_dump_of_a_trimmed_log_begins_where_it_begins(trimmed: Trimmed) -> None:
    """Beside the running pipe too; and says so."""
    for ended in (trimmed.running["dump"], trimmed.stopped["dump"]):
        assert ended.code == 0, ended.err
        first = json.loads(ended.out.splitlines()[0])["index"]
        assert first > trimmed.big.index + len(BIG)
        assert f"the log begins at index {first}: what was before is trimmed" in ended.err
    assert len(trimmed.stopped["dump"].out) >= len(trimmed.running["dump"].out)


def test_verify_looks_at_every_frame_and_every_row(trimmed: Trimmed) -> None:
    """And at how they join; as text and as JSON."""
    facts = trimmed.ask("log", "verify", "data", "--json").facts
    assert (facts["ok"], facts["damage"], facts["checkpoint"]["damage"]) == (True, [], [])
    assert facts["first_index"] <= facts["checkpoint"]["next_index"] <= facts["last_index"] + 1
    assert facts["checkpoint"]["rows"] >= FILL - 200
    text = trimmed.ask("log", "verify", "data")
    up_to, rows = facts["checkpoint"]["next_index"] - 1, facts["checkpoint"]["rows"]
    assert f"checkpoint up to index {up_to}, {rows} sessions" in text.out
    assert text.out.endswith("whole\n")


def test_export_is_one_document_with_everything(trimmed: Trimmed) -> None:
    """Image, why, policy of its kind, release, pipe, term, index, and the records whole, over several pages."""
    for asked, source in ((trimmed.running, "pipe"), (trimmed.stopped, "directory")):
        facts = asked["big"].facts
        assert (facts["export"], facts["as_of"]["source"], facts["as_of"]["pipe"]) == (1, source, 1)
        assert facts["as_of"]["next_index"] > trimmed.fresh.index
        assert facts["session"]["id"] == str(trimmed.big)
        assert facts["session"]["state"] == "stored"
        assert facts["policy"]["kind"]["name"] == "work"
        assert records(facts) == BIG
        assert records(asked["fresh"].facts) == [b"after the checkpoint"]
        lean = asked["lean"].facts
        assert [set(record) for record in lean["records"]] == [{"segment", "offset", "bytes"}] * len(BIG)
    assert trimmed.running["big"].facts["why"]["reason"] == "TIMER"
    assert trimmed.stopped["big"].facts["why"] is None


def test_what_was_running_is_what_is_found_when_it_is_stopped(trimmed: Trimmed) -> None:
    """The same session from the pipe's memory, and from checkpoint and log."""
    for name in ("big", "lean", "fresh"):
        running, stopped = trimmed.running[name].facts, trimmed.stopped[name].facts
        assert running["session"] == stopped["session"]
        assert running["policy"] == stopped["policy"]
        assert running["records"] == stopped["records"]


def test_export_of_what_is_not_there(trimmed: Trimmed, tmp_path: Path) -> None:
    """One sentence; a directory without data too."""
    for asked in (trimmed.running, trimmed.stopped):
        assert "1.1.999999" in asked["gone"].refused(EXIT_FOUND_BAD)
    said = mpy6a("sessions", "export", "1.1.3", "--data", ".", at=tmp_path).refused(EXIT_CANNOT_START)
    assert "pipe.json: name the directory" in said


def test_a_directory_with_a_pipe_on_it_is_asked_through_the_pipe(
    short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """Neither verify nor export --data looks at what moves under them; export over the door does."""
    live = FiledLive(short_tmp, free_port, processes)
    live.start_pipe()
    with Peer(live.listen) as owner:
        id = str(owner.new())
        said = mpy6a("sessions", "export", id, "--data", "data", at=short_tmp).refused(EXIT_CANNOT_START)
        assert "ask that pipe" in said
        facts = mpy6a("sessions", "export", id, "--records", "--admin", live.admin, at=Path("/")).facts
        assert records(facts) == [b"first"]
        assert facts["why"]["reason"] == "OPEN_BY"
