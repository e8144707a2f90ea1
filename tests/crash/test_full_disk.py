"""A pipe on a disk that is filled to the brim: what is refused, what goes on, and how it comes back by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mpy6a import limits
from mpy6a.disk import Bounds
from mpy6a.errors import Code
from mpy6a.framing import SEGMENT_HEADER_BYTES
from mpy6a.messages import Ack
from mpy6a.model import Op, Verb
from tests.crash.doors import Door, NoAnswer, read_sessions
from tests.crash.oracle import Id
from tests.crash.place import START_TIMEOUT_S, Place, environment
from tests.crash.small_disk import SmallDisk, ext4
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.crash

DISK_BYTES: Final = 192 << 20
RECORD_BYTES: Final = 128 << 10
WAIT_S: Final = 60.0  # for what a pipe does by itself within seconds
MANY: Final = 20_000  # batches that would never fit


@pytest.fixture
def small_disk(short_tmp: Path, processes: Processes) -> Iterator[SmallDisk]:
    """Mounted for the test; its processes are ended before it goes."""
    with ext4(short_tmp / "disk", DISK_BYTES) as disk:
        try:
            yield disk
        finally:
            processes.end()


class Client:
    """Writes sessions of 128 KiB records one by one, and keeps what was acknowledged."""

    def __init__(self, place: Place, door: Door, admin: Door) -> None:
        self.door, self.admin = door, admin
        self.place = place
        self.records: dict[Id, list[bytes]] = {}
        self._seq: dict[Id, int] = {}
        self._requests = 0

    def hello(self) -> None:
        """Wait until the pipe serves."""
        try:
            self.door.hello(START_TIMEOUT_S)
        except NoAnswer:
            pytest.fail(self.place.said()[-2_000:])

    def _one(self, op: Op) -> tuple[int, Ack]:
        while True:
            ack = self.door.batch([op], timeout_s=30.0)
            if ack.code != Code.BUSY:
                break
            time.sleep(ack.retry_after_ms / 1000)  # as the library does
        assert not ack.code
        return (ack.results[0].code if ack.results else 0), ack

    def new(self) -> int:
        """One New; its code."""
        self._requests += 1
        record = os.urandom(RECORD_BYTES)
        code, ack = self._one(Op(Verb.NEW, self._requests, argument=1, record=record))
        if not code:
            self.records[ack.term, ack.first_index] = [record]
            self._seq[ack.term, ack.first_index] = 0
        return code

    def write(self, verb: Verb, id: Id, record: bytes | None = None, argument: int = 0) -> int:
        """One operation on a session; its code."""
        self._seq[id] += 1
        code, _ = self._one(Op(verb, id[1], id[0], 1, self._seq[id], argument=argument, record=record))
        if not code and verb == Verb.DELETE:
            del self.records[id]
        elif not code and verb == Verb.APPEND:
            assert record is not None
            self.records[id].append(record)
        elif not code and verb == Verb.REPLACE:
            assert record is not None
            self.records[id] = [record]
        return code

    @property
    def disk(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.admin.ask("status")["disk"]
        return facts

    @property
    def is_roomy(self) -> bool:
        """Level 0, and the log has prepared all that it wants."""
        disk = self.disk
        bounds = Bounds(disk["low_bytes"], disk["very_low_bytes"], disk["reserve_bytes"])
        wanted = bounds.spares(limits.SEGMENT_BYTES_MIN) * (limits.SEGMENT_BYTES_MIN - SEGMENT_HEADER_BYTES)
        return bool(disk["level"] == 0 and disk["prepared_bytes"] >= wanted)

    def wait(self, what: Callable[[], bool]) -> None:
        """Until it holds. Raises TimeoutError."""
        end_s = time.monotonic() + WAIT_S
        while not what():
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self.admin.ask('status')} {self.place.said()[-2000:]} {self.files()}")
            time.sleep(0.05)

    def files(self) -> dict[str, int]:
        """The pipe's, each with the bytes that it has on the disk."""
        paths = [path for path in self.place.data.rglob("*") if path.is_file()]
        return {path.name: path.stat().st_blocks * 512 for path in sorted(paths)}

    def check(self) -> None:
        """All that was acknowledged is there, and nothing else."""
        there = read_sessions(self.place.admin)
        assert there.keys() == self.records.keys()
        for id, session in there.items():
            assert session.records == self.records[id]


