"""What a checkpoint stands for: the one row of its table `checkpoint`."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

from mpy6a.checkpoint.images import Row, crc_of

HEADER_COLUMNS: Final = (
    "pipe, next_index, segment, offset, term, log_ms, wall_ms, level, clock_accepted_ms, terms, pauses, clients, log,"
    " policy, release"
)


@dataclass(frozen=True, slots=True)
class CheckpointHeader:
    """Everything below `next_index` is in the file; the log goes on at (segment, offset)."""

    pipe: int
    next_index: int
    segment: int
    offset: int  # behind the last frame applied
    term: int
    log_ms: int
    wall_ms: int  # when it was written
    level: int  # apply level of who wrote it
    clock_accepted_ms: int
    terms: int  # rows of the smaller tables
    pauses: int
    clients: int
    log: bytes  # 16 B uuid
    policy: bytes  # as entries.encode_policy makes it
    release: str

    @property
    def position(self) -> int:
        """The log position as `Log.read` and references name it: records below it are in the file."""
        return self.segment << 32 | self.offset

    def row(self) -> Row:
        """The row, with its checksum."""
        values = (1, *astuple(self))
        return (*values, crc_of(*values))
