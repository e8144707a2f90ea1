"""When the pipe has a checkpoint written: by how much log there is, and by time if there is little."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mpy6a import limits
from mpy6a.filed import Filed
from mpy6a.keeping import Done, Keeper
from mpy6a.log import LogStats
from tests.fakes.core import World

MIB = limits.MIB


class Scribe:
    """A writer that is told of, and writes nothing."""

    def __init__(self) -> None:
        self.full = False
        self.asked: list[int] = []

    @property
    def busy(self) -> bool:
        return False

    def ask(self, index: int) -> None:
        self.asked.append(index)

    def receive(self) -> Sequence[Done]:
        return []


class Logged:
    """A log that says how much was written."""

    def __init__(self) -> None:
        self.stats = LogStats()
        self.next_index = 1
        self.unsynced_bytes = 0

    def grow(self, size: int) -> None:
        self.stats.bytes += size
        self.next_index += 10

    def sync(self) -> None:
        raise AssertionError("everything is durable")

    def trim(self, index: int, keep_bytes: int = 0) -> bool:
        raise AssertionError("nothing was committed")


def no_file() -> Filed:
    raise AssertionError("nothing was committed")


def test_a_checkpoint_is_asked_for_after_so_much_log_as_the_operator_says() -> None:
    """`log.checkpoint` of pipe.yaml; within a minute of the last one not before."""
    for said in (1 * MIB, 5 * MIB, limits.CHECKPOINT_BYTES):
        log, scribe = Logged(), Scribe()
        keeper = Keeper(World().pipe, log, scribe, no_file, 0, said)
        keeper.kept.done_ms = now_ms = 1_000_000
        log.grow(said - 1)
        keeper.turn(now_ms)
        assert scribe.asked == []
        log.grow(1)
        keeper.turn(now_ms)
        assert scribe.asked == [21]


def test_clients_wait_when_the_writer_is_three_checkpoints_behind() -> None:
    """So a restart has no more to replay than the operator chose, also where the writer has next to no processor."""
    for said, most in ((1 * MIB, 32 * MIB), (20 * MIB, 60 * MIB), (limits.CHECKPOINT_BYTES, 192 * MIB)):
        log, world = Logged(), World()
        keeper = Keeper(world.pipe, log, Scribe(), no_file, 0, said)
        log.grow(most)
        keeper.turn(1_000)
        assert not world.pipe.behind
        log.grow(1)
        keeper.turn(1_000)
        assert world.pipe.behind


def test_a_little_log_is_written_after_a_minute() -> None:
    """And next to none is left as it is; the log above the last checkpoint at a start counts as well."""
    log, scribe = Logged(), Scribe()
    log.stats.bytes = 0
    keeper = Keeper(World().pipe, log, scribe, no_file, limits.CHECKPOINT_IDLE_BYTES - 1)
    keeper.kept.done_ms = 1_000_000
    later_ms = keeper.kept.done_ms + limits.CHECKPOINT_MS
    keeper.turn(later_ms)
    assert (scribe.asked, keeper.deadline(later_ms)) == ([], None)
    log.grow(1)
    keeper.turn(later_ms - 1)
    assert (scribe.asked, keeper.deadline(later_ms - 1)) == ([], later_ms)
    keeper.turn(later_ms)
    assert scribe.asked == [11]


def test_on_a_low_disk_any_log_is_worth_a_checkpoint() -> None:
    """It gives segments and pages back; but not one after the other without a pause."""
    log, scribe, world = Logged(), Scribe(), World()
    keeper = Keeper(world.pipe, log, scribe, no_file, 0)
    keeper.kept.done_ms = now_ms = 1_000_000
    log.grow(1)
    keeper.turn(now_ms)
    assert (scribe.asked, keeper.deadline(now_ms)) == ([], None)
    world.pipe.disk_level = 1
    keeper.turn(now_ms + limits.DISK_CHECKPOINT_MS - 1)
    assert (scribe.asked, keeper.deadline(now_ms)) == ([], now_ms + limits.DISK_CHECKPOINT_MS)
    keeper.turn(now_ms + limits.DISK_CHECKPOINT_MS)
    assert scribe.asked == [11]


class Trimmed(Logged):
    """A log that trims when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False
        self.asked: list[tuple[int, int]] = []

    def trim(self, index: int, keep_bytes: int = 0) -> bool:
        self.asked.append((index, keep_bytes))
        return self.ready


def test_what_could_not_be_trimmed_is_asked_for_again_while_the_disk_is_low() -> None:
    """Or segments that nobody needs would stay on a disk on which no checkpoint finds room any more."""
    log, world = Trimmed(), World()
    keeper = Keeper(world.pipe, log, Scribe(), no_file, 0, keep_bytes=MIB)
    keeper._trim_index = 50
    world.pipe.disk_level = 1
    for _ in range(2):
        keeper.turn(1_000)
    assert log.asked == [(50, 0), (50, 0)], "the disk is low: nothing is kept"
    log.ready = True
    for _ in range(3):
        keeper.turn(1_000)
    assert len(log.asked) == 3
    log.ready = False


def test_a_writer_without_room_is_waited_for_and_not_asked_all_the_time() -> None:
    """The loop sleeps until the next try."""
    log, scribe = Logged(), Scribe()
    keeper = Keeper(World().pipe, log, scribe, no_file, 0, MIB)
    keeper.kept.done_ms = 1_000_000
    log.grow(2 * MIB)
    keeper.turn(2_000_000)
    assert len(scribe.asked) == 1
    scribe.full = True
    assert keeper.deadline(2_000_001) == 2_000_000 + limits.CHECKPOINT_REST_MS


def test_memory_leaves_until_a_turn_has_had_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In slices, so that no turn of the loop is held by it, however slow the machine; quick ones do more of them."""
    world, clock, slices = World(), [0], []
    keeper = Keeper(world.pipe, Logged(), Scribe(), no_file, 0, stopwatch_ns=lambda: clock[0])
    world.new(b"A" * 16, b"x")
    world.pipe.due.settle_memory(0)
    slice_ns = [limits.SETTLE_NS // 3 + 1]

    def settle_some(most: int) -> None:
        slices.append(most)
        clock[0] += slice_ns[0]

    monkeypatch.setattr(world.pipe.due, "settle_some", settle_some)
    keeper.turn(1_000)
    assert slices == [limits.SETTLE_SESSIONS] * 3
    slices.clear()
    slice_ns[0] = 0
    keeper.turn(1_001)
    assert slices == [limits.SETTLE_SESSIONS] * limits.SETTLE_SLICES
