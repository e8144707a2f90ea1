"""A machine without power: what had reached the disk by then is whole, and holds all that was acknowledged.

A real pipe on a real file system, with checkpoints and trims, and writers in processes of their own on another disk.
The power goes at a random moment, in the middle of whatever the pipe, the writer of checkpoints and the kernel do; the
file system comes back by its own journal, the pipe by its log, and the writers resend what was not answered.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.client.operator import Operator
from mpy6a.files import OsFiles
from mpy6a.framing import Frame
from mpy6a.log.directory import list_log
from mpy6a.log.following import LogFollower
from mpy6a.log.verify import dump
from tests.crash import histories, oracle
from tests.crash.doors import Door, NoAnswer, read_sessions
from tests.crash.place import START_TIMEOUT_S, Place, environment
from tests.crash.power import Disk, powered
from tests.crash.power_driver import SEGMENT
from tests.crash.running import Running
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.crash

SEED: Final = 20_260
DISK_BYTES: Final = 320 << 20
WRITERS: Final = 2
CUTS: Final = 6
ACKED_BETWEEN_CUTS: Final = 4_000  # operations at most, of all writers; one life goes on until a segment is trimmed
KEEP: Final = "2MiB"  # of log below a checkpoint, twenty times what is written between two looks: so all of it is seen
LOOK_S: Final = 0.1
LIFE_S: Final = 60.0
JITTER_S: Final = 0.05
OPENING_S: Final = (0.2, 0.8)  # a start takes about so long: every second cut is followed by one in the middle of it
DRIVER: Final = Path(__file__).with_name("power_driver.py")


@pytest.fixture
def disk(short_tmp: Path, processes: Processes) -> Iterator[Disk]:
    """Mounted for the test; its processes are ended before it goes."""
    with powered(short_tmp, DISK_BYTES) as disk:
        try:
            yield disk
        finally:
            processes.end()


@dataclass(slots=True)
class World:
    """A pipe on that disk, its writers, and what is known of the log, trimmed or not."""

    place: Place
    disk: Disk
    writers: list[Running] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)  # from index 1 on, as of the last look
    unanswered: int = 0  # batches that a judgement found in the log, and their writer had no answer to

    def begin(self, disk: str = "honest") -> subprocess.Popen[bytes]:
        """Start the pipe; `lying`: nothing that it acknowledges is synced."""
        place = self.place
        argv = [sys.executable, str(DRIVER), disk, "serve", str(place.config)]
        with place.log.open("ab") as log:
            return place.processes.start(argv, cwd=place.path, env=environment(), stdout=log, stderr=log)

    def start(self, disk: str = "honest") -> subprocess.Popen[bytes]:
        """Start the pipe, and wait until it serves."""
        pipe = self.begin(disk)
        with Door(self.place.listen) as door:
            try:
                door.hello(START_TIMEOUT_S)
            except NoAnswer:
                pytest.fail(self.place.said()[-2_000:])
        return pipe

    def stop_writers(self) -> None:
        """They hold still: no answer is taken in, nothing is sent."""
        for writer in self.writers:
            writer.process.send_signal(signal.SIGSTOP)

    def let_writers_go(self) -> None:
        """They go on as if nothing had been."""
        for writer in self.writers:
            writer.process.send_signal(signal.SIGCONT)

    def cut(self, pipe: subprocess.Popen[bytes]) -> None:
        """Take the power away, and give it back: the disk is mounted, nobody runs there, the writers hold still."""
        with self.disk.cut():
            self.stop_writers()
            pipe.kill()  # whoever writes its checkpoints dies with it
        pipe.wait(START_TIMEOUT_S)
        self.disk.come_back()

    @property
    def begins(self) -> int:
        """Number of the log's first segment."""
        return list_log(OsFiles(), str(self.place.data)).segments[0]

    def follow(self, operator: Operator) -> None:
        """Read what the running pipe says is durable, before it is trimmed."""
        status: Any = operator.request("status")
        with closing(LogFollower(OsFiles(), str(self.place.data), _end(self.frames))) as follower:
            self.frames += follower.frames(status["next_index"])

    def look(self) -> list[str]:
        """Read the log as it is now. What was durable stands there still, or was trimmed; what does not?"""
        found = list(dump(OsFiles(), str(self.place.data)))
        before = self.frames
        first = found[0].first_index if found else 1
        below = [frame for frame in before if frame.first_index < first]
        if first != _end(below):
            return [f"the log begins at index {first}, and was seen up to {_end(before)}: trimmed unseen, or lost"]
        self.frames = below + found
        if self.frames[: len(before)] != before:
            return [f"the log says something else than before below index {_end(before)}, or ends at {_end(found)}"]
        return []

    def judge(self, found: dict[oracle.Id, oracle.Session]) -> list[str]:
        """All that is wrong with the log and the sessions, by what the writers were told."""
        told = [histories.read(writer.path) for writer in self.writers]
        reading = oracle.read_log(self.frames, told)
        answers = oracle.check_answers(reading, told)
        stories = [(history.writer, number, story) for history in told for number, story in history.stories.items()]
        self.unanswered += sum((name, number) in reading.batches for name, number, story in stories if not story.acks)
        return reading.faults + answers + oracle.check_state(reading, found, frozenset())


