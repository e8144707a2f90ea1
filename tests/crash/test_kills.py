"""A pipe killed over and over loses nothing that it acknowledged, does nothing twice, and nothing by halves.

Writers in processes of their own keep at least 256 operations in flight each, write their histories to disk before
they act, and resend byte for byte what a killed pipe did not answer. At the end their histories are held against the
log as `mpy6a log dump` reads it, and against the sessions as the pipe tells them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.client.operator import Operator
from mpy6a.files import OsFiles
from mpy6a.log.verify import dump
from mpy6a.model import Verb
from tests.crash import histories, oracle
from tests.crash.doors import Door, read_sessions
from tests.crash.histories import History
from tests.crash.place import START_TIMEOUT_S, Place, environment
from tests.crash.report import Kill, Report, count
from tests.crash.running import Running
from tests.crash.writer import IN_FLIGHT_MIN
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = [pytest.mark.crash, pytest.mark.alone]

SEED: Final = 20_251  # of the plan and of the writers' choices; the moments of the kills are the machine's
WRITERS: Final = 2
ACKED_BETWEEN_KILLS: Final = 800  # operations at most, of all writers: the log, and so the replay, stays short
JITTER_S: Final = 0.008  # a turn of the pipe and a turn of a writer: the kill falls anywhere in them
TEARS: Final = 5
DEATHS_AFTER_SYNC: Final = 4
KILLS_WHILE_OPENING: Final = 4
CHECKPOINT_TIMEOUT_S: Final = 90.0  # 21 s on two cores where four others compute: its writer is nice, its pipe is not


def _plan(kills: int, chance: random.Random) -> list[str]:
    """How each life of the pipe ends: `kills` at random moments, and the planted ones among them."""
    planted = [f"tear:{chance.randint(1, 4)}" for _ in range(max(TEARS, kills // 20))]
    planted += [f"die:{chance.randint(1, 4)}" for _ in range(max(DEATHS_AFTER_SYNC, kills // 20))]
    planted += ["opening"] * max(KILLS_WHILE_OPENING, kills // 20)
    ends = [*planted, *["random"] * kills]
    chance.shuffle(ends)
    return ["random", *ends]  # the first life makes the data directory, and gets its writers going


def _run(place: Place, kills: int, chance: random.Random) -> tuple[list[Kill], list[Path], frozenset[Path]]:
    """Kill, start, kill; one writer is killed for good half way, together with the pipe, and another takes its place.

    Leaves the pipe running and every operation of the living writers answered.
    """
    addresses = [place.listen, f"ipc://{place.path}/door.sock"]
    place.config.write_text(place.config.read_text().replace(f"[{place.listen}]", f"[{', '.join(addresses)}]"))
    plan = _plan(kills, chance)
    writers = [Running(place, addresses[number % 2], number, SEED) for number in range(WRITERS)]
    paths, lost = [writer.path for writer in writers], set[Path]()
    done: list[Kill] = []
    for number, by in enumerate(plan):
        begun_s = time.monotonic()
        pipe = place.start(by if ":" in by else "")
        if ":" in by:
            pipe.wait(START_TIMEOUT_S)
        elif by == "opening":
            _wait(pipe, begun_s + chance.uniform(0.2, 0.8))
        else:
            for writer in writers:
                writer.wait(writer.acked + chance.randint(1, ACKED_BETWEEN_KILLS // WRITERS), pipe)
            if number % 5 == 0:
                _kill_children(pipe)  # whoever writes the checkpoint: the pipe starts another
                _await_checkpoint(place, pipe)
            _wait(pipe, time.monotonic() + chance.uniform(0, JITTER_S))
        at_ns = time.monotonic_ns()
        pipe.kill()
        assert pipe.wait(START_TIMEOUT_S) == -signal.SIGKILL, place.said()[-2_000:]
        if number == len(plan) // 2:
            writers[0].kill()
            lost.add(writers[0].path)
            writers[0] = Running(place, addresses[0], WRITERS, SEED)
            paths.append(writers[0].path)
        done.append(Kill(by.partition(":")[0], at_ns, place.torn_frames()))
    pipe = place.start()
    _await_checkpoint(place, pipe)
    for writer in writers:
        writer.wait(writer.acked + 1, pipe)
        writer.stop(START_TIMEOUT_S)
    return done, paths, frozenset(lost)


def _kill_children(pipe: subprocess.Popen[bytes]) -> None:
    for child in Path(f"/proc/{pipe.pid}/task/{pipe.pid}/children").read_text().split():
        with suppress(ProcessLookupError):  # it had ended by itself
            os.kill(int(child), signal.SIGKILL)


def _await_checkpoint(place: Place, pipe: subprocess.Popen[bytes]) -> None:
    """Until this life of the pipe has seen one written: from here on a start begins with it."""
    give_up_at = time.monotonic() + CHECKPOINT_TIMEOUT_S
    with Operator(place.admin) as operator:
        while time.monotonic() < give_up_at:
            facts: Any = operator.request("status")
            if facts["checkpoint"]["checkpoints"]:
                return
            _wait(pipe, time.monotonic() + 0.05)
    raise AssertionError(f"no checkpoint in {CHECKPOINT_TIMEOUT_S} s: {place.said()[-2_000:]}")


def _wait(pipe: subprocess.Popen[bytes], until_s: float) -> None:
    """Let the pipe live until then; it does not end by itself."""
    try:
        pipe.wait(max(0.0, until_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return


def _kill_and_judge(place: Place, kills: int) -> Report:
    begun_s = time.monotonic()
    done, paths, lost_paths = _run(place, kills, random.Random(SEED))
    found = read_sessions(place.admin)
    place.processes.end()
    told = [histories.read(path) for path in paths]
    lost = frozenset(history.writer for history, path in zip(told, paths, strict=True) if path in lost_paths)

    checked = json.loads(_command("log", "verify", str(place.data), "--json"))
    assert checked["ok"]
    assert checked["torn"] is None
    with closing(CheckpointFile.open(str(place.data))) as file:
        header = file.header()
        assert header is not None
        assert header.next_index > checked["last_index"] // 2, "checkpoints were written all the time"
        assert file.verify() == []
    reading = oracle.read_log(dump(OsFiles(), str(place.data)), told)
    faults = reading.faults + oracle.check_answers(reading, told) + oracle.check_state(reading, found, lost)
    assert faults == [], "\n".join(faults[:20])
    assert _dumped(place, told) == reading.places
    unanswered = [number for h in told if h.writer not in lost for number, story in h.stories.items() if not story.acks]
    assert unanswered == []

    report = count(done, told, reading, lost, len(found), time.monotonic() - begun_s)
    print(f"\n{report}")
    assert report.kills >= kills
    assert report.least_in_flight >= IN_FLIGHT_MIN
    assert report.unanswered >= 10
    assert report.durable_unanswered > 0
    assert report.torn >= 3
    assert report.refused_copies > 0
    return report


def _command(*arguments: str) -> str:
    """What an operator's command prints."""
    argv = [sys.executable, "-m", "mpy6a", *arguments]
    return subprocess.run(argv, env=environment(), stdout=subprocess.PIPE, check=True, text=True).stdout


