"""Backup, restore and repair as operators type them, on a pipe that works: what was acknowledged is there after."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from mpy6a.backup.manifest import read_manifest
from mpy6a.backup.taking import Taken, take
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.errors import Code
from mpy6a.exits import EXIT_CANNOT_START, EXIT_DAMAGED, EXIT_FOUND_BAD
from mpy6a.files import OsFiles
from mpy6a.log.directory import list_log, segment_path
from mpy6a.log.segments import SegmentLog
from mpy6a.messages import Ack, Ending, Goodbye, Outcomes, Push, Serve
from mpy6a.model import AttemptOutcome, Op, SessionId, Verb
from tests.e2e.filed import FiledLive, store_many
from tests.e2e.live import KIND, PIPE, Peer, environment
from tests.e2e.test_serve import mpy6a
from tests.ports import FreePorts, short_directory
from tests.processes import Processes

pytestmark = pytest.mark.e2e

MIB: Final = 1 << 20
BACKUPS: Final = 5
BETWEEN_S: Final = 1.0
WAIT_MS: Final = 3_600_000
ENOUGH_S: Final = 30.0


@pytest.fixture
def live(free_port: FreePorts) -> Iterator[FiledLive]:
    """A pipe that writes a checkpoint after each MiB, and uses its segments again."""
    with short_directory() as path, Processes() as processes:
        place = FiledLive(path, free_port, processes)
        place.pipe = place.start_pipe()
        yield place


class Load:
    """A client that begins and stores sessions as fast as it is answered, and deletes every other."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acked: dict[SessionId, bytes] = {}  # never deleted, and their only record
        self.finished: set[SessionId] = set()
        self.bytes = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with Peer(self._address) as peer:
            peer.hello()
            try:
                for turn in itertools.count():
                    if self._stop.is_set():
                        return
                    self._turn(peer, turn * 16 + 1)
            except (TimeoutError, AssertionError):
                pass  # the pipe was killed: nothing of this turn counts

    def _turn(self, peer: Peer, request: int) -> None:
        records = [f"{request + n:08} ".encode() * 3_000 for n in range(16)]
        news = [Op(Verb.NEW, request + n, argument=KIND, record=records[n]) for n in range(16)]
        made = self._ok(peer, news, request)
        here = [SessionId(PIPE, made.term, made.first_index + n) for n in range(16)]
        for id, record in list(zip(here, records, strict=True))[::2]:
            self.acked[id] = record
        of = [(Op(Verb.STORE, id.index, id.term, 1, 1, argument=WAIT_MS), id) for id in here[::2]]
        self._ok(peer, [op for op, _ in of], request + 16)
        self._ok(peer, [Op(Verb.DELETE, id.index, id.term, 1, 1) for id in here[1::2]], request + 16)
        self.finished.update(here[1::2])
        self.bytes += sum(map(len, records))

    def _ok(self, peer: Peer, ops: list[Op], mark: int) -> Ack:
        ack = peer.batch(*ops, mark=mark)
        while ack.code == Code.BUSY:  # the pipe waits for its checkpoint: nothing of the batch was logged
            self._stop.wait(ack.retry_after_ms / 1_000)
            ack = peer.batch(*ops, mark=mark)
        assert not ack.code, ack
        assert ack.results == (), ack
        return ack


def records_of(data: Path) -> dict[SessionId, bytes]:
    """What a pipe would start from: every live session and its records, joined."""
    file = CheckpointFile.open(str(data))
    log = SegmentLog.open(OsFiles(), str(data), PIPE)
    state = load_state(file, PIPE, log.uuid)
    for frame in log.replay(state.next_index):
        if frame.first_index >= state.next_index:
            state.apply(frame)
    found = {
        SessionId(PIPE, one.term, one.index): b"".join(state.sessions.records(one, log.read))
        for one in state.sessions.all()
    }
    log.close()
    return found


