"""See what of a damaged log holds, and what a repair has to give up. Reads everything, changes nothing.

What holds is a chain of frames without a gap: from the checkpoint's index on, or from index 1 without a checkpoint.
What lies below the checkpoint is held by the checkpoint; what lies above the first break is lost.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Final

from mpy6a.errors import DamagedLog
from mpy6a.files import Buffer, File, Files
from mpy6a.framing import SEGMENT_HEADER_BYTES, SegmentHeader, length_of
from mpy6a.log import Progress
from mpy6a.log.directory import (
    DamagedAt,
    Identity,
    damaged,
    identity_path,
    list_log,
    read_identity,
    read_segment_header,
    segment_path,
)
from mpy6a.log.reading import SegmentReader, headers_behind
from mpy6a.log.recovery import Tail, find_tail

BLOCK_BYTES: Final = 4096  # what a disk that cannot read a sector gives up at once


@dataclass(frozen=True, slots=True)
class CheckpointFound:
    """The checkpoint beside the log. With a problem it is given up; the rest then means nothing."""

    path: str
    next_index: int = 1
    segment: int = 0
    offset: int = 0
    term: int = 0
    level: int = 0
    log_ms: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resume:
    """The first segment is damaged below the checkpoint's position: from here on it holds."""

    offset: int
    chain: int  # of the frame before
    term: int
    level: int
    log_ms: int


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes that a repair drops: `start` to `end` of a segment."""

    number: int
    path: str
    start: int
    end: int


@dataclass(slots=True)
class Survey:
    """What was found. Nothing has to be done if `damage` and `problems` are empty."""

    directory: str
    identity: Identity
    numbers: tuple[int, ...] = ()  # of the segments there are
    headers: dict[int, SegmentHeader] = field(default_factory=dict)  # the good ones
    damage: list[DamagedAt] = field(default_factory=list)  # of the log, wherever it is
    problems: tuple[str, ...] = ()  # of the checkpoint
    base: CheckpointFound | None = None  # what the kept log goes on from; None: nothing, it begins at index 1
    checkpoint_path: str = ""  # of a checkpoint that is given up
    first: int = 0  # segments kept are first..last; 0: none
    last: int = 0
    resume: Resume | None = None
    tail: Tail | None = None  # of the last segment kept
    next_index: int = 1  # where the kept log ends
    term: int = 0  # of the kept log, or the checkpoint
    level: int = 0
    log_ms: int = 0
    cut: bool = False  # something above is given up
    highest_term: int = 0  # that is known of this log, kept or not
    unreadable: int = 0  # blocks that the disk does not give
    torn: bool = False  # what follows the kept log is a tear: a start cuts it

    @property
    def whole(self) -> bool:
        """There is nothing to repair."""
        return not self.damage and not self.problems

    @property
    def drops_below(self) -> bool:
        """Segments that the checkpoint holds are damaged or in the way: they go, and nothing is lost by it."""
        if not any(number < self.first for number in self.numbers):
            return False
        paths = {segment_path(self.directory, number) for number in range(min(self.numbers), self.first)}
        return self.resume is not None or any(found.path in paths for found in self.damage)

    def below(self) -> list[int]:
        """Segments below the kept ones that go, ascending."""
        if self.first:
            return [number for number in self.numbers if number < self.first] if self.drops_below else []
        return [number for number in self.numbers if number < self.new_number]

    def above(self) -> list[int]:
        """Segments above the kept ones that go, ascending."""
        after = self.last if self.first else self.new_number - 1
        return [number for number in self.numbers if number > after] if self.cut else []

    @property
    def new_number(self) -> int:
        """Of the segment that the log goes on in after a cut."""
        if self.first:
            return self.last + 1
        return self.base.segment + 1 if self.base is not None else 1

    def parts(self) -> list[Part]:
        """All that goes, in order; also what the checkpoint holds."""
        found = [self._part(number) for number in self.below()]
        if self.resume is not None:
            found.append(Part(self.first, segment_path(self.directory, self.first), 0, self.resume.offset))
        if self.cut and self.first and self.tail is not None and self.tail.offset < self._size(self.last):
            path = segment_path(self.directory, self.last)
            found.append(Part(self.last, path, self.tail.offset, self._size(self.last)))
        return found + [self._part(number) for number in self.above()]

    def _part(self, number: int) -> Part:
        return Part(number, segment_path(self.directory, number), 0, self._size(number))

    def _size(self, number: int) -> int:
        header = self.headers.get(number)
        return header.segment_bytes if header is not None else -1  # as long as the file is


class Readable:
    """A file of which everything can be read: what the disk does not give is zeroes, and counted."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.unreadable = 0

    def read(self, length: int, offset: int) -> bytes:
        try:
            return self._file.read(length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        data = bytearray()
        end = min(offset + length, self._file.size())
        while offset < end:
            part = min(BLOCK_BYTES - offset % BLOCK_BYTES, end - offset)
            try:
                data += self._file.read(part, offset)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                data += bytes(part)
                self.unreadable += 1
            offset += part
        return bytes(data)

    def write(self, data: Buffer, offset: int) -> None:
        raise AssertionError("a survey changes nothing")

    def write_synced(self, data: Buffer, offset: int) -> None:
        raise AssertionError("a survey changes nothing")

    def zero(self, offset: int, length: int) -> None:
        raise AssertionError("a survey changes nothing")

    def sync(self) -> None:
        raise AssertionError("a survey changes nothing")

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


def survey(
    files: Files, directory: str, checkpoint: CheckpointFound | None = None, progress: Progress | None = None
) -> Survey:
    """What holds of the log of a locked directory. `checkpoint` is what stands beside it, None if none does.

    Raises DamagedLog where only a backup helps, and says why; FormatVersion.
    """
    identity = read_identity(files, directory)
    if identity is None:
        raise DamagedLog(f"there is no {identity_path(directory)}: name a pipe's `data:`, or restore a backup")
    return _Surveyor(files, directory, identity, checkpoint, progress).look()


class _Surveyor:
    def __init__(
        self,
        files: Files,
        directory: str,
        identity: Identity,
        checkpoint: CheckpointFound | None,
        progress: Progress | None,
    ) -> None:
        self._files = files
        self._directory = directory
        self._checkpoint = checkpoint
        self._progress = progress
        self._done = 0
        self._found = Survey(directory, identity)
        self._tails: dict[int, Tail] = {}

    def look(self) -> Survey:
        found, checkpoint = self._found, self._checkpoint
        self._read_headers()
        self._walk_all()
        if checkpoint is not None and not checkpoint.problems and not self._begin_at(checkpoint):
            # It cannot be the checkpoint of this log, whatever its checksums say.
            where = f"segment {checkpoint.segment}, byte {checkpoint.offset}"
            what = f"{checkpoint.path}: index {checkpoint.next_index} does not begin in {where}"
            checkpoint = CheckpointFound(checkpoint.path, problems=(what,))
        if checkpoint is not None and checkpoint.problems:
            found.problems, found.checkpoint_path = checkpoint.problems, checkpoint.path
            checkpoint = None
        found.base = checkpoint
        if checkpoint is None:
            self._begin_at_one()
        else:
            found.next_index, found.term = checkpoint.next_index, checkpoint.term
            found.level, found.log_ms = checkpoint.level, checkpoint.log_ms
        if found.first:
            self._follow()
        else:
            found.cut = True
        terms = [header.term for header in found.headers.values()]
        found.highest_term = max(found.term, *terms, *(tail.term for tail in self._tails.values()), 0)
        found.damage.sort(key=lambda one: (one.path, one.offset))
        return found

    # ------------------------------------------------------------------ what is there

    def _read_headers(self) -> None:
        found = self._found
        found.numbers = list_log(self._files, self._directory).segments
        for before, number in zip((None, *found.numbers), found.numbers, strict=False):
            if before is not None and number != before + 1:
                missing = segment_path(self._directory, before + 1)
                found.damage.append(damaged(missing, 0, None, "the segment is missing"))
            try:
                found.headers[number] = read_segment_header(self._files, self._directory, found.identity, number)
            except DamagedAt as problem:
                found.damage.append(problem)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                path = segment_path(self._directory, number)
                found.damage.append(damaged(path, 0, None, "its header cannot be read from the disk"))
        if not found.headers:
            self._check_identity()

    def _check_identity(self) -> None:
        """Where no segment is of the log that pipe.json names, and all that can be read agree on another, the damage is
        in pipe.json: giving up the log for it would lose everything. Raises DamagedLog."""
        logs: set[bytes] = set()
        for number in self._found.numbers:
            try:
                logs.add(read_segment_header(self._files, self._directory, None, number).log)
            except (DamagedAt, OSError):
                continue  # it is told already
        if len(logs) == 1:
            raise DamagedLog(
                f"{identity_path(self._directory)} names log {self._found.identity.log.hex()}, all segments are of log"
                f" {logs.pop().hex()}: it is damaged, not they; write that there, or restore it from a backup"
            )

    def _walk_all(self) -> None:
        """How far the chain of each segment holds, and where one does not reach the next."""
        for number, header in self._found.headers.items():
            with _Opened(self._files, segment_path(self._directory, number)) as file:
                tail = self._tails[number] = find_tail(file, header)
                self._found.unreadable += file.unreadable
                self._done += header.segment_bytes
                if self._progress is not None:
                    self._progress(self._done, sum(one.segment_bytes for one in self._found.headers.values()))
            self._judge(number, tail)

    def _judge(self, number: int, tail: Tail) -> None:
        found = self._found
        path = segment_path(self._directory, number)
        after = found.headers.get(number + 1)
        if after is not None:
            if (tail.chain, tail.next_index, tail.term) != (after.chain, after.first_index, after.term):
                what = f"a bad frame, and segment {after.number} shows that it was durable"
                found.damage.append(damaged(path, tail.offset, tail.next_index, what))
        elif tail.behind.proof is not None:
            what = f"a bad frame, and the frame at byte {tail.behind.proof[1]} shows that it was durable"
            found.damage.append(damaged(path, tail.offset, tail.next_index, what))

    # ------------------------------------------------------------------ where it begins

    def _begin_at(self, checkpoint: CheckpointFound) -> bool:
        """Find where the log goes on behind the checkpoint. False if the two do not fit together at all."""
        found = self._found
        number, index = checkpoint.segment, checkpoint.next_index
        header, tail = found.headers.get(number), self._tails.get(number)
        if header is not None and tail is not None:
            if tail.offset >= checkpoint.offset:
                if not self._is_boundary(header, checkpoint):
                    return False
                found.first = number
                return True
            found.resume = self._resume(header, checkpoint)
        if found.resume is not None:
            found.first = number
            if not any(one.path == segment_path(self._directory, number) for one in found.damage):
                # The last segment, and nothing but the checkpoint shows that it reached further.
                what = f"a bad frame, and the checkpoint shows that it was durable up to index {index - 1}"
                at = tail.offset if tail else 0
                found.damage.append(damaged(segment_path(self._directory, number), at, None, what))
            return True
        starts = [one for one, header in found.headers.items() if one > number and header.first_index == index]
        if starts:
            found.first = min(starts)
            return True
        if not found.damage:  # the log ends below the checkpoint, or begins above it
            where = segment_path(self._directory, number)
            what = f"the log ends before the checkpoint does, at index {index}"
            found.damage.append(damaged(where, tail.offset if tail else 0, tail.next_index if tail else None, what))
        return True

    def _is_boundary(self, header: SegmentHeader, checkpoint: CheckpointFound) -> bool:
        """Whether a frame ends at the checkpoint's position, and its index comes next."""
        with _Opened(self._files, segment_path(self._directory, header.number)) as file:
            reader = SegmentReader(file, header, checkpoint.offset)
            for _ in reader.headers():
                pass
        return (reader.offset, reader.next_index) == (checkpoint.offset, checkpoint.next_index)

    def _resume(self, header: SegmentHeader, checkpoint: CheckpointFound) -> Resume | None:
        """The frame that ends at the checkpoint's position tells the chain that goes on there, if it is recognised."""
        with _Opened(self._files, segment_path(self._directory, header.number)) as file:
            for frame, at in headers_behind(file, header.salt, SEGMENT_HEADER_BYTES, checkpoint.offset):
                ends = at + length_of(frame) == checkpoint.offset
                if ends and frame.first_index + frame.entries == checkpoint.next_index:
                    return Resume(checkpoint.offset, frame.chain_crc, frame.term, frame.level, frame.log_ms)
        return None

    def _begin_at_one(self) -> None:
        """Without a checkpoint all of the log is needed. Raises DamagedLog where its beginning is gone."""
        found = self._found
        why = "and there is no checkpoint" if self._checkpoint is None else f"and {found.problems[0]}"
        if not found.numbers:
            raise DamagedLog(f"{self._directory} has no segment left, {why}: only a backup helps")
        lowest = found.numbers[0]
        header = found.headers.get(lowest)
        if header is not None and header.first_index == 1:
            found.first = lowest
        elif lowest != 1:
            first = "above 1" if header is None else str(header.first_index)
            raise DamagedLog(f"the log begins at index {first}, {why}: only a backup helps")

    # ------------------------------------------------------------------ how far it holds

    def _follow(self) -> None:
        found = self._found
        number, end = found.first, max(found.numbers)
        tail = self._tails[number]
        if found.resume is not None:
            tail = self._tails[number] = self._resumed_tail(number, found.resume)
            self._judge_again(number, tail)
        while True:
            self._take(tail)
            after = found.headers.get(number + 1)
            if after is None:
                break
            if (tail.chain, tail.next_index, tail.term) != (after.chain, after.first_index, after.term):
                break
            number += 1
            tail = self._tails[number]
        found.last, found.tail = number, tail
        found.cut = number != end or tail.behind.proof is not None
        found.torn = not found.cut and tail.behind.frames > 0

    def _take(self, tail: Tail) -> None:
        found = self._found
        found.next_index, found.term = tail.next_index, tail.term
        if tail.log_ms:
            found.level, found.log_ms = tail.level, tail.log_ms

    def _resumed_tail(self, number: int, resume: Resume) -> Tail:
        header = self._found.headers[number]
        assert self._found.base is not None or self._checkpoint is not None
        with _Opened(self._files, segment_path(self._directory, number)) as file:
            reader = SegmentReader(file, header)
            reader.offset, reader.next_index = resume.offset, self._found.next_index
            reader.chain, reader.term, reader.synced = resume.chain, resume.term, self._found.next_index - 1
            return find_tail(file, header, reader)

    def _judge_again(self, number: int, tail: Tail) -> None:
        """The break below the checkpoint was taken for that of the segment: there may be another above."""
        before = len(self._found.damage)
        self._judge(number, tail)
        added = self._found.damage[before:]
        known = {(one.path, one.offset) for one in self._found.damage[:before]}
        self._found.damage[before:] = [one for one in added if (one.path, one.offset) not in known]


class _Opened:
    """A segment, opened for reading whatever the disk gives of it."""

    def __init__(self, files: Files, path: str) -> None:
        self._file = Readable(files.open(path, write=False))

    def __enter__(self) -> Readable:
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def open_readable(files: Files, path: str) -> _Opened:
    """For `with`: the file at `path`, what cannot be read of it being zeroes."""
    return _Opened(files, path)


def extent(file: File, start: int, end: int) -> int:
    """The end of the last block in start..end that is not all zeroes; `start` if there is none."""
    step = 1 << 20
    while end > start:
        begin = max(start, end - step)
        data = file.read(end - begin, begin).rstrip(b"\0")
        if data:
            return begin + len(data)
        end = begin
    return start
