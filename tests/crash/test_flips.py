"""One bit flipped at rest, anywhere in a pipe's directory: a start says the same as before, or refuses and says where.

Log and checkpoint of two real directories, small ones, with sessions of every state: one trimmed, closed and at rest;
the other killed, with its last checkpoint still in SQLite's journal. What is refused is repaired, and what the repair
gives up is all that is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest.mock import patch

import pytest

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.entries import decode_admin, decode_proposals
from mpy6a.errors import CannotStart, Corrupt
from mpy6a.exits import EXIT_DAMAGED
from mpy6a.framing import FLAG_REENCODED, HEADER_BYTES, Frame, FrameType, frame_bytes, place_of
from mpy6a.model import Verb
from mpy6a.wire import decode_rows
from tests.crash.lives import PIPE, Life, Started, repair, told
from tests.crash.working import POLICY, STATES, Work

pytestmark = pytest.mark.crash

SEED: Final = 4
FLIPS: Final = 300
FLIPS_OF_A_SOAK: Final = 10_000
SAME: Final = "the same answer"
LAST_GROUP: Final = "the last group without a mark is cut"


@dataclass(frozen=True, slots=True)
class Whole:
    """A directory as it was, and what it says."""

    files: dict[str, bytes]
    answer: dict[str, Any]
    frames: list[Frame]  # above the checkpoint
    base_index: int  # of the checkpoint
    unmarked_index: int  # of the last group, if no mark shows that it was durable; else the next index
    begins_at_one: bool

    def put(self, directory: Path, name: str = "", bit: int = 0) -> None:
        """Lay it down, with one bit of one file flipped."""
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "log").mkdir(parents=True)
        for other, data in self.files.items():
            if other == name:
                flipped = bytearray(data)
                flipped[bit >> 3] ^= 1 << (bit & 7)
                (directory / other).write_bytes(flipped)
            else:
                (directory / other).write_bytes(data)

    def as_of(self, directory: Path, index: int, then: list[Frame]) -> dict[str, Any]:
        """What it said below an index of its log, with these frames behind it."""
        self.put(directory)
        with closing(CheckpointFile.open(str(directory))) as file:
            state = load_state(file, PIPE)
            for frame in [*(frame for frame in self.frames if frame.first_index < index), *then]:
                state.apply(frame)
                frame.decoded = None
            return told(state, self._read)

    def _read(self, position: int, length: int) -> bytes:
        number, offset = place_of(position)
        return self.files[f"log/{number:016x}.seg"][offset : offset + length]

    def first_hit(self, name: str, place: int) -> int:
        """The index below which nothing is touched by that place of the log."""
        hit = int(name[4:20], 16), place
        ends = [frame.first_index + frame.count for frame in self.frames if _end(frame) <= hit]
        return max(ends, default=self.base_index)

    def touched(self, index: int) -> set[str]:
        """Sessions that the log touches from an index on."""
        found: set[tuple[int, int]] = set()
        for frame in self.frames:
            if frame.first_index < index:
                continue
            if frame.type == FrameType.BATCH:
                rows = decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED)).rows
                for position, row in enumerate(rows):
                    new = frame.term, frame.first_index + position
                    found.add(new if row[4] == Verb.NEW else (row[3], row[0]))
            elif frame.type == FrameType.PROPOSALS:
                found.update((one.term, one.index) for one in decode_proposals(frame.batch))
            elif frame.type == FrameType.ADMIN:
                found.update((one.term, one.index) for one in decode_admin(frame.batch).sessions)
        return {f"{PIPE}.{term}.{one}" for term, one in found}


def _end(frame: Frame) -> tuple[int, int]:
    segment, offset = place_of(frame.position)
    return segment, offset - HEADER_BYTES + frame_bytes(len(frame.batch), len(frame.verdicts))


def _closed(directory: Path) -> None:
    """Trimmed below its checkpoint, and closed."""
    chance = Random(SEED)
    life = Life(directory, chance.randbytes, POLICY, now_ms=1_000)
    work = Work(life, chance)
    work.do(150)
    life.checkpoint(trim=True)
    work.do(150)
    life.close()


def _killed(directory: Path) -> None:
    """Whole from index 1 on; killed when the second checkpoint was committed and not moved out of the journal."""
    chance, running = Random(SEED + 1), directory.with_name("running")
    life = Life(running, chance.randbytes, POLICY, now_ms=1_000)
    work = Work(life, chance)
    work.do(120)
    life.checkpoint()
    work.do(6)  # most pages are those of the first
    life.checkpoint(settled=False)
    work.do(100)
    shutil.copytree(running, directory)
    life.close()


def _whole(directory: Path) -> Whole:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    files = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
    with closing(Started(directory)) as started:
        answer, tail = told(started.state, started.log.read), started.log.tail
        header = started.file.header()
        assert header is not None
        number = max(place_of(frame.position)[0] for frame in started.frames)
        rewritten = [frame for frame in started.frames if _end(frame) > (number, tail.rewrite_from)]
        assert {session["state"] for session in answer["sessions"].values()} == STATES
        assert number >= header.segment + 3, "several segments above the checkpoint"
        return Whole(
            files, answer, started.frames, header.next_index,
            rewritten[0].first_index if rewritten else started.state.next_index, started.log.first_index == 1,
        )  # fmt: skip


def _judge(whole: Whole, directory: Path, name: str, bit: int) -> str:
    """One flip; what came of it. Raises AssertionError for a wrong answer, and whatever else a start fails with."""
    whole.put(directory, name, bit)
    try:
        with closing(Started(directory)) as started:
            answer, index = told(started.state, started.log.read), started.state.next_index
    except (Corrupt, CannotStart) as refusal:
        text = str(refusal)
        assert os.path.basename(name) in text or name.startswith("pipe"), text
        return f"{type(refusal).__name__}, {_repaired(whole, directory, name, bit)}"
    if answer == whole.answer:
        return SAME
    assert index < whole.answer["next_index"], "a wrong answer"
    assert name.startswith("log/")
    assert index >= whole.unmarked_index, f"cut at index {index}, durable was {whole.unmarked_index - 1}"
    assert answer == whole.as_of(directory, index, []), "a wrong answer beside a cut"
    return LAST_GROUP


def _repaired(whole: Whole, directory: Path, name: str, bit: int) -> str:
    """Repair what a start refuses; what came of it. Nothing is lost but what the repair names."""
    code, said = repair(directory)
    if code == EXIT_DAMAGED:
        assert name == "pipe.json" or not whole.begins_at_one
        return "only a backup helps"
    assert code == 0, said
    with closing(Started(directory)) as started:
        answer = told(started.state, started.log.read)
        frames = started.frames
    loses, index = said["loses"], said["keeps_up_to"] + 1
    if said["repaired"]["term"] is None:
        assert answer == whole.answer
        return "repaired, nothing lost"
    then = [frame for frame in frames if frame.first_index >= index]
    assert [frame.type for frame in then] == [FrameType.OPENING]
    assert answer == whole.as_of(directory.with_name("before"), index, then)
    assert name.startswith("log/")
    assert index >= whole.first_hit(name, bit >> 3), "more is given up than has to be"
    dropped = json.JSONDecoder().raw_decode(Path(said["repaired"]["dropped"]).read_text(errors="replace"))[0]
    if loses["last_index"] is None:
        assert index >= whole.unmarked_index or loses["unrecognised_bytes"]
        return "repaired, the log cut"
    assert (loses["first_index"], loses["last_index"]) == (index, whole.answer["next_index"] - 1)
    if not loses["unread_entries"] and not loses["unreadable_frames"]:
        assert set(dropped["sessions"]) == whole.touched(index)
    return "repaired, the log cut"


def _flip(tmp_path: Path, flips: int) -> None:
    """Flip so many bits, one at a time, in both directories in turn; the outcomes by kind of file."""
    chance, found, begun_s = Random(SEED), Counter[tuple[str, str]](), time.monotonic()
    wholes = []
    for number, make in enumerate((_closed, _killed)):
        make(tmp_path / f"made-{number}")
        wholes.append(_whole(tmp_path / f"made-{number}"))
    for number in range(flips):
        whole = wholes[number % 2]
        name, bit = _place(whole, chance)
        try:
            found[_sort(name), _judge(whole, tmp_path / "flipped", name, bit)] += 1
        except BaseException as problem:
            problem.add_note(f"flip {number}: directory {number % 2}, {name}, byte {bit >> 3}, bit {bit & 7}")
            raise
    seconds = time.monotonic() - begun_s
    print(f"\n{flips} flips, {seconds:.1f} s, {flips / seconds:.0f} a second")
    for (sort, outcome), count in sorted(found.items()):
        print(f"{count:6} {sort:20} {outcome}")
    outcomes = {outcome for _, outcome in found}
    assert {SAME, LAST_GROUP} < outcomes, "all that may come of a flip was seen"
    assert {"only a backup helps", "repaired, nothing lost", "repaired, the log cut"} <= {
        outcome.partition(", ")[2] for outcome in outcomes
    }


def _place(whole: Whole, chance: Random) -> tuple[str, int]:
    """A file and a bit of it: mostly any of all; some of what a file begins with, and of where the log ends."""
    kind = chance.random()
    if kind < 0.1:
        name = chance.choice([name for name, data in whole.files.items() if data])
        return name, chance.randrange(8 * min(len(whole.files[name]), 128))
    if kind < 0.2:
        name = max(name for name in whole.files if name.endswith(".seg") and "spare" not in name)
        used = len(whole.files[name].rstrip(b"\0"))
        return name, chance.randrange(8 * (used - 256), 8 * used)
    name = chance.choices(list(whole.files), [len(data) for data in whole.files.values()])[0]
    return name, chance.randrange(8 * len(whole.files[name]))


def _sort(name: str) -> str:
    return "spare" if "spare" in name else "segment" if name.startswith("log/") else name


def test_flipped_bits(tmp_path: Path) -> None:
    """The same answer, a refusal that names the file and that a repair mends, or a killed pipe's last group is cut."""
    _flip(tmp_path, FLIPS)