def _dumped(place: Place, told: Sequence[History]) -> dict[oracle.Name, list[int]]:
    """The first index of every copy of every batch as `mpy6a log dump` prints them, each operation as it was sent."""
    sent = {history.writer: history.stories for history in told}
    places: dict[oracle.Name, list[int]] = {}
    for line in _command("log", "dump", str(place.data), "--json").splitlines():
        frame = json.loads(line)
        if frame["type"] != "BATCH":
            continue
        name = bytes.fromhex(frame["origin"]), int(frame["number"])
        places.setdefault(name, []).append(frame["index"])
        ops = [
            {"request": op.index} if op.verb == Verb.NEW else {"session": f"{op.term}.{op.index}", "seq": op.seq}
            for op in sent[name[0]][name[1]].batch.ops
        ]
        there = [{key: op[key] for key in ("request", "session", "seq") if key in op} for op in frame["operations"]]
        assert there == ops
    return places


@pytest.mark.timeout(600)
def test_fifty_kills_lose_nothing_and_do_nothing_twice(
    short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """Every acknowledged operation exactly once and in order, none half there, no session twice for one New."""
    _kill_and_judge(Place(short_tmp, free_port(), free_port(), processes), 50)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_five_hundred_kills(short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """The same for as long as a soak takes."""
    _kill_and_judge(Place(short_tmp, free_port(), free_port(), processes), 500)


def test_a_pipe_that_lies_is_found_out(short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """The oracle's own test: a pipe that acknowledges what it never wrote is caught from the histories."""
    place = Place(short_tmp, free_port(), free_port(), processes)
    pipe = place.start("lose:3")
    writer = Running(place, place.listen, 0, SEED)
    writer.wait(4_000, pipe)
    pipe.kill()
    pipe.wait(START_TIMEOUT_S)
    writer.kill()
    place.start()
    with Door(place.listen) as door:
        door.hello()
    place.processes.end()

    told = [histories.read(writer.path)]
    reading = oracle.read_log(dump(OsFiles(), str(place.data)), told)
    faults = oracle.check_answers(reading, told)
    assert any("acknowledged, and not in the log" in fault for fault in faults)
