"""An ack never leaves the pipe before its operations are on the disk, as the kernel saw it.

The pipe runs under strace. For every batch: its bytes come in, a write to the log that carries them and a sync that
covers that write have returned, and only then a write to a socket that carries the ack begins. A batch is known by
its number, 64 random bits, which stands in the batch, in the log's frame (the batch verbatim) and in the ack.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from mpy6a.errors import Code
from mpy6a.model import Op, Verb
from tests.crash.doors import Door
from tests.crash.place import START_TIMEOUT_S, Place
from tests.ports import FreePorts
from tests.processes import Processes

pytestmark = pytest.mark.e2e

BATCHES: Final = 40
NO_STRACE: Final = "strace is not installed"
NO_TRACE: Final = "strace may not trace here"

# `PID name(arguments) = result`, or the same in two lines around what other threads did meanwhile.
_LINE: Final = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
_BEGUN: Final = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
_GOES_ON: Final = re.compile(r"<\.\.\. (\w+) resumed>(.*)\s= (-?\d+)(.*)$", re.DOTALL)
_WHOLE: Final = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(.*)$", re.DOTALL)
_FILE: Final = re.compile(r"(\d+)<(.*?)>[,)]|(\d+)<(.*)>$")
_HEX: Final = re.compile(r"\\x([0-9a-f]{2})")
_LENGTHS: Final = re.compile(r"iov_len=(\d+)|\", (\d+), \d+$")  # of each part of a vector, or of a plain pwrite

_RECEIVING: Final = frozenset({"recvfrom", "recvmsg", "read"})
_SENDING: Final = frozenset({"sendto", "sendmsg", "write", "writev"})
_WRITING: Final = frozenset({"pwrite64", "pwritev", "pwritev2"})
_SYNCING: Final = frozenset({"fdatasync", "fsync"})
_CALLS: Final = ",".join(sorted(_RECEIVING | _SENDING | _WRITING | _SYNCING))


@dataclass(slots=True)
class Call:
    """One system call: the lines at which it began and returned, its file, arguments and result."""

    name: str
    begun: int
    arguments: str
    ended: int = 0
    result: int = -1

    @property
    def path(self) -> str:
        """Of its first argument, as strace -y tells it: in hex like all its strings."""
        found = _FILE.match(self.arguments)
        path = (found[2] or found[4] or "") if found else ""
        return _HEX.sub(lambda byte: chr(int(byte[1], 16)), path)

    @property
    def whole(self) -> bool:
        """Whether a write wrote all that it was given."""
        lengths = _LENGTHS.findall(self.arguments)
        return bool(lengths) and sum(int(vector or count) for vector, count in lengths) == self.result


@dataclass(slots=True)
class Seen:
    """What became of one batch, by line numbers of the trace; 0: it was not seen."""

    came: int = 0
    durable: int = 0  # the return of the sync that covers it
    acked: int = 0  # the begin of the write that carries its ack
    faults: list[str] = field(default_factory=list)


def calls(lines: Iterable[str]) -> list[Call]:
    """The calls of a trace, in the order in which they began; those that never returned keep result -1."""
    found: list[Call] = []
    open_calls: dict[str, Call] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.match(line.rstrip("\n"))
        if match is None:
            continue
        thread, text = match.groups()
        if begun := _BEGUN.match(text):
            open_calls[thread] = Call(begun[1], number, begun[2])
            found.append(open_calls[thread])
        elif goes_on := _GOES_ON.match(text):
            call = open_calls.pop(thread)
            assert call.name == goes_on[1]
            call.arguments += goes_on[2]
            call.ended, call.result = number, int(goes_on[3])
        elif whole := _WHOLE.match(text):
            found.append(Call(whole[1], number, whole[2], number, int(whole[3])))
    return found


def judge(trace: list[Call], numbers: Iterable[int]) -> dict[int, Seen]:
    """What the trace tells of each batch: when it came, was durable and was answered, and what is wrong about it."""
    found = {number: Seen() for number in numbers}
    for number, seen in found.items():
        needle = "".join(f"\\x{byte:02x}" for byte in number.to_bytes(8, "little"))
        written: tuple[str, int] | None = None  # the file and the line of the write's return
        for call in trace:
            carries = needle in call.arguments
            to_log = call.path.endswith(".seg")
            if carries and call.name in _RECEIVING and not to_log and not seen.came:
                seen.came = call.ended
            elif carries and call.name in _WRITING and to_log and call.whole and written is None:
                written = call.path, call.ended
                if "RWF_DSYNC" in call.arguments:
                    seen.durable = call.ended
            elif call.name in _SYNCING and written is not None and not seen.durable and not call.result:
                if call.path == written[0] and call.begun > written[1]:
                    seen.durable = call.ended
            elif carries and call.name in _SENDING and not to_log and not seen.acked:
                seen.acked = call.begun
        if not seen.came:
            seen.faults.append("it was not seen to come in")
        if written is None:
            seen.faults.append("it was not seen to be written to the log")
        if not seen.acked:
            seen.faults.append("its ack was not seen")
        elif not 0 < seen.came <= seen.durable < seen.acked:
            seen.faults.append(f"its ack left at line {seen.acked}, it was durable at {seen.durable or 'no'} line")
    return found


def _traced(place: Place, tmp_path: Path) -> tuple[list[Call], list[int]]:
    """Run a pipe under strace, have it answer some batches, one at a time, and end it."""
    trace = tmp_path / "trace"
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip(NO_STRACE)
    probe = subprocess.run([strace, "-f", "-o", str(tmp_path / "probe"), "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(NO_TRACE)
    # -D: the pipe stays this process's own child, and strace ends with it.
    told = ("-y", "-xx", "-s", "4096", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(trace))
    pipe = place.start(before=(strace, "-D", "-f", *told))
    numbers: list[int] = []
    with Door(place.listen) as door:
        door.hello(START_TIMEOUT_S)
        term = index = 0
        for place_in_session in range(BATCHES):
            numbers.append(secrets.randbits(62) | 1 << 62)
            record = b"record of batch %d" % place_in_session
            if not place_in_session:
                ack = door.batch([Op(Verb.NEW, 1, argument=1, record=record)], numbers[-1])
                term, index = ack.term, ack.first_index
            else:
                op = Op(Verb.APPEND, index, term, 1, place_in_session, record=record)
                ack = door.batch([op], numbers[-1])
            assert ack.code == Code.OK
            assert not ack.results
    pipe.terminate()
    assert pipe.wait(START_TIMEOUT_S) == 0
    _wait_for_end(trace)
    return calls(trace.read_text(encoding="ascii").splitlines()), numbers


def _wait_for_end(trace: Path) -> None:
    """Until strace has written its last line: it outlives what it traces by a moment."""
    until_s = time.monotonic() + START_TIMEOUT_S
    size = -1
    while True:
        with trace.open("rb") as file:
            file.seek(max(0, trace.stat().st_size - 256))
            tail = file.read()
        if b"+++ exited with" in tail and trace.stat().st_size == size:
            return
        size = trace.stat().st_size
        assert time.monotonic() < until_s, "strace does not end"
        time.sleep(0.02)


def _place(short_tmp: Path, free_port: FreePorts, processes: Processes, fsync: str) -> Place:
    return Place(short_tmp, free_port(), free_port(), processes, fsync=fsync)


@pytest.mark.timeout(120)
def test_every_ack_waits_for_its_sync(
    short_tmp: Path, free_port: FreePorts, processes: Processes, tmp_path: Path
) -> None:
    """Before every ack on the wire there is a completed sync that covers it."""
    trace, numbers = _traced(_place(short_tmp, free_port, processes, "always"), tmp_path)
    found = judge(trace, numbers)
    assert {number: seen.faults for number, seen in found.items() if seen.faults} == {}
    assert len({seen.durable for seen in found.values()}) == BATCHES, "one batch at a time: a sync for each"


@pytest.mark.timeout(120)
def test_acks_that_do_not_wait_are_found(
    short_tmp: Path, free_port: FreePorts, processes: Processes, tmp_path: Path
) -> None:
    """The test's own test: `fsync: interval`, which says that an ack is not durable, is convicted by the same trace."""
    trace, numbers = _traced(_place(short_tmp, free_port, processes, "interval"), tmp_path)
    early = [seen for seen in judge(trace, numbers).values() if seen.faults]
    assert early
    assert all("its ack left" in fault for seen in early for fault in seen.faults)


