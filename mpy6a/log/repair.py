"""Make a damaged log whole again by giving up what cannot be trusted, and begin a new term behind it.

The log goes on in a new segment, made beside and renamed over the first one that is given up: it joins what is kept
and begins with an OPENING of a raised term (FORMAT.md, "Repair"). Until that rename the damage is there as before, and
after it whatever may still stand above does not join: whenever a repair is killed, the log is refused as damaged or is
whole with its new term, and never opens with the old one. Running it again finishes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from mpy6a.errors import CannotStart, DiskFailed
from mpy6a.files import Files
from mpy6a.framing import SEGMENT_HEADER_BYTES, SegmentHeader, encode_group, encode_segment_header, mark
from mpy6a.limits import FIRST_SEGMENT_BYTES
from mpy6a.log.directory import list_log, segment_path, segments_dir, spare_path
from mpy6a.log.filling import fill_until
from mpy6a.log.losing import Lost, write_dropped
from mpy6a.log.opening import Draw, draw_salt
from mpy6a.log.surveying import Survey, open_readable
from mpy6a.log.terms import opening_after_loss, raised_term

_COPY_BYTES: Final = 1 << 20
_OF_SQLITE: Final = ("-wal", "-shm", "")  # the journal first: beside another file it would be taken for that one's


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did."""

    dropped_path: str
    dropped_bytes: int  # of that file
    term: int  # the new one; 0: none was needed, nothing is lost
    checkpoint_path: str = ""  # where a checkpoint that was given up is now


def repair(
    files: Files,
    directory: str,
    found: Survey,
    lost: Lost,
    *,
    dropped_path: str,
    wall_ms: int,
    draw: Draw,
    release: str = "",
    node: str = "",
) -> Repaired:
    """Do what was found to be needed. The caller holds the directory's lock; `found` and `lost` are of now.

    First what goes is written to `dropped_path`, durable; then the log is changed. Raises CannotStart if that file is
    there, DiskFailed if the disk does not take it: then, or after a kill, run it again from the survey on.
    """
    if files.exists(dropped_path):
        raise CannotStart(f"{dropped_path} is there already: name another file with --dropped")
    try:
        dropped_bytes = write_dropped(files, dropped_path, found, lost, wall_ms)
        return _Repair(files, directory, found, lost, draw).run(dropped_path, dropped_bytes, wall_ms, release, node)
    except OSError as error:
        raise DiskFailed(
            f"the repair of {directory} stopped at {error.filename or dropped_path} ({error.strerror}): look at the"
            " disk, make room, then run it again"
        ) from error


