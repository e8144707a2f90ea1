"""Watches the disk under the log: asks the file system, tells the pipe its level and the log what it may prepare.

Thin: what follows from the figures is decided in `mpy6a.disk`. Recovery is by itself, at the next look.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from mpy6a import limits
from mpy6a.disk import Bounds, DiskSettings, Standing, fillable, judge
from mpy6a.files import Space
from mpy6a.pipe import Pipe

logger = logging.getLogger(__name__)


class Prepared(Protocol):
    """What of a log matters here."""

    @property
    def disk_full(self) -> bool:
        """It wants to prepare more room and cannot."""
        ...

    @property
    def room_bytes(self) -> int:
        """Prepared and not written yet."""
        ...

    @property
    def segment(self) -> int:
        """Number of the segment that is written."""
        ...

    @property
    def segment_bytes(self) -> int:
        """Size of the segments to come."""
        ...

    def space(self) -> Space:
        """Of the file system that the log is on."""
        ...

    def spare(self, keep: int, fillable: int, *, tight: bool) -> None:
        """Keep so many spare segments ready, filling at most so many bytes for them."""
        ...


class DiskWatch:
    """One pipe's. Call `turn` after every turn of the loop."""

    def __init__(self, pipe: Pipe, log: Prepared, settings: DiskSettings | None = None) -> None:
        self.standing = Standing()
        self.bounds = Bounds(0, 0, 0)
        self.space = Space(0, 0)
        self._pipe = pipe
        self._log = log
        self._settings = settings or DiskSettings()
        self._look_ms: int | None = None  # when to ask the file system again; None: at once
        self._segment = 0
        self._giving = False

    def reload(self, settings: DiskSettings) -> None:
        """Other thresholds: looked at in the next turn."""
        self._settings, self._look_ms = settings, None

    def turn(self, now_ms: int, *, starved: bool = False) -> None:
        """Look again if it is time or a segment was begun, and see what follows. `starved`: the last checkpoint found
        no room; it gets what the log's reserve can spare. Raises DiskFailed."""
        log = self._log
        if self._look_ms is None or now_ms >= self._look_ms or log.segment != self._segment:
            self._look(now_ms, starved)
        elif not log.disk_full and not self.standing.level:
            return  # nothing moves between two looks
        cramped = log.disk_full or self._giving
        standing = judge(self.standing, self.bounds, self.space.free, log.room_bytes, cramped)
        if standing != self.standing:
            self._set(standing)

    def _look(self, now_ms: int, starved: bool) -> None:
        log = self._log
        self._look_ms, self._segment = now_ms + limits.DISK_LOOK_MS, log.segment
        self.space = space = log.space()
        size = log.segment_bytes
        self.bounds = bounds = Bounds.of(self._settings, space.total, size)
        allowed = fillable(bounds, space.free, log.disk_full)
        # What was given is not taken back before there is more than `very_low`.
        self._giving = self.standing.by_free == 2 and (starved or self._giving)
        keep = bounds.spares_least(size) if self._giving else bounds.spares(size)
        log.spare(keep, allowed, tight=self.standing.level > 0)

    def _set(self, standing: Standing) -> None:
        before, self.standing = self.standing, standing
        pipe = self._pipe
        pipe.disk_level, pipe.disk_cause = standing.level, standing.cause
        pipe.disk_reserve, pipe.disk_spent = standing.on_reserve, standing.spent
        if (before.level, before.spent) != (standing.level, standing.spent):
            logger.warning("disk level", extra={"facts": self.facts()})

    def facts(self) -> dict[str, Any]:
        """What `status` shows."""
        standing, bounds, space = self.standing, self.bounds, self.space
        return {
            "level": standing.level,
            "cause": standing.cause,
            "spent": standing.spent,
            "free_bytes": space.free,
            "total_bytes": space.total,
            "free_percent": round(100 * space.free / space.total, 1) if space.total else 0.0,
            "low_bytes": bounds.low,
            "very_low_bytes": bounds.very_low,
            "reserve_bytes": bounds.reserve,
            "prepared_bytes": self._log.room_bytes,
        }
