"""The watch over the disk: how often it asks, what it tells pipe and log, and what an operator hears."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest

from mpy6a import limits
from mpy6a.disk import Amount, DiskSettings
from mpy6a.diskwatch import DiskWatch
from mpy6a.files import Space
from tests.fakes.core import World

MIB = limits.MIB
SETTINGS = DiskSettings(Amount(most=500 * MIB), Amount(most=200 * MIB), Amount(most=32 * MIB))


@dataclass
class Log:
    """What a log would say; `told` is what it was told."""

    free: int = 10_000 * MIB
    disk_full: bool = False
    room_bytes: int = 128 * MIB
    segment: int = 1
    segment_bytes: int = 64 * MIB
    asked: int = 0
    told: list[tuple[int, int, bool]] = field(default_factory=list)

    def space(self) -> Space:
        self.asked += 1
        return Space(self.free, 100_000 * MIB)

    def spare(self, keep: int, fillable: int, *, tight: bool) -> None:
        self.told.append((keep, fillable, tight))


@pytest.fixture
def world() -> World:
    return World()


def test_the_file_system_is_asked_once_a_second_and_after_each_segment(world: World) -> None:
    """However busy the loop is; what the log itself knows is felt in the same turn."""
    log = Log()
    watch = DiskWatch(world.pipe, log, SETTINGS)
    for now_ms in range(0, 2_500, 10):
        watch.turn(now_ms)
    assert log.asked == 3
    log.segment = 2
    watch.turn(2_500)
    assert log.asked == 4
    log.disk_full, log.room_bytes = True, 20 * MIB
    watch.turn(2_501)
    assert log.asked == 4
    assert (world.pipe.disk_level, world.pipe.disk_reserve, world.pipe.disk_spent) == (2, True, False)
    log.room_bytes = MIB
    watch.turn(2_502)
    assert world.pipe.disk_spent


def test_levels_come_and_go_by_themselves_and_each_change_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning a change, with the figures that an operator needs."""
    log = Log()
    watch = DiskWatch(world.pipe, log, SETTINGS)
    levels = []
    with caplog.at_level(logging.WARNING):
        for turn, free in enumerate((10_000, 450, 450, 150, 600, 700)):
            log.free = free * MIB
            watch.turn(turn * limits.DISK_LOOK_MS)
            levels.append(world.pipe.disk_level)
    assert levels == [0, 1, 1, 2, 1, 0]
    assert world.pipe.disk_cause == ""
    told = [record.facts for record in caplog.records]  # type: ignore[attr-defined]  # what the journal prints
    assert [facts["level"] for facts in told] == [1, 2, 1, 0]
    assert told[1]["free_bytes"] == 150 * MIB
    assert told[1]["cause"] == "less than `very_low` is free"


def test_the_log_is_told_what_it_may_prepare_and_when_to_give_back(world: World) -> None:
    log = Log()
    watch = DiskWatch(world.pipe, log, SETTINGS)
    watch.turn(0)
    assert log.told[-1] == (1, (10_000 - 200) * MIB, False)
    log.free = 300 * MIB
    watch.turn(1_000)
    watch.turn(2_000)
    assert log.told[-1] == (1, 100 * MIB, True)


def test_a_checkpoint_that_finds_no_room_gets_what_the_reserve_can_spare(world: World) -> None:
    """Until there is more than `very_low` again: nothing is taken back in between, and the level stays."""
    log = Log(segment_bytes=16 * MIB)
    watch = DiskWatch(world.pipe, log, SETTINGS)
    watch.turn(0)
    assert log.told[-1][0] == 4
    log.free = 0
    watch.turn(1_000, starved=True)
    watch.turn(2_000, starved=True)
    assert log.told[-1] == (2, 0, True)
    log.free, log.room_bytes = 32 * MIB, 40 * MIB
    watch.turn(3_000)
    assert log.told[-1] == (2, 0, True)
    assert (world.pipe.disk_level, world.pipe.disk_reserve) == (2, True)
    log.free = 1_000 * MIB
    watch.turn(4_000)
    watch.turn(5_000)
    watch.turn(6_000)
    assert log.told[-1] == (4, 800 * MIB, False)
    assert world.pipe.disk_level == 0


def test_status_has_the_figures(world: World) -> None:
    log = Log(free=25_000 * MIB)
    watch = DiskWatch(world.pipe, log, SETTINGS)
    watch.turn(0)
    assert watch.facts() == {
        "level": 0, "cause": "", "spent": False, "free_bytes": 25_000 * MIB, "total_bytes": 100_000 * MIB,
        "free_percent": 25.0, "low_bytes": 500 * MIB, "very_low_bytes": 200 * MIB, "reserve_bytes": 32 * MIB,
        "prepared_bytes": 128 * MIB,
    }  # fmt: skip