def _end(frames: list[Frame]) -> int:
    return frames[-1].first_index + frames[-1].count if frames else 1


def _place(disk: Disk, path: Path, free_port: FreePorts, processes: Processes) -> Place:
    place = Place(path, free_port(), free_port(), processes, data=disk.path / "data")
    config = place.config.read_text().replace("keep: 64GiB", f"keep: {KEEP}").replace("16MiB", SEGMENT)
    place.config.write_text(config)
    return place


def _verified(place: Place) -> None:
    """`mpy6a log verify` finds log and checkpoint whole and fitting each other. Raises AssertionError."""
    argv = [sys.executable, "-m", "mpy6a", "log", "verify", str(place.data), "--json"]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"]


def _live(world: World, pipe: subprocess.Popen[bytes], operations: int, *, trims: bool) -> None:
    """Let the pipe work until each writer had so many answers, and with `trims` until it trimmed; keep what it logs."""
    goals = [writer.acked + operations // WRITERS for writer in world.writers]
    give_up_s = time.monotonic() + LIFE_S
    begins = world.begins
    with Operator(world.place.admin) as operator:
        world.follow(operator)
        while any(writer.acked < goal for writer, goal in zip(world.writers, goals, strict=True)) or (
            trims and world.begins == begins
        ):
            assert pipe.poll() is None, world.place.said()[-2_000:]
            assert all(writer.acked >= 0 for writer in world.writers), "a writer ended: see its message above"
            assert time.monotonic() < give_up_s, operator.request("status")
            time.sleep(LOOK_S)
            world.follow(operator)


def _run(world: World, seed: int) -> str:
    chance = random.Random(seed)
    place, begun_s = world.place, time.monotonic()
    pipe = world.start()
    world.writers += [Running(place, place.listen, number, seed) for number in range(WRITERS)]
    in_flight = torn = 0
    for number in range(CUTS):
        _live(world, pipe, chance.randint(1, ACKED_BETWEEN_CUTS), trims=number == CUTS // 2)
        time.sleep(chance.uniform(0, JITTER_S))
        at_ns = time.monotonic_ns()
        world.cut(pipe)
        in_flight += sum(histories.read(writer.path).in_flight(at_ns) for writer in world.writers)
        torn += bool(place.torn_frames())
        if number % 2:
            pipe = world.begin()
            time.sleep(chance.uniform(*OPENING_S))
            world.cut(pipe)
        _verified(place)
        faults = world.look()
        pipe = world.start()
        faults += world.judge(read_sessions(place.admin))
        assert faults == [], "\n".join(faults[:20])
        world.let_writers_go()
    for writer in world.writers:
        writer.wait(writer.acked + 1, pipe)
        writer.stop(START_TIMEOUT_S)
    found = read_sessions(place.admin)
    place.processes.end()

    _verified(place)
    faults = world.look() + world.judge(found)
    assert faults == [], "\n".join(faults[:20])
    told = [histories.read(writer.path) for writer in world.writers]
    assert all(story.acks for history in told for story in history.stories.values())
    with closing(CheckpointFile.open(str(place.data))) as file:
        header = file.header()
        assert header is not None
        assert header.next_index > _end(world.frames) // 2, "checkpoints were written all the time"
    assert in_flight > 0
    assert world.begins > 1
    resent = sum(len(story.resent_ns) for history in told for story in history.stories.values())
    return (
        f"{CUTS} cuts and {CUTS // 2} while opening, {in_flight} operations in flight, {torn} torn tails,"
        f" {world.begins - 1} segments trimmed, {resent} batches resent, {world.unanswered} of them durable,"
        f" {histories.operations(told)} operations acknowledged, {len(found)} sessions live,"
        f" {time.monotonic() - begun_s:.1f} s"
    )


@pytest.mark.timeout(300)
def test_power_cuts_lose_nothing(disk: Disk, short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """No acknowledged operation missing, none there twice or half, order kept; also over trims and checkpoints."""
    world = World(_place(disk, short_tmp, free_port, processes), disk)
    print(f"\n{_run(world, SEED)}")


@pytest.mark.soak
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("run", range(17))
def test_a_hundred_power_cuts(
    disk: Disk, short_tmp: Path, free_port: FreePorts, processes: Processes, run: int
) -> None:
    """The same for as long as a soak takes, each time from a new directory on."""
    world = World(_place(disk, short_tmp, free_port, processes), disk)
    print(f"\n{_run(world, SEED + run)}")


def test_a_disk_that_lies_is_found_out(
    disk: Disk, short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """The test's own test: groups that were acknowledged and not synced are missing after a cut, and it is told."""
    world = World(_place(disk, short_tmp, free_port, processes), disk)
    place = world.place
    pipe = world.start("lying")
    world.writers.append(Running(place, place.listen, 0, SEED))
    world.writers[0].wait(1_000, pipe)
    world.cut(pipe)
    assert world.look() == []
    world.start()
    faults = world.judge(read_sessions(place.admin))
    world.writers[0].kill()
    assert any("acknowledged, and not in the log" in fault for fault in faults)
