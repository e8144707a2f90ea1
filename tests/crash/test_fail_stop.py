"""What a pipe does when its disk fails, and how it refuses to start: one sentence, an exit code, nothing lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from mpy6a.exits import EXIT_CANNOT_START, EXIT_DAMAGED, EXIT_USAGE
from mpy6a.framing import SEGMENT_HEADER_BYTES
from mpy6a.messages import Ack
from mpy6a.model import Op, Verb
from tests.crash.doors import Door, NoAnswer, read_sessions
from tests.crash.oracle import Id
from tests.crash.place import START_TIMEOUT_S, Place
from tests.crash.small_disk import SmallDisk, tmpfs
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.crash

AFTER_THE_END_S: Final = 0.5  # so long nothing may come from a process that has ended
SMALL_DISK_BYTES: Final = 28 << 20


@pytest.fixture
def place(short_tmp: Path, free_port: FreePorts, processes: Processes) -> Place:
    return Place(short_tmp, free_port(), free_port(), processes)


@pytest.fixture
def small_disk(short_tmp: Path, processes: Processes) -> Iterator[SmallDisk]:
    """Mounted for the test; its processes are ended before it goes."""
    with tmpfs(short_tmp / "disk", SMALL_DISK_BYTES) as disk:
        try:
            yield disk
        finally:
            processes.end()


def _new(request: int) -> Op:
    return Op(Verb.NEW, request, argument=1, record=b"first of %d" % request)


def _made(ack: Ack) -> Id:
    assert not ack.code
    assert not ack.results
    return ack.term, ack.first_index


def _write_until_silence(place: Place, door: Door) -> list[Id]:
    """One New a batch, until one is not answered; the sessions that were acknowledged."""
    door.hello()
    made: list[Id] = []
    while True:
        request = len(made) + 1
        try:
            made.append(_made(door.batch([_new(request)], timeout_s=2.0)))
        except NoAnswer:
            return made


def one_sentence(said: str) -> str:
    """What a process said at its end: one line for people, beside its log lines, and no traceback."""
    lines = [line for line in said.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT\S+ [A-Z]+ ", line)]
    assert len(lines) == 1, said
    assert lines[0].startswith("mpy6a: "), said
    return lines[0]


@pytest.mark.parametrize("fail_point", ["sync:5:EIO", "write:5:EIO", "write:5:ENOSPC", "sync:1:EIO"])
def test_a_failed_write_or_sync_ends_the_pipe(place: Place, fail_point: str) -> None:
    """No ack after it, exit code 3, one sentence; on a healthy disk everything acknowledged is there."""
    pipe = place.start(fail_point)
    with Door(place.listen) as door:
        made = _write_until_silence(place, door)
        assert pipe.wait(START_TIMEOUT_S) == EXIT_CANNOT_START
        with pytest.raises(NoAnswer):
            door.receive(AFTER_THE_END_S)
    assert len(made) == int(fail_point.split(":")[1]) - 1
    said = one_sentence(place.said())
    assert "failed" in said
    assert "check the disk" in said

    place.start()
    with Door(place.listen) as door:
        door.hello()
    there = read_sessions(place.admin)
    assert there.keys() >= set(made)
    # The one that got no answer was written before its sync failed, or only in part: it is there, or it is not.
    assert len(there) <= len(made) + 1


def test_a_sync_that_fails_late_loses_nothing_that_went_before(place: Place) -> None:
    """The pipe that failed is not asked again: the next one reads the log, writes its tail anew, and goes on."""
    for life in range(3):
        pipe = place.start(f"sync:{life + 2}:EIO")
        with Door(place.listen) as door:
            made = _write_until_silence(place, door)
        assert len(made) == life + 1
        assert pipe.wait(START_TIMEOUT_S) == EXIT_CANNOT_START
    place.start()
    with Door(place.listen) as door:
        door.hello()
    assert len(read_sessions(place.admin)) >= 1 + 2 + 3


def test_a_read_only_directory(place: Place, request: pytest.FixtureRequest) -> None:
    """A directory that cannot be written is named before anything is served."""
    if os.geteuid():
        place.data.mkdir(mode=0o500)
        data = place.data
    else:  # root may write everywhere but on a read-only disk
        disk: SmallDisk = request.getfixturevalue("small_disk")
        data = disk.path / "data"
        place.config.write_text(place.config.read_text().replace(str(place.data), str(data)))
        disk.remount("ro")
    code, said = place.refusal()
    assert code == EXIT_CANNOT_START
    assert str(data) in one_sentence(said)


def test_a_data_path_that_is_no_directory(place: Place) -> None:
    """A file where the directory has to be is named too."""
    place.data.write_text("in the way")
    code, said = place.refusal()
    assert code == EXIT_CANNOT_START
    assert str(place.data) in one_sentence(said)


def test_what_another_pipe_holds(place: Place, short_tmp: Path, free_port: FreePorts, processes: Processes) -> None:
    """Data directory, port and ipc path of a running pipe: each is refused, and the running one does not notice."""
    pipe = place.start()
    with Door(place.listen) as door:
        door.hello()
        session = _made(door.batch([_new(1)]))
        data = Place(short_tmp, free_port(), free_port(), processes, name="data", data=place.data)
        port = Place(short_tmp, free_port(), free_port(), processes, name="port", listen=place.listen)
        path = Place(short_tmp, free_port(), free_port(), processes, name="path", admin=place.admin)
        for other, named in ((data, str(pipe.pid)), (port, place.listen), (path, place.admin)):
            code, said = other.refusal()
            assert code == EXIT_CANNOT_START
            assert named in one_sentence(said)
        append = Op(Verb.APPEND, session[1], session[0], 1, 1, record=b"still here")
        assert not door.batch([append]).results
    assert read_sessions(place.admin)[session].records == [b"first of 1", b"still here"]
    pipe.terminate()
    assert pipe.wait(START_TIMEOUT_S) == 0


def test_a_config_that_is_not_there(place: Place) -> None:
    """The missing file is named: usage, not a crash."""
    place.config.unlink()
    code, said = place.refusal()
    assert code == EXIT_USAGE
    assert str(place.config) in one_sentence(said)


def test_data_of_another_pipe_and_of_another_release(
    place: Place, short_tmp: Path, free_port: FreePorts, processes: Processes
) -> None:
    """A wrong pipe number and an unknown format version are refused by name; damaged data is, with its place."""
    pipe = place.start()
    with Door(place.listen) as door:
        door.hello()
        for request in range(1, 4):
            door.batch([_new(request)])
    pipe.terminate()
    assert pipe.wait(START_TIMEOUT_S) == 0

    other = Place(short_tmp, free_port(), free_port(), processes, name="other", data=place.data, pipe=2)
    code, said = other.refusal()
    assert (code, "pipe 1" in said, "pipe 2" in one_sentence(said)) == (EXIT_CANNOT_START, True, True)

    identity = place.data / "pipe.json"
    right = identity.read_text()
    identity.write_text(right.replace('"format": 1', '"format": 7'))
    code, said = place.refusal()
    assert (code, "format 7" in one_sentence(said)) == (EXIT_DAMAGED, True)
    identity.write_text(right)

    segment = place.data / "log" / f"{1:016x}.seg"
    with segment.open("r+b") as file:
        file.seek(SEGMENT_HEADER_BYTES + 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    code, said = place.refusal()
    assert code == EXIT_DAMAGED
    assert str(segment) in one_sentence(said)
    assert "mpy6a log verify" in said
