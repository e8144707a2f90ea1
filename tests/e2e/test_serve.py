"""The commands that operators type, run as they are: what they print, and with which exit code they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mpy6a.cli import COMMANDS
from mpy6a.exits import EXIT_CANNOT_START, EXIT_FOUND_BAD, EXIT_UNREACHABLE, EXIT_USAGE
from mpy6a.framing import FORMAT_VERSION
from mpy6a.model import Op, SessionId, Verb
from mpy6a.version import __version__
from tests.e2e.live import START_S, Live, Peer, environment, repeat_once
from tests.ports import FreePorts, short_directory
from tests.processes import Processes

pytestmark = pytest.mark.e2e

COMMAND_S: Final = 60.0  # of one command; it takes 0.3 s


class Ended:
    """A command that has ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def facts(self) -> dict[str, Any]:
        """What it printed with --json."""
        assert self.code == 0, self.err
        facts: dict[str, Any] = json.loads(self.out)
        return facts

    def refused(self, code: int) -> str:
        """The one sentence on stderr of a command that ended with this code."""
        assert self.code == code, (self.code, self.out, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mpy6a: ")
        return lines[0]

    def misused(self) -> str:
        """What click says of a wrong call."""
        assert self.code == EXIT_USAGE
        assert "Traceback" not in self.err
        assert "Error: " in self.err
        return self.err


def mpy6a(*argv: str, at: Path, **env: str) -> Ended:
    """`mpy6a ...` in that directory."""
    return Ended(
        subprocess.run(
            [sys.executable, "-m", "mpy6a", *argv],
            cwd=at,
            env=environment(COLUMNS="200", **env),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    )


@pytest.fixture(scope="module")
def live(free_port: FreePorts) -> Iterator[Live]:
    """A pipe for all commands of this file that only look, or speak of one session."""
    with short_directory() as path, Processes() as processes:
        place = Live(path, free_port, processes)
        place.pipe = place.start_pipe()
        yield place


def stored(owner: Peer, request: int = 1) -> SessionId:
    """A session that waits for an hour."""
    id = owner.new(request)
    ack = owner.batch(Op(Verb.STORE, id.index, id.term, 1, 1, argument=3_600_000), mark=request + 1)
    assert ack.results == ()
    return id


# ---------------------------------------------------------------------- what needs no pipe


@pytest.mark.parametrize("command", ["", *COMMANDS, "sessions list", "sessions kick", "log verify", "config check"])
def test_help_of_every_command(command: str, tmp_path: Path) -> None:
    """`--help` and `-h` name usage and options, and start nothing."""
    ended = mpy6a(*command.split(), "--help" if command else "-h", at=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"Usage: python -m mpy6a{' ' if command else ''}{command}")
    assert len(ended.out.splitlines()) > 4
    if not command:
        assert all(name in ended.out for name in COMMANDS)
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_is_no_command(tmp_path: Path) -> None:
    """Usage, exit 2."""
    assert "explode" in mpy6a("explode", at=tmp_path).misused()
    assert "--colour" in mpy6a("status", "--colour", at=tmp_path).misused()
    assert "lost" in mpy6a("sessions", "list", "--state", "lost", at=tmp_path).misused()
    assert "SESSION" in mpy6a("sessions", "show", at=tmp_path).misused()


def test_version_tells_releases_formats_and_protocol(tmp_path: Path) -> None:
    """As text and as JSON."""
    facts = mpy6a("version", "--json", at=tmp_path).facts
    assert (facts["mpy6a"], facts["protocol"], facts["log_format"]) == (__version__, 1, FORMAT_VERSION)
    assert f"mpy6a {__version__}\n" in mpy6a("version", at=tmp_path).out


def test_init_writes_files_that_are_fine_and_overwrites_nothing(tmp_path: Path) -> None:
    """Three commented files, a handler, and what an editor checks them with; a second init refuses and names them."""
    made = mpy6a("init", "there", at=tmp_path)
    assert made.code == 0, made.err
    there = tmp_path / "there"
    names = {"pipe.yaml", "routes.yaml", "sidecar.yaml", "handlers.py"}
    assert {path.name for path in there.iterdir()} == names | {".mpy6a"}
    for file in ("pipe", "routes", "sidecar"):
        first = (there / f"{file}.yaml").read_text().splitlines()[0]
        said, _, schema = first.partition("=")
        assert said == "# yaml-language-server: $schema"
        assert json.loads((there / schema).read_text())["title"] == f"mpy6a: {file}.yaml"
    checked = mpy6a("config", "check", "pipe.yaml", "routes.yaml", "sidecar.yaml", at=there)
    assert (checked.code, "fine" in checked.out) == (0, True), checked.err
    (there / "handlers.py").write_text("mine")
    said = mpy6a("init", "there", at=tmp_path).refused(EXIT_CANNOT_START)
    assert all(name in said for name in names)
    assert (there / "handlers.py").read_text() == "mine"
    (tmp_path / "file").touch()
    assert "file" in mpy6a("init", "file", at=tmp_path).refused(EXIT_CANNOT_START)


def test_config_check_tells_all_errors_at_once_with_file_line_and_key(tmp_path: Path) -> None:
    """An error names file, line, key, what was found and what is allowed; exit 2, as JSON too."""
    (tmp_path / "pipe.yaml").write_text(
        "pipe: 0\ndata: ./data\nlisten: [tcp://nowhere]\nroutes:\n  kinds:\n    one: {id: 1, sidecars: [user]}\n"
        "sidecars: {users: tcp://127.0.0.1:7401}\nlitsen: []\n"
    )
    ended = mpy6a("config", "check", "pipe.yaml", at=tmp_path)
    assert ended.code == EXIT_USAGE
    for line, key in ((1, "pipe"), (3, "listen"), (6, "sidecars"), (8, "litsen")):
        assert any(f"pipe.yaml:{line}" in said and key in said for said in ended.err.splitlines()), (key, ended.err)
    ended = mpy6a("config", "check", "--json", "pipe.yaml", "missing.yaml", at=tmp_path)
    assert ended.code == EXIT_USAGE
    problems = json.loads(ended.out)["problems"]
    assert {"pipe.yaml", "missing.yaml"} == {Path(problem["file"]).name for problem in problems}
    assert all(set(problem) == {"file", "line", "key", "found", "allowed"} for problem in problems)


def test_the_config_is_an_argument_then_the_variable_then_the_file_here(live: Live, tmp_path: Path) -> None:
    """None: exit 2, naming `mpy6a init` and `mpy6a dev`."""
    for argv in (["serve"], ["status"], ["sessions", "list"]):
        said = mpy6a(*argv, at=tmp_path).refused(EXIT_USAGE)
        assert "mpy6a init" in said
        assert "mpy6a dev" in said
    config = str(live.path / "pipe.yaml")
    assert mpy6a("status", "--json", "--config", config, at=tmp_path).facts["pipe"] == 1
    assert mpy6a("status", "--json", at=tmp_path, MPY6A_CONFIG=config).facts["pipe"] == 1
    assert mpy6a("status", "--json", at=live.path).facts["pipe"] == 1
    assert mpy6a("status", "--json", "--admin", live.admin, at=tmp_path).facts["pipe"] == 1
    assert "gone.yaml" in mpy6a("serve", "gone.yaml", at=tmp_path).refused(EXIT_USAGE)


# ---------------------------------------------------------------------- a pipe that is not there


def test_a_pipe_that_cannot_be_reached_is_exit_4(live: Live, free_port: FreePorts, tmp_path: Path) -> None:
    """No socket file, a socket file without a pipe, a port without one, another door: one sentence each."""
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    with Processes() as processes, (tmp_path / "said").open("wb") as said:
        # Nobody refuses here: the command has to wait until it gives up. Meanwhile the others.
        argv = [sys.executable, "-m", "mpy6a", "status", "--admin", nowhere]
        waiting = processes.start(argv, cwd=tmp_path, env=environment(), stdout=said, stderr=said)
        missing = mpy6a("status", "--admin", f"ipc://{tmp_path}/a.sock", at=tmp_path).refused(EXIT_UNREACHABLE)
        assert "mpy6a serve" in missing
        wrong_door = mpy6a("status", "--admin", live.listen, at=tmp_path).refused(EXIT_FOUND_BAD)
        assert "admin door" in wrong_door
        assert waiting.wait(START_S + 10) == EXIT_UNREACHABLE
    told = (tmp_path / "said").read_text()
    assert nowhere in told
    assert "Traceback" not in told


# ---------------------------------------------------------------------- looking


def test_status_and_list_as_text_and_as_json(live: Live) -> None:
    """The pipe at a glance; sessions by index with the one reason why each is not running."""
    with Peer(live.listen) as owner:
        ids = [stored(owner), owner.new(2)]
        status = mpy6a("status", "--json", at=live.path).facts
        assert (status["pipe"], status["release"], status["durable"]) == (1, __version__, True)
        assert {kind["name"] for kind in status["kinds"]} == {"work", "other"}
        text = mpy6a("status", at=live.path)
        assert text.code == 0, text.err
        for word in (__version__, "work", "users", live.push, "segments"):
            assert word in text.out

        def listed(*argv: str) -> dict[str, tuple[str, str]]:
            found = mpy6a("sessions", "list", "--json", *argv, at=live.path).facts["sessions"]
            return {session["id"]: (session["state"], session["why"]) for session in found}

        every = listed()
        assert every[str(ids[0])] == ("stored", "TIMER")
        assert every[str(ids[1])] == ("open", "OPEN_BY")
        assert str(ids[1]) not in listed("--state", "stored")
        assert listed("--kind", "other") == {}
        assert len(listed("--limit", "1")) == 1
        text = mpy6a("sessions", "list", at=live.path)
        assert all(str(id) in text.out for id in ids)
        assert f"of {len(every)} live sessions" in text.out
        said = mpy6a("sessions", "list", "--kind", "wrk", at=live.path).refused(EXIT_FOUND_BAD)
        assert "work" in said


def test_show_tells_one_session(live: Live) -> None:
    """All that the pipe knows; the records only when asked for."""
    with Peer(live.listen) as owner:
        id = stored(owner)
        shown = mpy6a("sessions", "show", str(id), "--records", "--json", at=live.path).facts
        assert (shown["id"], shown["state"], shown["kind"], shown["records_base64"]) == (
            str(id),
            "stored",
            "work",
            ["Zmlyc3Q="],
        )
        text = mpy6a("sessions", "show", str(id), at=live.path)
        assert f"id: {id}\n" in text.out
        assert "Zmlyc3Q=" not in text.out


# ---------------------------------------------------------------------- saying


def test_words_on_a_session(live: Live) -> None:
    """kick, park, cancel, delete: each is logged with who and why, and told."""
    with Peer(live.listen) as owner:
        id = str(stored(owner))

        def state() -> tuple[str, str]:
            shown = mpy6a("sessions", "show", id, "--json", at=live.path).facts
            return shown["state"], shown["why"]

        kicked = mpy6a("sessions", "kick", id, "--reason", "now", at=live.path)
        assert (kicked.code, kicked.out) == (0, f"{id}: kick is logged\n")
        assert state() == ("stored", "NO_SIDECAR")
        assert mpy6a("sessions", "park", id, "--reason", "by hand", "--json", at=live.path).facts == {
            "id": id,
            "park": True,
        }
        assert state() == ("parked", "PARKED")
        assert "by hand" in mpy6a("sessions", "list", "--state", "parked", at=live.path).out
        assert mpy6a("sessions", "kick", id, at=live.path).code == 0
        assert mpy6a("sessions", "cancel", id, at=live.path).code == 0
        assert mpy6a("sessions", "show", id, "--json", at=live.path).facts["cancel"] is True
        assert mpy6a("sessions", "delete", id, at=live.path).code == 0
        assert id in mpy6a("sessions", "show", id, at=live.path).refused(EXIT_FOUND_BAD)
        open_ = str(owner.new(9))
        assert "OPEN" in mpy6a("sessions", "kick", open_, at=live.path).refused(EXIT_FOUND_BAD)


@pytest.mark.parametrize("word", ["show", "kick", "park", "cancel", "delete"])
def test_a_session_that_is_not_there_is_exit_1(live: Live, word: str) -> None:
    """One sentence that names it."""
    assert "1.1.999999" in mpy6a("sessions", word, "1.1.999999", at=live.path).refused(EXIT_FOUND_BAD)


def test_what_is_no_session_id_and_no_address_is_usage(live: Live) -> None:
    """Exit 2, before anybody is asked: an id looks like 1.3.48213, an address like ipc://PATH."""
    assert "1.3.48213" in mpy6a("sessions", "show", "48213", at=live.path).misused()
    assert "ipc://" in mpy6a("status", "--admin", "http://x", at=live.path).misused()


# ---------------------------------------------------------------------- the pipe's own life


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_exit_0_and_the_next_one_goes_on(
    end: signal.Signals, short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """Finishes and syncs what it took; a new term serves what was there, and the log is whole in between."""
    place = Live(short_tmp, free_port, processes)
    pipe = place.start_pipe()
    with Peer(place.listen) as owner:
        id = stored(owner)
    pipe.send_signal(end)
    assert pipe.wait(START_S) == 0
    assert "stopped" in place.said("pipe.log")
    assert mpy6a("log", "verify", "data", "--json", at=short_tmp).facts["ok"] is True
    frames = mpy6a("log", "dump", "data", "--json", at=short_tmp)
    assert [json.loads(line)["type"] for line in frames.out.splitlines()][:2] == ["OPENING", "POLICY"]
    place.start_pipe()
    shown = mpy6a("sessions", "show", str(id), "--json", at=short_tmp).facts
    assert shown["state"] == "stored"
    assert mpy6a("status", "--json", at=short_tmp).facts["term"] == 2


def test_doors_are_their_owners_alone(live: Live) -> None:
    """The admin socket has mode 0600."""
    path = Path(live.admin.removeprefix("ipc://"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_config_and_data_are_made_on_the_spot(short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """`mpy6a init`, `mpy6a serve`, `mpy6a-sidecar` in a fresh directory: an unfinished session comes back."""
    place = Live(short_tmp, free_port, processes)
    assert not (short_tmp / "data").exists()
    place.start_pipe()
    place.start_sidecar()
    repeat_once(place.service)
    status = mpy6a("status", "--json", at=short_tmp).facts
    assert status["live"] == 0
    assert [sidecar["connected"] for sidecar in status["sidecars"]] == [True]
    assert "yes" in mpy6a("status", at=short_tmp).out


def test_log_lines_as_text_and_as_json(short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """`--log-format`: one line a fact either way; `--log-level error` is silent in a life without errors."""
    place = Live(short_tmp, free_port, processes)
    lives = {"json.log": "--log-format=json", "text.log": "--log-format=text", "none.log": "--log-level=error"}
    for said, option in lives.items():
        pipe = place.run("mpy6a", "serve", option, said=said)
        with Peer(place.listen) as peer:
            peer.hello(pipe)
        pipe.terminate()
        assert pipe.wait(START_S) == 0
    assert [json.loads(line)["message"] for line in place.said("json.log").splitlines()] == ["serving", "stopped"]
    assert "INFO serving pipe=1 term=2" in place.said("text.log")
    assert place.said("none.log") == ""
