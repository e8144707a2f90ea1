"""The Log contract, run against every log: what goes in comes back, in order, for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from mpy6a.files import OsFiles
from mpy6a.framing import Frame, FrameType, mark
from mpy6a.log import Log
from mpy6a.log.memory import MemoryLog
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import FRAME_BYTES_MAX, SEGMENT_BYTES, frame


class Machine(Protocol):
    """Somewhere a log can be opened again and again."""

    def open(self) -> Log: ...


class MemoryMachine:
    def __init__(self) -> None:
        self._log: MemoryLog | None = None

    def open(self) -> Log:
        self._log = self._log.restarted() if self._log else MemoryLog()
        return self._log


class DiskMachine:
    """`kill` between two openings, as the log before is not closed."""

    def __init__(self, files: FakeFiles | OsFiles, directory: str, interval_ms: int | None) -> None:
        self.files, self.directory, self.interval_ms = files, directory, interval_ms
        self._log: SegmentLog | None = None

    def open(self) -> Log:
        if isinstance(self.files, FakeFiles):
            self.files.kill()
        elif self._log is not None:
            self._log.close()
        self._log = SegmentLog.open(
            self.files,
            self.directory,
            1,
            segment_bytes=SEGMENT_BYTES,
            frame_bytes_max=FRAME_BYTES_MAX,
            sync_interval_ms=self.interval_ms,
        )
        return self._log

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


MACHINES: dict[str, Callable[[Path], Machine]] = {
    "memory": lambda path: MemoryMachine(),
    "segments": lambda path: DiskMachine(FakeFiles(), "/data", None),
    "segments-interval": lambda path: DiskMachine(FakeFiles(), "/data", 1_000_000),
    "segments-disk": lambda path: DiskMachine(OsFiles(), str(path / "data"), None),
}


@pytest.fixture(params=sorted(MACHINES))
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    made = MACHINES[request.param](tmp_path)
    yield made
    if isinstance(made, DiskMachine):
        made.close()


@pytest.fixture
def log(machine: Machine) -> Log:
    return started(machine)


def started(machine: Machine) -> Log:
    log = machine.open()
    assert list(log.replay()) == []
    return log


def test_a_new_log_is_empty(log: Log) -> None:
    """Index 1 is next, no term yet, nothing committed."""
    assert (log.first_index, log.next_index, log.term) == (1, 1, 0)
    assert log.committed() == []


def test_frames_come_back_committed_in_order_with_a_position(log: Log) -> None:
    """Once each; indexes and term move with them."""
    first = [frame(1, count=3), frame(4, b"", verdicts=bytes(8))]
    second = [frame(5, b"x" * 1000, term=2, type=FrameType.OPENING)]
    log.append(first)
    log.append([])
    log.append(second)
    committed = log.committed()
    assert committed == first + second
    assert all(one is other for one, other in zip(committed, first + second, strict=True))
    assert [one.position for one in committed] == sorted({one.position for one in committed})
    assert log.committed() == []
    assert (log.first_index, log.next_index, log.term) == (1, 6, 2)


def test_bytes_of_a_committed_batch_are_read_at_its_position(log: Log) -> None:
    """position + offset addresses any part of the batch, also of an older frame, also nothing of it."""
    frames = [frame(index, b"%d:" % index + bytes(range(200))) for index in range(1, 9)]
    log.append(frames)
    for one in log.committed():
        assert log.read(one.position, len(one.batch)) == one.batch
        assert log.read(one.position + 2, 100) == one.batch[2:102]
        assert log.read(one.position + len(one.batch), 0) == b""


def test_a_restart_replays_what_was_committed(machine: Machine) -> None:
    """The same frames, at the same positions, readable during the replay; then it goes on behind them."""
    log = started(machine)
    frames = [frame(index, bytes([index]) * (index * 40), verdicts=bytes(8 * (index % 3))) for index in range(1, 80)]
    for start in range(0, len(frames), 3):
        log.append(frames[start : start + 3])
    log.committed()
    log = machine.open()
    found = []
    for one in log.replay():
        assert log.read(one.position, len(one.batch)) == one.batch
        found.append(one)
    assert found == frames
    assert [one.position for one in found] == [one.position for one in frames]
    assert log.committed() == []
    assert (log.next_index, log.term) == (80, 1)
    log.append([frame(80, term=2)])
    assert log.term == 2


def test_marks_are_never_seen(machine: Machine) -> None:
    """A mark takes no index and is not replayed; marking twice is fine."""
    log = started(machine)
    log.mark()
    log.append([frame(1)])
    log.mark()
    log.mark()
    log.append([frame(2)])
    log.mark()
    assert [one.first_index for one in log.committed()] == [1, 2]
    log = machine.open()
    assert [one.first_index for one in log.replay()] == [1, 2]
    assert log.next_index == 3


def test_what_is_trimmed_may_go_and_the_rest_stays(machine: Machine) -> None:
    """Trim never takes an entry at or above its index, nor the knowledge of index and term."""
    log = started(machine)
    for index in range(1, 60):
        log.append([frame(index, bytes(2000), term=3)])
    log.committed()
    log.trim(40)
    assert 1 <= log.first_index <= 40
    log = machine.open()
    found = [one.first_index for one in log.replay()]
    assert found == list(range(log.first_index, 60))
    assert found[0] <= 40
    log.trim(10_000)
    log = machine.open()
    list(log.replay())
    assert (log.next_index, log.term) == (60, 3)


@pytest.mark.parametrize(
    "frames",
    [
        [frame(2)],
        [frame(1), frame(3)],
        [frame(1, count=2), frame(2)],
        [frame(1, count=0)],
        [frame(1, term=2), frame(2, term=1)],
        [mark(term=1, level=1, first_index=1, log_ms=1)],
    ],
)
def test_frames_that_do_not_follow_are_refused(log: Log, frames: list[Frame]) -> None:
    """A gap, an overlap, no entry, a falling term, a mark of somebody else: nothing of the group is taken."""
    with pytest.raises(ValueError, match=r"frame that does not follow|mark"):
        log.append(frames)
    assert log.next_index == 1
    log.append([frame(1)])
    assert log.committed() == [frame(1)]


def test_nothing_is_written_before_the_replay_is_over(machine: Machine) -> None:
    """A log that was not replayed to its end is not used, and none is replayed twice."""
    log = started(machine)
    log.append([frame(1), frame(2)])
    log = machine.open()
    replay = log.replay()
    acts: tuple[Callable[[], object], ...] = (lambda: log.append([frame(3)]), log.mark, lambda: log.trim(1))
    for act in acts:
        with pytest.raises(RuntimeError, match="replayed"):
            act()
    next(replay)
    with pytest.raises(RuntimeError, match="replayed"):
        log.append([frame(3)])
    assert len(list(replay)) == 1
    with pytest.raises(RuntimeError, match="once"):
        next(iter(log.replay()))
    log.append([frame(3)])


def test_a_closed_log_is_closed(log: Log) -> None:
    """Closing twice is fine, using it is not."""
    log.close()
    log.close()
    with pytest.raises(RuntimeError, match="closed"):
        log.append([frame(1)])
    with pytest.raises(RuntimeError, match="closed"):
        log.committed()
