"""How near the disk is to its end, and what still goes on there: levels from free bytes, as a pure function.

    level 0   all goes on
    level 1   New is refused
    level 2   Append, growing Replace and dispatches too; the rest goes on in the log's prepared room

Log space is zero-filled ahead, so what matters is not only what the file system has free, but how much prepared room
the log has left when it can prepare no more. The last `reserve` bytes of that are for what lets sessions finish.
Source: semantics, "Failure matrix", "disk low".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mpy6a import limits

NO_SEGMENT: Final = "no room for the log's next segment"
ON_RESERVE: Final = "no room for the log's next segment, and the log is down to its reserve"
SPENT: Final = "the log's reserve is used up"


@dataclass(frozen=True, slots=True)
class Amount:
    """A share of a file system, or a number of bytes, or the smaller of both."""

    permille: int | None = None
    most: int | None = None  # bytes

    def of(self, total_bytes: int) -> int:
        """In bytes, of a file system of that size."""
        share = total_bytes if self.permille is None else total_bytes * self.permille // 1000
        if self.most is None:
            return share
        return self.most if self.permille is None else min(share, self.most)


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """What an operator says of the disk: `low` and `very_low` of free space, and the reserve of the log."""

    low: Amount = Amount(limits.DISK_LOW_PERMILLE, limits.DISK_LOW_BYTES)
    very_low: Amount = Amount(limits.DISK_VERY_LOW_PERMILLE, limits.DISK_VERY_LOW_BYTES)
    reserve: Amount = Amount(limits.DISK_RESERVE_PERMILLE, limits.DISK_RESERVE_BYTES)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings in bytes, for one file system. `slack`: what may still come before the level is felt; `last`: what
    one turn may take of the reserve, so that below it nothing more is taken in."""

    low: int
    very_low: int
    reserve: int
    slack: int = limits.DISK_SLACK_BYTES
    last: int = limits.DISK_LAST_BYTES

    @classmethod
    def of(cls, settings: DiskSettings, total_bytes: int, segment_bytes: int) -> Bounds:
        """For a file system of that size. What is too small to be of use is raised: a checkpoint has to write what one
        segment holds before that one's space comes back."""
        very_low = max(settings.very_low.of(total_bytes), segment_bytes + segment_bytes // 4)
        reserve = max(settings.reserve.of(total_bytes), limits.DISK_RESERVE_BYTES_MIN)
        return cls(max(settings.low.of(total_bytes), very_low, 2 * segment_bytes), very_low, reserve)

    def spares(self, segment_bytes: int) -> int:
        """How many whole segments the log keeps ready, so that the reserve is there when no more can be made.

        That may show as late as with half a segment left, and the reserve is not to be touched before it is felt.
        """
        ahead = self.reserve + max(self.slack, segment_bytes // 2)
        return -(-ahead // segment_bytes)

    def spares_least(self, segment_bytes: int) -> int:
        """How many of them are the reserve itself: the others go to a checkpoint that finds no room."""
        return -(-self.reserve // segment_bytes)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the disk stands."""

    level: int = 0
    by_free: int = 0  # the part of the level that comes from free bytes alone
    on_reserve: bool = False  # the log's prepared room is down to the reserve
    spent: bool = False  # and the reserve is used up: nothing may be logged
    cause: str = ""  # of a level above 0, for people


def judge(before: Standing, bounds: Bounds, free: int, room: int, cramped: bool) -> Standing:
    """Where the disk stands now: `free` bytes of the file system, `room` bytes prepared in the log, and whether the
    log is `cramped`: it wants to prepare more and cannot.

    A level that free bytes brought goes when a quarter more than its threshold is free: no flapping.
    """
    if free < _felt(bounds.very_low, before.by_free >= 2):
        by_free = 2
    elif free < _felt(bounds.low, before.by_free >= 1):
        by_free = 1
    else:
        by_free = 0
    on_reserve = cramped and room < bounds.reserve + bounds.slack
    spent = cramped and room < bounds.last
    level = max(by_free, 2 if on_reserve else 1 if cramped else 0)
    if spent:
        cause = SPENT
    elif on_reserve:
        cause = ON_RESERVE
    elif by_free:
        cause = f"less than `{'very_low' if by_free == 2 else 'low'}` is free"
    else:
        cause = NO_SEGMENT if cramped else ""
    return Standing(level, by_free, on_reserve, spent, cause)


def fillable(bounds: Bounds, free: int, cramped: bool) -> int:
    """How many bytes the log may prepare: what lies below `very_low` is left to the checkpoint."""
    return max(0, free - _felt(bounds.very_low, cramped))


def _felt(threshold: int, risen: bool) -> int:
    return threshold + threshold // 4 if risen else threshold
