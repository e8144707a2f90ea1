"""What the program of an exec handler says, and what becomes of the session and of its processes: every row of the
tables in sidecar/outcomes.py."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from mpy6a import limits
from mpy6a.config import ExecHandler
from mpy6a.errors import CannotStart, Code
from mpy6a.messages import SessionEpoch, Stop
from mpy6a.model import BY_POLICY, Verb
from sidecar import execs, outcomes
from sidecar.execs import ExecHandlers
from tests.unit.sidecar.bench import Bench, exec_bench, run, said
from tests.unit.sidecar.desk import EXEC, part

SH = "/bin/sh"
# An exit status or -signal, what was written to stderr before -> verb, argument, message.
EXIT_ROWS = [
    ("exit 0", Verb.DELETE, 0, ""),
    ("echo no matter >&2; exit 0", Verb.DELETE, 0, ""),
    ("echo strange records >&2; exit 65", Verb.PARK, 0, "strange records"),
    ("exit 65", Verb.PARK, 0, "the program ended with exit status 65"),
    ("echo not now >&2; exit 75", Verb.RELEASE, BY_POLICY, "not now"),
    ("exit 75", Verb.RELEASE, BY_POLICY, "the program ended with exit status 75"),
    ("echo boom >&2; exit 1", Verb.FAIL, 0, "boom"),
    ("exit 1", Verb.FAIL, 0, "the program ended with exit status 1"),
    ("exit 255", Verb.FAIL, 0, "the program ended with exit status 255"),
    ("echo dying >&2; kill -9 $$", Verb.FAIL, 0, "dying"),
    ("kill -9 $$", Verb.FAIL, 0, "the program was ended by SIGKILL"),
    ("kill -40 $$", Verb.FAIL, 0, "the program was ended by signal 40"),
    ("printf 'a\\377b' >&2; exit 2", Verb.FAIL, 0, "a\ufffdb"),
    ("exec no-such-program-here", Verb.FAIL, 0, None),
]


def test_every_row_of_the_exit_statuses(tmp_path: Path) -> None:
    """One push, one program, one outcome; what is not listed fails, and is charged."""

    async def test() -> None:
        async with exec_bench(SH, "./handler", directory=tmp_path) as made:
            for index, (script, verb, argument, message) in enumerate(EXIT_ROWS):
                (tmp_path / "handler").write_text(script)
                ops = said(await made.run(b"x", index=index + 10))
                assert [(op[0], op[1]) for op in ops] == [(verb, argument)], script
                if message is not None:
                    assert ops[0][2] == message, script

    run(test)


def test_the_rows_cover_the_tables() -> None:
    """No status of the table is without its row, no failure without its test here."""
    statuses = {int(script.rpartition("exit ")[2]) for script, *_ in EXIT_ROWS if "exit " in script}
    assert set(outcomes.EXEC_STATUS) <= statuses
    assert set(outcomes.EXEC_FAILURES) == {"not_started", "lost", "timeout", "records"}


@pytest.mark.parametrize("output", [b"", b"x" * 600, b"\xff" * 600, "я".encode() * 400, b"\n\n end \n"])
def test_a_message_is_the_end_of_stderr_and_fits(output: bytes) -> None:
    told = outcomes.last_text(output)
    assert len(told.encode()) <= limits.TEXT_BYTES_MAX
    assert told.strip() == told
    assert "�".join(output.decode(errors="replace").split("\ufffd")).strip().endswith(told)


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


SEEN = """
import json, os, sys
seen = {"stdin": json.load(sys.stdin), "env": dict(os.environ), "cwd": os.getcwd()}
seen["group"] = os.getpgid(0) == os.getpid()
print("nobody reads this")
json.dump(seen, open("seen", "w"))
"""


def test_what_the_program_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same document as an http handler's, on stdin; ids and callback in the environment, beside the sidecar's."""
    monkeypatch.setenv("OF_THE_SIDECAR", "too")
    monkeypatch.setenv("TRACEPARENT", "of somebody else")

    async def test() -> None:
        trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        async with exec_bench(*python(SEEN), directory=tmp_path) as made:
            for sent in (trace, b"no traceparent\n"):
                made.push(b"\x00one", b"", trace=sent, index=10 if sent is trace else 11)
                await made.over()
                seen = json.loads((tmp_path / "seen").read_text())
                assert seen["env"].get("TRACEPARENT") == (trace.decode() if sent is trace else None)
                if sent is trace:
                    first = seen
        assert said(made.ops) == [(Verb.DELETE, 0, "")] * 2
        assert first["env"]["OF_THE_SIDECAR"] == "too"
        assert first["env"]["MPY6A_SESSION"] == "1.5.10"
        assert first["env"]["MPY6A_FENCE"] == str(5 << 32 | 2)
        assert first["env"]["MPY6A_KIND"] == "exec-kind"
        assert first["env"]["MPY6A_CALLBACK"].startswith("http://127.0.0.1:")
        assert first["cwd"] == str(tmp_path)
        assert first["group"]
        assert first["stdin"] == {
            "session": "1.5.10",
            "epoch": 2,
            "fence": str(5 << 32 | 2),
            "kind": "exec-kind",
            "repeats": 3,
            "cancel": False,
            "records": [{"base64": base64.b64encode(b"\x00one").decode()}, {"base64": ""}],
        }

    run(test)