def test_flipped_bits_of_the_identity(tmp_path: Path) -> None:
    """pipe.json is one line that nothing checks: flipped, it is no reason to give up the log, whoever says so."""
    for make in (_closed, _killed):
        make(tmp_path / make.__name__)
        whole = _whole(tmp_path / make.__name__)
        bits = range(0, 8 * len(whole.files["pipe.json"]), 3)
        outcomes = {_judge(whole, tmp_path / "flipped", "pipe.json", bit) for bit in bits}
        assert {outcome.partition(", ")[2] for outcome in outcomes} == {"", "only a backup helps"}


def test_a_start_that_believes_everything_is_found_out(tmp_path: Path) -> None:
    """The test's own test: without the check of a frame's body a flipped record is served, and that is told."""
    _closed(tmp_path / "closed")
    whole = _whole(tmp_path / "closed")
    sessions = whole.answer["sessions"].values()
    number, offset = max((one["segment"], one["offset"]) for session in sessions for one in session["positions"])
    bit = 8 * offset
    with patch("mpy6a.log.reading.chain_at", _believing), pytest.raises(AssertionError, match="a wrong answer"):
        _judge(whole, tmp_path / "flipped", f"log/{number:016x}.seg", bit)
    assert "repaired" in _judge(whole, tmp_path / "flipped", f"log/{number:016x}.seg", bit)


def _believing(data: memoryview, at: int, length: int, seed: int) -> int:
    """What the frame says of itself."""
    return int.from_bytes(data[at + 8 : at + 12], "little")


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_ten_thousand_flipped_bits(tmp_path: Path) -> None:
    """The same for as long as a soak takes."""
    _flip(tmp_path, FLIPS_OF_A_SOAK)