class _Repair:
    def __init__(self, files: Files, directory: str, found: Survey, lost: Lost, draw: Draw) -> None:
        self._files = files
        self._directory = directory
        self._found = found
        self._lost = lost
        self._draw = draw
        listing = list_log(files, directory)
        for number in listing.unfinished:
            files.unlink(spare_path(directory, number, unfinished=True))
        self._draft = spare_path(directory, 1 + max(listing.spares, default=0), unfinished=True)

    def run(self, dropped_path: str, dropped_bytes: int, wall_ms: int, release: str, node: str) -> Repaired:
        found, term = self._found, 0
        if found.resume is not None:
            self._heal()
        self._remove(found.below())
        if found.cut:
            term = raised_term(max(found.highest_term, self._lost.highest_term, found.term), wall_ms)
            new = found.new_number
            self._keep_tail()
            self._begin(new, term, wall_ms, release, node)
            self._clean_tail()
            self._remove([number for number in reversed(found.above()) if number != new])
        moved = self._set_aside() if found.problems else ""
        return Repaired(dropped_path, dropped_bytes, term, moved)

    def _heal(self) -> None:
        """The first segment begins anew at the checkpoint's position: what was below is filled, what is above stays."""
        found, resume = self._found, self._found.resume
        assert resume is not None
        header = replace(found.headers[found.first], first_index=self._base_index())
        filler = fill_until(
            resume.offset, seed=header.seed, salt=header.salt, chain=resume.chain, next_index=header.first_index,
            term=resume.term, level=resume.level, log_ms=resume.log_ms,
        )  # fmt: skip
        self._replace(header, filler, resume.offset, header.segment_bytes)
        found.headers[found.first] = header

    def _base_index(self) -> int:
        base = self._found.base
        assert base is not None, "only a checkpoint makes what is below it needless"
        return base.next_index

    def _keep_tail(self) -> None:
        """Write the frames that no mark covers again: what reads back need not be on the disk, and is built upon."""
        found, tail = self._found, self._found.tail
        if not found.first or tail is None:
            return
        file = self._files.open(segment_path(self._directory, found.last))
        try:
            at = tail.rewrite_from
            while at < tail.offset:
                data = file.read(min(_COPY_BYTES, tail.offset - at), at)
                file.write(data, at)
                at += len(data)
            file.sync()
        finally:
            file.close()

    def _begin(self, number: int, term: int, wall_ms: int, release: str, node: str) -> None:
        """The segment that the log goes on in: an OPENING, and a MARK that shows it durable."""
        found = self._found
        index = found.next_index
        sizes = [header.segment_bytes for header in found.headers.values()]
        header = SegmentHeader(
            found.identity.log, number, self._salt(number), found.tail.chain if found.first and found.tail else 0,
            index, found.term, min([FIRST_SEGMENT_BYTES, *sizes]),
        )  # fmt: skip
        opening = opening_after_loss(
            pipe=found.identity.pipe, term=term, index=index, log_ms=found.log_ms or wall_ms, wall_ms=wall_ms,
            release=release, node=node,
        )  # fmt: skip
        first, chain = encode_group([opening], salt=header.salt, chain=header.seed, synced=index - 1)
        shown = mark(term=term, level=opening.level, first_index=index + 1, log_ms=opening.log_ms)
        second, _ = encode_group([shown], salt=header.salt, chain=chain, synced=index)
        # Its frames are durable before the file has its name.
        self._replace(header, bytes(first + second), None, header.segment_bytes)

    def _salt(self, number: int) -> int:
        """Never that of the segment before, nor of the one whose name it takes."""
        headers = self._found.headers
        taken = {headers[one].salt for one in (number - 1, number) if one in headers}
        salt = draw_salt(self._draw, 0)
        while salt in taken:
            salt = draw_salt(self._draw, salt)
        return salt

    def _clean_tail(self) -> None:
        """What stands behind the last frame kept goes: no later reading may find it, or fail at it."""
        found, tail = self._found, self._found.tail
        if not found.first or tail is None:
            return
        header = found.headers[found.last]
        with open_readable(self._files, segment_path(self._directory, found.last)) as file:
            file.read(header.segment_bytes - tail.offset, tail.offset)
            unreadable = file.unreadable
        if tail.behind.frames or unreadable or tail.behind.proof is not None:
            self._replace(header, b"", SEGMENT_HEADER_BYTES, tail.offset)

    def _replace(self, header: SegmentHeader, data: bytes, copied_from: int | None, copied_to: int) -> None:
        """Put a segment in the place of what has its name: header, `data`, then bytes of the old one at their own
        offsets, then zeroes. Whole and durable before it gets the name."""
        path = segment_path(self._directory, header.number)
        file = self._files.open(self._draft, create=True)
        try:
            file.write(encode_segment_header(header), 0)
            file.write(data, SEGMENT_HEADER_BYTES)
            at = SEGMENT_HEADER_BYTES + len(data)
            if copied_from is not None:
                with open_readable(self._files, path) as old:
                    for at in range(copied_from, copied_to, _COPY_BYTES):
                        file.write(old.read(min(_COPY_BYTES, copied_to - at), at), at)
                at = copied_to
            file.zero(at, header.segment_bytes - at)
            file.sync()
        finally:
            file.close()
        self._files.rename(self._draft, path)
        self._files.sync_dir(segments_dir(self._directory))

    def _remove(self, numbers: list[int]) -> None:
        """One after the other, so that a crash never shows a gap that was not there."""
        for number in numbers:
            self._files.unlink(segment_path(self._directory, number))
            self._files.sync_dir(segments_dir(self._directory))

    def _set_aside(self) -> str:
        """A checkpoint that is given up gets another name: the log is read from its beginning again."""
        path = self._found.checkpoint_path
        count = 1
        while any(self._files.exists(f"{path}{ending}.dropped-{count}") for ending in _OF_SQLITE):
            count += 1
        for ending in _OF_SQLITE:
            if self._files.exists(path + ending):
                self._files.rename(path + ending, f"{path}{ending}.dropped-{count}")
                self._files.sync_dir(self._directory)
        return f"{path}.dropped-{count}"
