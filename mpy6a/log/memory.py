"""The log in memory: the same contract without a disk, for tests, the simulator and the embedded pipe."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mpy6a.framing import Frame
from mpy6a.log import LogStats, check_group


class MemoryLog:
    """A Log whose frames live as long as the object, and its restarts, do. See mpy6a.log.Log for each method."""

    durable = False

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._positions: list[int] = []  # of each frame, ascending: how `read` finds it
        self._end = 0
        self._first_index = 1
        self._committed: list[Frame] = []
        self._replayed: bool | None = None
        self._closed = False
        self.stats = LogStats(segments=1)

    @property
    def term(self) -> int:
        return self._frames[-1].term if self._frames else 0

    @property
    def first_index(self) -> int:
        return self._frames[0].first_index if self._frames else self._first_index

    @property
    def next_index(self) -> int:
        return self._frames[-1].first_index + self._frames[-1].count if self._frames else self._first_index

    def restarted(self) -> MemoryLog:
        """The log as the next process finds it: all that was appended. This object may not be used any more."""
        self._closed = True
        log = MemoryLog()
        log._frames = [replace(frame, decoded=None) for frame in self._frames]
        log._positions, log._end, log._first_index = self._positions, self._end, self._first_index
        return log

    def replay(self, from_index: int = 1) -> Iterator[Frame]:
        self._check_open()
        if self._replayed is not None:
            raise RuntimeError("a log is replayed once")
        self._replayed = False
        yield from self._frames
        self._replayed = True

    def append(self, frames: Sequence[Frame]) -> None:
        self._check_ready()
        check_group(frames, self.next_index, self.term)
        for frame in frames:
            frame.position = self._end
            self._positions.append(self._end)
            self._end += len(frame.batch) + 1  # + 1: also an empty batch has a position of its own
            self.stats.frames += 1
            self.stats.entries += frame.count
            self.stats.bytes += len(frame.batch) + len(frame.verdicts)
        self._frames += frames
        self._committed += frames
        self.stats.groups += bool(frames)

    def committed(self) -> list[Frame]:
        self._check_open()
        committed, self._committed = self._committed, []
        return committed

    def read(self, position: int, length: int) -> bytes:
        self._check_open()
        place = bisect_right(self._positions, position) - 1
        if place < 0:
            raise ValueError("the position was trimmed or never committed")
        start = position - self._positions[place]
        data = self._frames[place].batch[start : start + length]
        if len(data) != length:
            raise ValueError("no committed batch has these bytes")
        return data

    def mark(self) -> None:
        self._check_ready()

    def trim(self, index: int) -> bool:
        self._check_ready()
        kept = 0
        # The last frame stays, as the last segment does: it tells the term and the next index.
        while kept < len(self._frames) - 1 and self._frames[kept + 1].first_index <= index:
            kept += 1
        del self._frames[:kept]
        del self._positions[:kept]
        return True

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the log is closed")

    def _check_ready(self) -> None:
        self._check_open()
        if not self._replayed:
            raise RuntimeError("a log is replayed, to its end, before it is used")