def test_a_record_that_is_not_valid_in_its_form_parks_the_session(tmp_path: Path) -> None:
    """Without a program: no repeat would make it valid. One that is valid stands in that form."""

    async def test() -> None:
        async with exec_bench(*python(SEEN), directory=tmp_path, form="json") as made:
            ((verb, _, message),) = said(await made.run(b"{"))
            assert verb is Verb.PARK
            assert "`records:`" in message
            assert not (tmp_path / "seen").exists()
            await made.run(b'{"n":1}', index=11)
            assert json.loads((tmp_path / "seen").read_text())["stdin"]["records"] == [{"json": {"n": 1}}]

    run(test)


CALL = """
import os, sys, urllib.request
def call(what, body=b""):
    urllib.request.urlopen(urllib.request.Request(os.environ["MPY6A_CALLBACK"] + what, body, method="POST"))
"""


def test_callbacks_write_and_a_decision_by_callback_makes_the_exit_status_nothing(tmp_path: Path) -> None:
    code = CALL + "call('/append', b'step'); call('/park?reason=odd'); sys.exit(int(sys.stdin.read()[-3:-2] == '}'))"

    async def test() -> None:
        async with exec_bench(*python(code), directory=tmp_path) as made:
            assert said(await made.run(b"x")) == [(Verb.APPEND, 0, "step"), (Verb.PARK, 0, "odd")]

    run(test)


def test_the_documented_program_runs_and_the_documented_statuses_are_the_table(tmp_path: Path) -> None:
    """docs/HANDLERS.md, as it stands."""
    text = (Path(__file__).parents[3] / "docs" / "HANDLERS.md").read_text()
    told = {int(status) for status in re.findall(r"^\| exit (\d+)", text, flags=re.MULTILINE)}
    assert told == set(outcomes.EXEC_STATUS)
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)

    async def test() -> None:
        async with exec_bench(*python(program), directory=tmp_path, form="text") as made:
            assert said(await made.run(b"Ada")) == [(Verb.APPEND, 0, "told"), (Verb.DELETE, 0, "")]
            assert said(await made.run(b"Ada", b"told", index=11)) == [(Verb.DELETE, 0, "")]

    run(test)


# ---- processes


def is_running(pid: int) -> bool:
    """Is there such a process that has not ended?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # before it was opened, or before it was read
        return False


def children(pid: int) -> list[int]:
    """Of this process, zombies too."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def starter(made: Bench) -> int:
    assert isinstance(made.handlers, ExecHandlers)
    pid = made.handlers.programs.pid
    assert pid is not None
    return pid


async def pids(path: Path, count: int) -> list[int]:
    """What the programs wrote down there, once it is so many."""
    async with asyncio.timeout(10):
        while len(written(path)) < count:  # noqa: ASYNC110  # a file tells nobody
            await asyncio.sleep(0.005)
    return written(path)


