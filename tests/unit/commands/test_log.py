"""`mpy6a log verify` and `mpy6a log dump`: facts on stdout, the exit code says the finding."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from mpy6a.commands.log import describe_frame, log_commands
from mpy6a.framing import Frame
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import DIRECTORY, fake_log, fill, frame, path_of


@pytest.fixture
def files() -> FakeFiles:
    files = FakeFiles()
    log = fake_log(files)
    fill(log, [b"one", b"two"])
    log.append([frame(3, b"three of them", count=3, verdicts=bytes.fromhex("0200000009000000"))])
    log.close()
    return files


def run(files: FakeFiles, *arguments: str) -> Result:
    return CliRunner().invoke(log_commands(files=files), list(arguments))


def test_verify_tells_what_is_there(files: FakeFiles) -> None:
    """Exit 0 for a whole log; no bar where there is no terminal."""
    result = run(files, "verify", DIRECTORY)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "pipe 1, log " in result.stdout
    assert "1 segments, 3 frames, 1 marks, 5 entries" in result.stdout
    assert "indexes 1 to 5, terms 1 (from 1)" in result.stdout
    assert result.stdout.endswith("whole\n")


def test_verify_as_json(files: FakeFiles) -> None:
    """One object with every fact of the report."""
    facts = json.loads(run(files, "verify", DIRECTORY, "--json").stdout)
    assert facts["ok"] is True
    assert (facts["entries"], facts["last_index"], facts["torn"], facts["damage"]) == (5, 5, None, [])
    assert facts["terms"] == [{"term": 1, "first_index": 1}]


def test_damage_exits_5_and_says_where(files: FakeFiles) -> None:
    """In text, in JSON, and for dump."""
    files.flip(path_of(1), 4096 + 81, 0)
    result = run(files, "verify", DIRECTORY)
    assert result.exit_code == 5
    assert f"DAMAGED {path_of(1)} at byte 4096 (index 1): a bad frame" in result.stdout
    result = run(files, "verify", DIRECTORY, "--json")
    assert result.exit_code == 5
    (found,) = json.loads(result.stdout)["damage"]
    assert (found["path"], found["offset"], found["index"]) == (path_of(1), 4096, 1)
    result = run(files, "dump", DIRECTORY)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "at byte 4096 (index 1)" in result.stderr


def test_a_torn_tail_exits_0(files: FakeFiles) -> None:
    """A start cuts it: nothing for an operator to do."""
    log = fake_log(files)
    offset = log._offset
    fill(log, [b"last"])
    files.kill()
    files.flip(path_of(1), offset + 81, 0)
    result = run(files, "verify", DIRECTORY)
    assert result.exit_code == 0
    assert f"torn tail in {path_of(1)} at byte {offset} (index 6): 1 frames" in result.stdout


def test_a_trimmed_log_without_a_checkpoint_is_damaged() -> None:
    """What was before is nowhere: verify says so, dump shows what there is."""
    files = FakeFiles()
    log = fake_log(files)
    fill(log, [bytes(3_000)] * 12)
    log.trim(12)
    log.close()
    facts = json.loads(run(files, "verify", DIRECTORY, "--json").stdout)
    first = facts["first_index"]
    assert (facts["ok"], facts["checkpoint"]) == (False, None)
    assert f"begins at index {first}, and no checkpoint" in facts["damage"][0]["what"]
    assert run(files, "verify", DIRECTORY).exit_code == 5
    result = run(files, "dump", DIRECTORY)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{first} BATCH")
    assert f"the log begins at index {first}: what was before is trimmed" in result.stderr
    assert "trimmed" not in run(files, "dump", DIRECTORY, "--from", str(first)).stderr


def test_what_cannot_be_looked_at_exits_3(files: FakeFiles) -> None:
    """No data there, or a pipe runs on it."""
    for command in ("verify", "dump"):
        result = run(files, command, "/nowhere")
        assert result.exit_code == 3
        assert "there is no /nowhere/pipe.json" in result.stderr
    fake_log(files)
    result = run(files, "verify", DIRECTORY)
    assert result.exit_code == 3
    assert "stop that pipe" in result.stderr


def test_dump_prints_each_frame(files: FakeFiles) -> None:
    """A line each, from the index asked for."""
    result = run(files, "dump", DIRECTORY)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("1 BATCH term 1 at 1001 ms, 3 bytes, 0 verdicts, origin 000102")
    assert lines[2].startswith("3-5 BATCH term 1 at 1003 ms, 13 bytes, 1 verdicts")
    assert run(files, "dump", DIRECTORY, "--from", "4").stdout.splitlines() == lines[2:]


def test_dump_as_json_says_what_it_is_told_to_say(files: FakeFiles) -> None:
    """By default the header; what a body means is for the caller's `describe`."""
    rows = [json.loads(line) for line in run(files, "dump", DIRECTORY, "--json").stdout.splitlines()]
    assert rows[2] == {
        "index": 3, "count": 3, "type": "BATCH", "flags": 0, "level": 1, "term": 1, "log_ms": 1003,
        "principal": "000000000000002a", "origin": bytes(range(16)).hex(), "batch_bytes": 13, "verdicts": [[2, 9]],
    }  # fmt: skip

    def describe(one: Frame) -> dict[str, object]:
        return {**describe_frame(one), "body": one.batch.decode()}

    result = CliRunner().invoke(log_commands(describe, files), ["dump", DIRECTORY, "--json"])
    assert [json.loads(line)["body"] for line in result.stdout.splitlines()] == ["one", "two", "three of them"]


def test_dump_beyond_the_end_exits_1(files: FakeFiles) -> None:
    """Nothing to show is a finding when an index was asked for."""
    result = run(files, "dump", DIRECTORY, "--from", "6")
    assert result.exit_code == 1
    assert "no entry at index 6 or above" in result.stderr


def test_dump_beside_a_running_pipe_warns(files: FakeFiles) -> None:
    """And shows the log up to now."""
    fake_log(files)
    result = run(files, "dump", DIRECTORY)
    assert result.exit_code == 0
    assert "runs on" in result.stderr
    assert len(result.stdout.splitlines()) == 3


def test_usage_exits_2(files: FakeFiles) -> None:
    """As click does it."""
    assert run(files, "dump", DIRECTORY, "--from", "0").exit_code == 2
    assert run(files, "verify").exit_code == 2
