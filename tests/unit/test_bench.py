"""The benchmark measures what it says: every ack asked, every operation counted once, memory never called a disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpy6a import wire
from mpy6a.benchmark import report
from mpy6a.benchmark.api import new_loop
from mpy6a.benchmark.checked import CheckedConnection, CheckedExchange
from mpy6a.benchmark.disk import BLOCK_BYTES, FILE_BYTES, SyncProbe, file_system, real_disk
from mpy6a.benchmark.figures import Measured, Row, Run, Spread, percentile, run_of, spread
from mpy6a.benchmark.lifecycles import Lifecycles
from mpy6a.benchmark.place import Place
from mpy6a.benchmark.processes import Child, cpu_ns
from mpy6a.benchmark.sitting import Plan, Sitting
from mpy6a.commands.bench import bench
from mpy6a.config import load_pipe, load_sidecar
from mpy6a.errors import BadRequest, CannotStart, Code, Unavailable
from mpy6a.messages import Ack, Batch, Limits, PipeInfo, Role, Welcome
from mpy6a.model import Result, SessionId, Verb

INCARNATION = b"c" * 16
MOUNTS = [
    "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    "23 22 0:20 / /dev/shm rw - tmpfs tmpfs rw",
    r"24 22 254:1 / /big\040disk rw - xfs /dev/vdb rw",
    "25 24 0:30 / /big\\040disk/over rw - btrfs /dev/vdc rw",
    "26 24 0:31 / /big\\040disk/over rw - tmpfs tmpfs rw",
]
RUN = Run(
    operations_s=100_000, p50_us=1_000, p99_us=3_000, cpu_us={"pipe": 2.0, "client": 1.0}, syncs_per_operation=0.01,
    operations_per_ack=100, disk_p50_us=100, disk_p99_us=300, disk_rested_p50_us=150,
    loop_ns=50, durable=True,
)  # fmt: skip
PLAN = Plan("exchange", "direct", (256,), 3, 2.0, 256, "always", "asyncio", Path())


def acked(message: bytes, first_index: int, *, durable: bool = True, results: tuple[Result, ...] = ()) -> bytes:
    """The ack of a packed batch."""
    batch = wire.decode(wire.unpack(message)[0])
    assert isinstance(batch, Batch)
    ack = Ack(batch.number, first_index, 1_000, 3, durable=durable, results=results)
    return wire.encode(ack, incarnation=INCARNATION, pipe=1)


def verbs(message: bytes) -> list[Verb]:
    batch = wire.decode(wire.unpack(message)[0])
    assert isinstance(batch, Batch)
    return [Verb(op.verb) for op in batch.ops]


# ---------------------------------------------------------------------- lifecycles


def exchange_at_pipe_1() -> CheckedExchange[int]:
    exchange: CheckedExchange[int] = CheckedExchange(INCARNATION, 1)
    exchange.heard(1_000, 0)
    return exchange


def answer(exchange: CheckedExchange[int], lifecycles: Lifecycles, message: bytes, now_ns: int) -> None:
    [ack] = wire.unpack(acked(message, 10))
    lifecycles.answered(exchange.receive(ack, 0), 0, now_ns)


def test_a_slot_lives_new_three_appends_delete_and_begins_again_until_it_is_told_to_end() -> None:
    exchange = exchange_at_pipe_1()
    lifecycles = Lifecycles(exchange, 1, 2, b"r" * 256)
    lifecycles.begin(0, 0)
    seen = []
    for turn in range(1, 11):
        [message] = exchange.outgoing(0)
        seen.append(verbs(message))
        lifecycles.ending = turn > 5
        answer(exchange, lifecycles, message, turn * 100)
    one = [Verb.NEW, Verb.APPEND, Verb.APPEND, Verb.APPEND, Verb.DELETE]
    assert seen == [[verb, verb] for verb in one * 2]
    assert lifecycles.running == 0
    assert exchange.outgoing(0) == []
    assert exchange.unanswered == 0


def test_every_operation_is_timed_once_from_its_call_to_its_answer() -> None:
    exchange = exchange_at_pipe_1()
    lifecycles = Lifecycles(exchange, 1, 1, b"")
    lifecycles.begin(0, 1_000)
    for now_ns in (1_500, 1_700, 2_700):
        [message] = exchange.outgoing(0)
        answer(exchange, lifecycles, message, now_ns)
    assert lifecycles.latencies_ns == array("Q", [500, 200, 1_000])


@pytest.mark.parametrize("step", [0, 1])
def test_a_refused_operation_measures_nothing(step: int) -> None:
    exchange = exchange_at_pipe_1()
    lifecycles = Lifecycles(exchange, 1, 1, b"")
    lifecycles.begin(0, 0)
    for _ in range(step):
        [message] = exchange.outgoing(0)
        answer(exchange, lifecycles, message, 0)
    [message] = exchange.outgoing(0)
    [ack] = wire.unpack(acked(message, 10, results=(Result(0, Code.DISK_LOW),)))
    with pytest.raises(Unavailable, match="nothing to measure"):
        lifecycles.answered(exchange.receive(ack, 0), 0, 0)


# ---------------------------------------------------------------------- durable or not


@pytest.mark.parametrize(
    ("said", "not_durable"), [([True, True, True], 0), ([True, False, True], 1), ([False, False, False], 3)]
)
def test_every_ack_is_asked_whether_it_means_durable(said: list[bool], not_durable: int) -> None:
    connection: CheckedConnection[int] = CheckedConnection(INCARNATION)
    bounds = Limits(1 << 20, 1 << 24, 4_096, 1 << 22, 1_024, 1 << 22)
    welcome = Welcome(1, Role.PIPE, 15_000, 1_000, bounds, pipes=(PipeInfo(1, 3, True, 1_000),))
    connection.link_up(0)
    connection.outgoing(0)
    connection.receive(wire.encode(welcome, incarnation=INCARNATION), 0)
    answers = b""
    for number, durable in enumerate(said):
        connection.new(1, None, None, number, 0)
        [message] = connection.outgoing(0)
        answers += acked(message, 10 + number, durable=durable)
    # In one envelope: a flag that only the last one shows would be lost between them.
    done = connection.receive(answers, 0)
    assert done == [(number, SessionId(1, 3, 10 + number)) for number in range(len(said))]
    assert connection.acks() == (len(said), not_durable)


def measured(acks_not_durable: int) -> Measured:
    return Measured(
        operations=1_000, elapsed_ns=500_000_000, latencies_ns=array("Q", range(1_000, 101_000, 100)),
        cpu_ns={"pipe": 2_000_000}, operations_all=1_250, acks=5, acks_not_durable=acks_not_durable,
    )  # fmt: skip


def test_a_run_is_durable_only_if_no_ack_said_otherwise() -> None:
    assert run_of(measured(0), 5, [1], [1], 50.0).durable
    assert not run_of(measured(1), 5, [1], [1], 50.0).durable


def test_a_sitting_is_durable_only_if_every_run_was_and_the_pipe_synced_always() -> None:
    good, bad = Row(1, (RUN, RUN)), Row(16, (RUN, replace(RUN, durable=False)))
    assert Sitting(PLAN, "ext4", (good,)).durable
    assert not Sitting(PLAN, "ext4", (good, bad)).durable
    assert not Sitting(PLAN, "ext4", ()).durable
    # Acks that promise what the pipe was told not to keep are not believed.
    assert not Sitting(replace(PLAN, fsync="interval"), "ext4", (good,)).durable


def test_the_report_says_not_durable_first_and_in_plain_words() -> None:
    sitting = Sitting(replace(PLAN, fsync="interval"), "ext4", (Row(256, (replace(RUN, durable=False),)),))
    assert report.table(sitting).startswith("NOT DURABLE: an acknowledged operation may be lost with the machine")
    facts = report.facts(sitting)
    assert facts["durable"] is False
    assert facts["title"].startswith("NOT DURABLE")
    assert facts["rows"][0]["durable"] is False


# ---------------------------------------------------------------------- figures


def test_a_run_divides_by_what_was_counted() -> None:
    run = run_of(measured(0), 25, list(range(1_000, 101_000, 1_000)), [3_000, 1_000, 2_000], 50.0)
    assert run.operations_s == 2_000
    assert (run.p50_us, run.p99_us) == (51.0, 100.0)
    assert run.cpu_us == {"pipe": 2.0}
    assert run.syncs_per_operation == 0.02  # the log counts warm-up and end too
    assert run.operations_per_ack == 250
    assert (run.disk_p50_us, run.disk_p99_us, run.disk_rested_p50_us) == (51.0, 100.0, 2.0)


def test_spread_and_percentile() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert [percentile([7], share) for share in (0.0, 0.5, 0.99)] == [7, 7, 7]
    assert percentile(range(100), 0.99) == 99


def test_the_table_has_median_and_spread_and_a_cpu_column_a_process() -> None:
    rows = (Row(256, (RUN, replace(RUN, operations_s=120_000.0), replace(RUN, operations_s=90_000.0))),)
    table = report.table(Sitting(PLAN, "ext4", rows))
    heads, _, line = table.splitlines()[-3:]
    assert table.startswith("every operation durable before its ack | exchange, direct")
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:6] == ["256", "100.0 (90.0-120.0)", "1.000", "3.000", "2.00", "1.00"]
    assert len(heads) == len(line)
    assert json.loads(json.dumps(report.facts(Sitting(PLAN, "ext4", rows))))["rows"][0]["operations_s"]["high"] == 120e3


# ---------------------------------------------------------------------- disk, place, processes


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/srv/data", "ext4"),
        ("/dev/shm", "tmpfs"),
        ("/dev/shm/deep/er", "tmpfs"),
        ("/dev/shmoo", "ext4"),
        ("/big disk/data", "xfs"),
        ("/big disk/over", "tmpfs"),
    ],
)
def test_the_file_system_is_that_of_the_last_mount_nearest_to_the_directory(directory: str, name: str) -> None:
    assert file_system(Path(directory), MOUNTS) == name


def test_memory_is_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mpy6a.benchmark.disk.file_system", lambda directory: "tmpfs")
    with pytest.raises(CannotStart, match="is on tmpfs, which is memory"):
        real_disk(tmp_path)
    with pytest.raises(CannotStart, match="no directory"):
        real_disk(tmp_path / "missing")


def test_the_probe_writes_within_its_zero_filled_file_and_leaves_nothing(tmp_path: Path) -> None:
    probe = SyncProbe(tmp_path)
    [file] = tmp_path.iterdir()
    times = probe.sample(3)
    assert len(times) == 3
    assert min(times) > 0
    assert min(probe.sample(3, rest_s=0.05)) < 50_000_000  # the rest is not counted
    assert file.stat().st_size == FILE_BYTES
    assert file.read_bytes()[: 7 * BLOCK_BYTES] == b"\x5a" * 6 * BLOCK_BYTES + bytes(BLOCK_BYTES)
    probe.close()
    assert list(tmp_path.iterdir()) == []


def test_the_config_files_of_a_sitting_are_good_and_everything_is_removed(tmp_path: Path) -> None:
    with Place(tmp_path, "interval") as place:
        [directory] = tmp_path.iterdir()
        files = Path(place.doors.admin.removeprefix("ipc://")).parent
        pipe, sidecar = load_pipe(files / "pipe.yaml"), load_sidecar(files / "sidecar.yaml")
        assert pipe.log.fsync == "interval"
        assert pipe.data.parent == directory
        assert (list(pipe.listen), pipe.admin) == ([place.doors.pipe], place.doors.admin)
        assert (sidecar.listen, list(sidecar.pipes)) == (place.doors.sidecar, [place.doors.pipe])
    assert list(tmp_path.iterdir()) == []
    assert not files.exists()


def test_a_directory_that_cannot_be_written_to_is_one_sentence() -> None:
    with pytest.raises(CannotStart, match="name a directory you may write to, --data DIR"):
        Place(Path("/proc/self"))


def test_a_child_that_ends_by_itself_is_told_with_its_last_line(tmp_path: Path) -> None:
    code = "print('first'); print('no room'); raise SystemExit(3)"
    child = Child("pipe", [sys.executable, "-c", code], tmp_path / "pipe.log", dict(os.environ))
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(CannotStart, match="the pipe ended with code 3: no room"):
            child.check()
    finally:
        child.end()


def test_a_child_is_ended_by_its_own_pid(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input()"]
    child = Child("pipe", command, tmp_path / "pipe.log", dict(os.environ))
    child.end()
    assert not Path(f"/proc/{child.pid}").exists()
    child.end()


def test_the_cpu_clock_of_a_process_is_its_own() -> None:
    before, mine = time.process_time_ns(), cpu_ns(os.getpid())
    after = time.process_time_ns()
    assert before <= mine <= after
    idle = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        assert 0 <= cpu_ns(idle.pid) < 1_000_000_000
    finally:
        idle.communicate()


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize("text", ["", "0", "1,,2", "x", "16385", "-1", "999999999999"])
def test_numbers_in_flight_are_checked(text: str) -> None:
    told = CliRunner().invoke(bench, ["--in-flight", text])
    assert told.exit_code == 2
    assert "numbers from 1 to 16384" in told.output


def test_a_directory_in_memory_is_refused_by_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mpy6a.benchmark.disk.file_system", lambda directory: "ramfs")
    told = CliRunner().invoke(bench, ["--data", str(tmp_path), "--in-flight", "1"])
    assert isinstance(told.exception, CannotStart)
    assert list(tmp_path.iterdir()) == []


def test_a_loop_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(BadRequest, match="pip install uvloop"):
        new_loop("uvloop")
