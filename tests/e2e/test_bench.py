"""`mpy6a bench` with real processes on the real disk: tiny runs, and the promises about start and rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

# The promise is 0.5 s on a quiet machine (docs/benchmarks has it measured). A start is imports and zeroes: on
# cores shared with other tests the best of five was seen to cost 0.9 s of CPU and 2 s of time.
START_CPU_S = 1.25
START_S = 5.0
RSS_MAX = {"pipe": 65_000_000, "sidecar": 50_000_000}
REST_S = 10


def bench(disk: Path, *options: str, timeout_s: float = 100) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "mpy6a", "bench", "--data", str(disk), "--json", *options],
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A directory on a real disk: the checkout's, where the system's temporary files are in memory."""
    from mpy6a.benchmark.disk import IN_MEMORY, file_system

    return Path(__file__).parent if file_system(tmp_path) in IN_MEMORY else tmp_path


@pytest.mark.parametrize("level", ["exchange", "api"])
@pytest.mark.parametrize("through", ["direct", "sidecar"])
def test_a_tiny_sitting_is_durable_and_leaves_nothing(disk: Path, level: str, through: str) -> None:
    before = sorted(disk.iterdir())
    size = ["--in-flight", "1,32", "--runs", "2", "--seconds", "0.3"]
    facts = bench(disk, "--level", level, "--through", through, *size)
    assert sorted(disk.iterdir()) == before
    assert facts["durable"] is True
    assert [row["in_flight"] for row in facts["rows"]] == [1, 32]
    processes = {"pipe", "client"} | ({"sidecar"} if through == "sidecar" else set())
    for row in facts["rows"]:
        assert row["operations_s"]["low"] > 0
        for run in row["runs"]:
            assert set(run["cpu_us"]) == processes
            assert min(run["cpu_us"].values()) > 0
            assert 0 < run["p50_us"] <= run["p99_us"]
            assert 0 < run["disk_p50_us"] <= run["disk_p99_us"]
    alone, many = facts["rows"]
    # One operation in flight: each has a sync of its own, but for a mark of an idle moment. Many share theirs.
    assert all(0.99 < run["syncs_per_operation"] < 1.2 for run in alone["runs"])
    assert all(run["syncs_per_operation"] < 0.5 for run in many["runs"])


def test_fsync_interval_is_never_called_durable(disk: Path) -> None:
    facts = bench(disk, "--fsync", "interval", "--in-flight", "16", "--runs", "1", "--seconds", "0.2")
    assert facts["durable"] is False
    assert facts["title"].startswith("NOT DURABLE")
    assert facts["rows"][0]["runs"][0]["durable"] is False  # the acks said so themselves


def test_a_tiny_delivery_finishes_every_session_once_and_leaves_nothing(disk: Path) -> None:
    before = sorted(disk.iterdir())
    facts = bench(disk, "delivery", "--sessions", "60", "--burst", "40", "--kinds", "3", "--runs", "1", "--record", "9")
    assert sorted(disk.iterdir()) == before
    assert facts["durable"] is True
    assert [(part["handler"], part["runs"][0]["sessions"]) for part in facts["rates"]] == [
        ("attached", 60), ("python", 60), ("http", 3)
    ]  # fmt: skip
    assert [part["at_once"] for part in facts["bursts"]] == [40]
    kinds = facts["kinds"]
    assert [kinds[name]["runs"][0]["sessions"] for name in ("without", "with")] == [60, 40]
    assert [kinds[name]["runs"][0]["left"] for name in ("without", "with")] == [0, 20]  # of the kind that hangs
    for part in (*facts["rates"], *facts["bursts"], kinds["without"], kinds["with"]):
        for run in part["runs"]:
            assert run["handed"] == run["sessions"]
            assert run["twice"] == 0
            assert set(run["cpu_us"]) == {"pipe", "sidecar", "handler"}
            assert min(run["cpu_us"].values()) > 0
            assert -1 < run["late_p50_ms"] <= run["late_p99_ms"]  # both clocks count whole ms
            assert run["late_p99_ms"] <= run["finished_ms"] + 1
            assert part["repeats_s"]["low"] == run["repeats_s"] > 0


@pytest.mark.alone
def test_start_and_rest_keep_their_promises(disk: Path) -> None:
    """It starts without detours; at rest: below 1 % of a core, 65 MB for the pipe, 50 MB for the sidecar."""
    facts = bench(disk, "--level", "idle", "--through", "sidecar", "--runs", "5", "--seconds", str(REST_S))
    assert facts["start_cpu_s"]["low"] <= START_CPU_S
    assert facts["start_s"]["low"] <= START_S
    assert {process["name"] for process in facts["resting"]} == set(RSS_MAX)
    for process in facts["resting"]:
        assert process["cpu_share"] < 0.01
        assert process["rss_bytes"] < RSS_MAX[process["name"]]