def written(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


async def gone(*given: int) -> None:
    async with asyncio.timeout(10):
        while any(map(is_running, given)):  # noqa: ASYNC110  # the process tells by its pid alone
            await asyncio.sleep(0.005)


DEAF = "trap '' TERM; sleep 1000 & echo $$ $! >pids; wait; wait; wait"  # it and its child ignore SIGTERM
POLITE = "trap 'exit 0' TERM; sleep 1000 & echo $$ $! >pids; wait"


@pytest.mark.parametrize("script", [DEAF, POLITE])
def test_no_end_in_time_fails_and_ends_the_whole_group(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, then SIGKILL; an exit 0 after the timeout is nothing."""
    monkeypatch.setattr(limits, "EXEC_STOP_MS", 100)

    async def test() -> None:
        async with exec_bench(SH, "-c", script, directory=tmp_path, timeout_ms=2_000) as made:
            made.push(b"x")
            both = await pids(tmp_path / "pids", 2)
            await made.over()
            ((verb, argument, message),) = said(made.ops)
            assert (verb, argument) == (Verb.FAIL, 0)
            assert "timeout" in message
            await gone(*both)

    run(test)


def test_at_the_timeout_the_token_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the program still has its time to leave."""
    monkeypatch.setattr(limits, "EXEC_STOP_MS", 5_000)
    script = "echo $MPY6A_CALLBACK >url; trap 'echo $$ >pids; read x <go; exit 0' TERM; while :; do sleep 0.01; done"
    os.mkfifo(tmp_path / "go")

    async def test() -> None:
        async with exec_bench(SH, "-c", script, directory=tmp_path, timeout_ms=2_000) as made:
            made.push(b"x")
            await pids(tmp_path / "pids", 1)
            url = (tmp_path / "url").read_text().strip()
            status, text, _ = await made.call("POST", url + "/append", b"late")
            assert (status, text[:4]) == (409, "GONE")
            assert made.ops == []
            await asyncio.get_running_loop().run_in_executor(None, (tmp_path / "go").write_text, "on\n")
            await made.over()
            assert [op[0] for op in said(made.ops)] == [Verb.FAIL]

    run(test)


@pytest.mark.parametrize("script", [DEAF, POLITE])
def test_a_fence_ends_the_group_and_the_exit_is_nothing(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXEC_STOP_MS", 100)

    async def test() -> None:
        async with exec_bench(SH, "-c", script, directory=tmp_path) as made:
            key = made.push(b"x")
            both = await pids(tmp_path / "pids", 2)
            made.desk.dial(Stop(1, 5, Code.FENCED, (SessionEpoch(5, key.session.index, 2),)))
            made.wake()
            await made.over()
            await gone(*both)
            assert made.ops == []

    run(test)


def test_what_a_program_leaves_behind_in_its_group_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is over with the program; nothing of it works on under its fence, and no zombie is left."""
    monkeypatch.setattr(limits, "EXEC_STOP_MS", 100)
    (tmp_path / "pids").touch()
    script = """(trap '' TERM; sleep 1000 & echo $! >>pids; wait; wait) & sleep 1000 & echo $! >>pids
        while [ $(wc -l <pids) -lt 2 ]; do sleep 0.01; done; exit 0"""

    async def test() -> None:
        async with exec_bench(SH, "-c", script, directory=tmp_path) as made:
            assert said(await made.run(b"x")) == [(Verb.DELETE, 0, "")]
            await gone(*await pids(tmp_path / "pids", 2))
            async with asyncio.timeout(10):
                while children(starter(made)):  # noqa: ASYNC110  # reaped by another process
                    await asyncio.sleep(0.005)

    run(test)


def test_close_ends_what_runs_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXEC_STOP_MS", 100)

    async def test() -> None:
        async with exec_bench(SH, "-c", DEAF, directory=tmp_path) as made:
            made.push(b"x")
            both = [*await pids(tmp_path / "pids", 2), starter(made)]
        assert not any(map(is_running, both))
        assert made.ops == []

    run(test)


def test_if_the_starter_dies_runs_are_released_and_the_next_starts_it_again(tmp_path: Path) -> None:
    """Its programs die with it: the kernel sees to that."""

    async def test() -> None:
        script = "test -e pids || { echo $$ >pids; exec sleep 1000; }"
        async with exec_bench(SH, "-c", script, directory=tmp_path) as made:
            made.push(b"x")
            (pid,) = await pids(tmp_path / "pids", 1)
            os.kill(starter(made), signal.SIGKILL)
            await made.over()
            assert [op[:2] for op in said(made.ops)] == [(Verb.RELEASE, BY_POLICY)]
            await gone(pid)
            assert said(await made.run(b"x", index=11)) == [(Verb.DELETE, 0, "")]

    run(test)


# ---- starting, stdin, stderr


@pytest.mark.parametrize("mode", [0o644, 0o755, None])
def test_a_program_that_cannot_be_started_releases(
    mode: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not there, not executable, of no known format: uncharged, with the kind's back-off, and told in the log."""
    if mode is not None:
        (tmp_path / "finish").write_bytes(b"\0\1\2\3")
        (tmp_path / "finish").chmod(mode)

    async def test() -> None:
        async with exec_bench("./finish", directory=tmp_path) as made:
            ((verb, argument, message),) = said(await made.run(b"x"))
            assert (verb, argument) == (Verb.RELEASE, BY_POLICY)
            assert "could not be started: ./finish: " in message

    with caplog.at_level(logging.ERROR):
        run(test)
    (line,) = caplog.records
    assert line.__dict__["facts"]["kind"] == "exec-kind"


def test_no_room_for_descriptors_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with exec_bench("/bin/true", directory=tmp_path) as made:
            pipe, calls = os.pipe, 0

            def scarce() -> tuple[int, int]:
                nonlocal calls
                calls += 1
                if calls % 2 == 0:
                    raise OSError(24, "Too many open files")
                return pipe()

            monkeypatch.setattr(os, "pipe", scarce)
            ((verb, _, message),) = said(await made.run(b"x"))
            assert verb is Verb.RELEASE
            assert "Too many open files" in message
            monkeypatch.setattr(os, "pipe", pipe)
            assert said(await made.run(b"x", index=11)) == [(Verb.DELETE, 0, "")]

    run(test)


def test_a_program_that_does_not_read_its_stdin_is_no_failure(tmp_path: Path) -> None:
    """Whether it closes it or just ends."""

    async def test() -> None:
        async with exec_bench(SH, "-c", "exec 0<&-; read x <go", directory=tmp_path) as made:
            os.mkfifo(tmp_path / "go")
            made.push(b"x" * (1 << 20))
            await asyncio.get_running_loop().run_in_executor(None, (tmp_path / "go").write_text, "on\n")
            await made.over()
            assert said(made.ops) == [(Verb.DELETE, 0, "")]

    run(test)


def test_sixteen_mebibytes_reach_a_slow_reader_while_the_loop_goes_on(tmp_path: Path) -> None:
    """stdin is written as it is read; meanwhile its callbacks are answered."""
    script = "echo $MPY6A_CALLBACK >url; echo $$ >pids; read x <go; cat | wc -c >size"
    os.mkfifo(tmp_path / "go")

    async def test() -> None:
        async with exec_bench(SH, "-c", script, directory=tmp_path) as made:
            for number in range(8):
                records = (b"x" * (1 << 20),) * 2
                made.desk.push(part(10, 1, EXEC, records=records, part=number, parts=8))
            made.wake()
            await pids(tmp_path / "pids", 1)
            assert (await made.call("POST", (tmp_path / "url").read_text().strip() + "/touch"))[0] == 204
            await asyncio.get_running_loop().run_in_executor(None, (tmp_path / "go").write_text, "on\n")
            await made.over()
            assert [op[0] for op in said(made.ops)] == [Verb.TOUCH, Verb.DELETE]
            assert int((tmp_path / "size").read_text()) > 16 << 20

    run(test)


def test_of_much_stderr_the_end_is_kept(tmp_path: Path) -> None:
    """It is read all the while: nobody waits for a full pipe."""
    code = "import sys; sys.stderr.write('x' * (8 << 20) + 'y' * 1000 + ' the end\\n'); sys.exit(3)"

    async def test() -> None:
        async with exec_bench(*python(code), directory=tmp_path) as made:
            ((verb, _, message),) = said(await made.run(b"x"))
            assert verb is Verb.FAIL
            assert message.startswith("yyyy")
            assert message.endswith("y the end")
            assert 500 <= len(message) <= 512

    run(test)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("./missing", "is not there"),
        ("./plain", "chmod"),
        (".", "in no directory"),
        ("./", "cannot be executed"),
        ("no-such-program-here", r"\$PATH"),
    ],
)
def test_a_sidecar_whose_program_is_not_there_does_not_start(argv: str, why: str, tmp_path: Path) -> None:
    """It names kind and command, and says what to do."""
    (tmp_path / "plain").touch()
    with pytest.raises(CannotStart, match=why) as raised:
        execs.check("greeting", ExecHandler((argv,), tmp_path))
    assert "'greeting'" in str(raised.value)
    assert repr(argv) in str(raised.value)


def test_a_program_is_found_by_path_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "finish").touch(0o755)
    for command in ("./finish", "sh", sys.executable):
        execs.check("greeting", ExecHandler((command,), tmp_path))