def test_backups_of_a_pipe_under_load(live: FiledLive) -> None:
    """One a second while segments are used again; then kill -9 and restore: what was acknowledged before is there."""
    data, target = live.path / "data", live.path / "backup"
    taken: list[Taken] = []
    with Load(live.listen) as load:
        end_s = time.monotonic() + ENOUGH_S
        while list_log(OsFiles(), str(data)).segments[0] == 1 and time.monotonic() < end_s:
            time.sleep(0.02)  # until a segment was used again
        known: dict[SessionId, bytes] = {}
        for _ in range(BACKUPS):
            while len(load.acked) == len(known) and time.monotonic() < end_s:
                time.sleep(0.02)  # clients wait while the checkpoint is behind: until something new was acknowledged
            known, gone = dict(load.acked), set(load.finished)
            begun_s = time.monotonic()
            taken.append(take(str(data), str(target), time.time_ns() // 1_000_000))
            time.sleep(max(0.0, begun_s + BETWEEN_S - time.monotonic()))
        live.pipe.kill()
        live.pipe.wait()
    assert len(known) > 100
    assert taken[0].manifest.first_index > 1
    assert all(one.manifest.last_index > before.manifest.last_index for before, one in itertools.pairwise(taken))
    print([(one.copied_bytes, one.kept_bytes) for one in taken], load.bytes, len(known))  # with -s, for the record
    os.rename(data, live.path / "lost")
    ended = mpy6a("restore", str(target), str(data), at=live.path)
    assert ended.code == 0, ended.err
    assert mpy6a("log", "verify", str(data), at=live.path).code == 0
    found = records_of(data)
    assert not known.keys() - found.keys()
    assert all(found[id] == record for id, record in known.items())
    assert not gone & found.keys()
    live.pipe = live.start_pipe()
    assert live.status()["live"] == len(found)
    assert live.status()["term"] > 200_000_000


def test_a_second_backup_copies_only_what_changed(live: FiledLive) -> None:
    """And one that is killed leaves the one before."""
    data, target = str(live.path / "data"), str(live.path / "backup")
    with Peer(live.listen) as peer:
        peer.hello()
        ids = store_many(peer, 1_000, bytes(20_000))
        live.wait_filed(ids[-1].index - 256)
        first = mpy6a("backup", data, target, "--json", at=live.path).facts
        assert first["kept_files"] == 0
        assert first["copied_bytes"] > 10 * MIB
        again = mpy6a("backup", data, target, "--json", at=live.path).facts
        assert again["copied_bytes"] < first["copied_bytes"] // 10  # the mark that the idle pipe wrote, at most
        assert again["kept_bytes"] > 10 * MIB
        before = read_manifest(target)
        assert before is not None
        store_many(peer, 1_000, bytes(20_000), first_request=1_001)
    names = {part.name for part in before.parts}
    started = subprocess.Popen(
        [sys.executable, "-m", "mpy6a", "backup", data, target], env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        end_s = time.monotonic() + ENOUGH_S
        while started.poll() is None and time.monotonic() < end_s:
            if set(os.listdir(target)) - names - {"manifest.json", "lock"}:
                break
    finally:
        started.kill()
        started.wait()
    assert started.returncode < 0, "it ended before it was killed"
    assert read_manifest(target) == before
    assert mpy6a("restore", target, str(live.path / "again"), "--json", at=live.path).facts["sessions"] == 1_000
    assert mpy6a("backup", data, target, at=live.path).code == 0


def test_hold_pushes_nothing_before_it_is_told_to(live: FiledLive) -> None:
    """A session that is due long since waits with KIND_PAUSED, in `status` too, until `mpy6a kinds resume`."""
    data, target = live.path / "data", live.path / "backup"
    with Peer(live.listen) as peer:
        peer.hello()
        id = peer.new(record=b"unfinished")
        peer.batch(Op(Verb.STORE, id.index, id.term, 1, 1, argument=1), mark=2)
    assert mpy6a("backup", str(data), str(target), at=live.path).code == 0
    live.pipe.terminate()
    live.pipe.wait()
    in_the_way = mpy6a("restore", str(target), str(data), at=live.path).refused(EXIT_CANNOT_START)
    assert "holds a pipe's log" in in_the_way
    os.rename(data, live.path / "lost")
    facts = mpy6a("restore", str(target), str(data), "--hold", "--json", at=live.path).facts
    assert (facts["sessions"], facts["held_kinds"]) == (1, 2)
    live.pipe, live.sidecar = live.start_pipe(), live.start_sidecar()
    with Peer(live.service) as handler:
        handler.hello(pipes=1)
        handler.say(Serve((KIND,), 4), pipe=0)
        assert handler.is_silent(1.0)
        shown = mpy6a("sessions", "show", str(id), "--json", at=live.path).facts
        assert shown["why"] == "KIND_PAUSED"
        assert "would run again" in shown["detail"]
        assert "restored from a backup of" in mpy6a("status", at=live.path).out
        assert mpy6a("kinds", "resume", "work", at=live.path).out == "resume is logged: work\n"
        push = handler.receive()
        while not isinstance(push, Push):
            push = handler.receive()
        [part] = push.sessions
        assert part.index == id.index
        handler.batch(Op(Verb.DELETE, part.index, part.term, part.epoch, 1))
        handler.say(Outcomes((Ending(part.term, part.index, part.epoch, AttemptOutcome.DECIDED),)))
        handler.say(Goodbye())
        handler.hello()
    kinds = mpy6a("kinds", "list", "--json", at=live.path).facts["kinds"]
    assert [kind["paused"] is None for kind in kinds] == [True, False]
    assert mpy6a("kinds", "resume", "--all", at=live.path).out == "resume is logged: 2\n"
    assert "name kinds, or say --all" in mpy6a("kinds", "pause", at=live.path).misused()


def test_repair_as_it_is_typed(live: FiledLive) -> None:
    """Says what it would do and changes nothing; with --accept-loss the pipe starts again, and a lost id is LOST."""
    data = live.path / "data"
    with Peer(live.listen) as peer:
        peer.hello()
        kept = store_many(peer, 1_000, bytes(2_000))
        live.wait_filed(kept[0].index)
        more = store_many(peer, 40, b"more", first_request=1_001)
    running = mpy6a("log", "repair", str(data), at=live.path)
    assert running.code == EXIT_CANNOT_START
    assert "is in use by process" in running.err
    live.pipe.kill()
    live.pipe.wait()
    assert mpy6a("log", "repair", str(data), at=live.path).out.endswith(": nothing to repair\n")
    number = list_log(OsFiles(), str(data)).segments[-1]
    path = Path(segment_path(str(data), number))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"more\0\0\0\0" * 2)  # in the last New of the client
    content[place] ^= 1
    path.write_bytes(content)
    assert mpy6a("log", "verify", str(data), at=live.path).code == EXIT_DAMAGED
    would = mpy6a("log", "repair", str(data), at=live.path)
    assert would.code == EXIT_FOUND_BAD
    assert "LOST operations 80 in 2 frames, touching 40 sessions (40 of them begun there)" in would.out
    assert "nothing was changed" in would.out
    assert path.read_bytes() == bytes(content)
    done = mpy6a("log", "repair", str(data), "--accept-loss", "--json", at=live.path).facts
    assert done["repaired"]["term"] > 200_000_000
    assert Path(done["repaired"]["dropped"]).stat().st_size >= 4_096
    assert mpy6a("log", "verify", str(data), at=live.path).code == 0
    live.pipe = live.start_pipe()
    with Peer(live.listen) as peer:
        peer.hello()
        lost = more[-1]
        [result] = peer.batch(Op(Verb.DELETE, lost.index, lost.term, 1, 2)).results
        assert result.code == 12  # LOST
        assert live.status()["live"] == len(kept)