def _place(disk: SmallDisk, path: Path, free_port: FreePorts, processes: Processes) -> Place:
    place = Place(path, free_port(), free_port(), processes, data=disk.path / "data")
    # The client has no heartbeats: nothing is to be stored because it is quiet.
    place.config.write_text(place.config.read_text().replace("limits: {record: 4KiB}\nlease: 10m", "lease: 1h"))
    return place


def test_a_disk_filled_to_the_brim(
    small_disk: SmallDisk, short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """New is refused first, then what grows; what ends sessions goes on with not a byte free, also after a restart
    there; with room all goes on by itself, and nothing that was acknowledged is missing."""
    place = _place(small_disk, short_tmp, free_port, processes)
    with Door(place.listen) as door, Door(place.admin) as admin:
        _fill_to_the_brim(place, Client(place, door, admin), small_disk)


def _fill_to_the_brim(place: Place, client: Client, small_disk: SmallDisk) -> None:
    pipe = place.start()
    client.hello()

    assert next(code for code in (client.new() for _ in range(MANY)) if code) == Code.DISK_LOW
    assert len(client.records) > 200, "it was hardly used"
    for id in list(client.records)[-len(client.records) // 3 :]:
        assert client.write(Verb.DELETE, id) == 0
    client.wait(lambda: client.is_roomy)
    assert client.new() == 0

    small_disk.fill(leave=client.disk["very_low_bytes"] + (4 << 20))
    client.wait(lambda: client.disk["level"] == 1)
    ids = list(client.records)
    assert client.new() == Code.DISK_LOW
    assert client.write(Verb.APPEND, ids[0], b"more") == 0

    with small_disk.brim():
        client.wait(lambda: client.disk["level"] == 2)
        assert client.new() == Code.DISK_LOW
        assert client.write(Verb.APPEND, ids[1], b"more") == Code.DISK_LOW
        assert client.write(Verb.REPLACE, ids[2], os.urandom(RECORD_BYTES + 1)) == Code.DISK_LOW
        assert client.write(Verb.STORE, ids[3]) == 0
        client.wait(lambda: _why(client, ids[3]) == "DISK")
        for id in ids[4:104]:
            assert client.write(Verb.DELETE, id) == 0
        assert "level 2" in _status(place)
        for ending in ("kill", "terminate"):
            getattr(pipe, ending)()
            pipe.wait(START_TIMEOUT_S)
            pipe = place.start()
            client.hello()
            client.wait(lambda: client.disk["level"] == 2)
            assert client.new() == Code.DISK_LOW
            assert client.write(Verb.DELETE, ids.pop()) == 0
        client.check()

    client.wait(lambda: client.disk["level"] == 0)
    assert client.new() == 0
    assert client.write(Verb.APPEND, ids[1], b"at last") == 0
    assert _why(client, ids[3]) == "NO_SIDECAR"

    pipe.terminate()
    assert pipe.wait(START_TIMEOUT_S) == 0
    place.start()
    client.hello()
    client.check()
    assert "disk level" in place.said()


def _why(client: Client, id: Id) -> str:
    reason: str = client.admin.ask("sessions.show", id=f"1.{id[0]}.{id[1]}")["why"]
    return reason


def _status(place: Place) -> str:
    """What an operator sees."""
    argv = [sys.executable, "-m", "mpy6a", "status", "--config", str(place.config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment(), timeout=WAIT_S)
    facts = json.loads(subprocess.run([*argv, "--json"], capture_output=True, check=True, env=environment()).stdout)
    assert facts["disk"]["level"] == 2
    return " ".join(done.stdout.split())
