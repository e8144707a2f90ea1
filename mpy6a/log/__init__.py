"""The log: frames go in, and come back committed, in order, for good. The contract that every log meets.

`segments.py` is the local one, `memory.py` the one for tests and the embedded pipe;
tests/unit/log/test_contract.py is run against each. Nothing may be applied, answered or pushed before
`committed` (or `replay`) has returned it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mpy6a.framing import Frame, FrameType
from mpy6a.limits import SYNC_TIMES_KEPT

Progress = Callable[[int, int], None]  # (bytes done, bytes in all), called now and then while a log is read


class Log(Protocol):
    """One pipe's log. Single-threaded; one user."""

    @property
    def term(self) -> int:
        """Term of the last frame, 0 in a new log. The pipe raises it by an OPENING frame."""
        ...

    @property
    def first_index(self) -> int:
        """Index of the first entry still here (what `replay` begins with): 1 until something was trimmed."""
        ...

    @property
    def next_index(self) -> int:
        """Index of the next entry; the first of a log is 1."""
        ...

    @property
    def durable(self) -> bool:
        """Whether a committed frame survives a crash of everything (False: `fsync: interval`, or memory)."""
        ...

    def replay(self, from_index: int = 1) -> Iterator[Frame]:
        """The committed frames in order, with position; once, to its end, before the first append.

        With `from_index`, frames that end below it may be left out; MARK frames are. Everything yielded is durable.
        Raises DamagedLog where the log is damaged: what was yielded before is right, but nothing may be served.
        """
        ...

    def append(self, frames: Sequence[Frame]) -> None:
        """Take one group: one write, one sync. Frames follow each other from `next_index`, terms never fall.

        The log keeps the frames: do not change them. Raises DiskFailed, and from then on every call does.
        """
        ...

    def committed(self) -> list[Frame]:
        """The frames of append that were committed since the last call, in order, `position` set."""
        ...

    def read(self, position: int, length: int) -> bytes:
        """Bytes of a committed frame's batch: `position` is the frame's + the offset in its batch."""
        ...

    def mark(self) -> None:
        """The pipe is idle: note durably that all is durable. Nothing to do if the last frame says so already."""
        ...

    def trim(self, index: int) -> bool:
        """Nothing below `index` is needed any more: its space may be used again. False: not now, ask again."""
        ...

    def close(self) -> None:
        """Mark, and let go of everything. A log that failed is only let go. Closing twice is fine."""
        ...


def check_group(frames: Sequence[Frame], next_index: int, term: int) -> None:
    """Refuse frames that do not follow `next_index` and `term`: a caller's bug, and a log that never opens again."""
    for frame in frames:
        if frame.first_index != next_index or frame.count < 1 or frame.term < term:
            raise ValueError(f"a frame that does not follow index {next_index - 1}, term {term}: {frame!r:.200}")
        if frame.type == FrameType.MARK:
            raise ValueError("a mark is written by the log itself")
        next_index += frame.count
        term = frame.term


@dataclass(slots=True)
class LogStats:
    """What the log has done since it was opened, for `status`, metrics and `bench`."""

    frames: int = 0
    entries: int = 0
    groups: int = 0
    syncs: int = 0  # of frames and marks
    bytes: int = 0  # written, headers and padding included
    marks: int = 0
    segments: int = 0  # live now
    spares: int = 0  # ready for use now
    rewritten_bytes: int = 0  # of the tail, at opening
    cut_bytes: int = 0  # of a torn tail, at opening, as far as its frames are recognised
    cut_frames: int = 0
    # Of the last writes with their sync.
    sync_ns: deque[int] = field(default_factory=lambda: deque(maxlen=SYNC_TIMES_KEPT))