def test_a_trace_is_read_as_it_was() -> None:
    """Calls around each other are put together; a sync that began before the write does not cover it."""
    number = 0x0102030405060708
    text = "\\x08\\x07\\x06\\x05\\x04\\x03\\x02\\x01"
    lines = [
        f'11 recvfrom(9<TCP:[1->2]>, "{text}", 8192, 0, NULL, NULL) = 8',
        "10 fdatasync(5</data/log/1.seg> <unfinished ...>",
        f'12 pwrite64(5</data/log/1.seg>, "{text}", 8, 4096) = 8',
        "10 <... fdatasync resumed>) = 0",
        f'11 sendto(9<TCP:[1->2]>, "{text}", 8, 0, NULL, 0) = 8',
    ]
    assert judge(calls(lines), [number])[number].faults == ["its ack left at line 5, it was durable at no line"]
    lines.insert(4, "10 fdatasync(5</data/log/1.seg>) = -1 EIO (Input/output error)")
    assert judge(calls(lines), [number])[number].faults
    lines.insert(5, "10 fdatasync(5</data/log/1.seg> <unfinished ...>")
    lines.insert(6, "10 <... fdatasync resumed>) = 0")
    assert judge(calls(lines), [number])[number] == Seen(came=1, durable=7, acked=8)
    lines[6], lines[7] = lines[7], lines[6]
    assert judge(calls(lines), [number])[number].faults
