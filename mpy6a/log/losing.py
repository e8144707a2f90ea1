"""Say what is lost with the bytes that a repair drops, and write them to a file first.

Frames behind damage are recognised by the checksum of their own header (FORMAT.md, "Why two checksums"); the bodies of
those that follow each other are whole and tell which sessions they touched. What is not recognised is told in bytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Final

from mpy6a.entries import decode_admin, decode_proposals
from mpy6a.errors import Malformed
from mpy6a.files import Files
from mpy6a.framing import FLAG_REENCODED, SEGMENT_HEADER_BYTES, FrameType, Header, chain_at, frame_at, length_of
from mpy6a.log.reading import headers_behind
from mpy6a.log.surveying import BLOCK_BYTES, Part, Readable, Survey, extent, open_readable
from mpy6a.model import Verb
from mpy6a.wire import decode_rows

DROPPED_FORMAT: Final = 1
SESSIONS_NAMED_MAX: Final = 10_000  # in the file of what was dropped: more than anyone checks by hand
_COPY_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Lost:
    """What goes with the dropped parts, of what no checkpoint holds."""

    first_index: int = 0  # the log ends before it
    last_index: int = 0  # the highest one known to have been there; below first_index: none is known
    frames: int = 0  # recognised, marks left out
    entries: int = 0  # in them
    operations: int = 0  # of clients, in them
    unreadable_frames: int = 0  # of them: recognised, and damaged themselves
    unrecognised_bytes: int = 0  # that may have held more
    highest_term: int = 0
    sessions: set[tuple[int, int]] = field(default_factory=set)  # (term, index): touched, as far as it can be read
    begun: set[tuple[int, int]] = field(default_factory=set)  # of them: their New is lost, and so they are

    @property
    def unread_entries(self) -> int:
        """Entries that were there and cannot be read: of damaged frames, and between the frames that are recognised."""
        return max(0, self.last_index - self.first_index + 1 - self.entries)

    @property
    def anything(self) -> bool:
        """Something that may have been acknowledged is lost."""
        return self.last_index >= self.first_index or self.unrecognised_bytes > 0


def measure(files: Files, found: Survey) -> Lost:
    """What is lost if that is repaired."""
    lost = Lost(first_index=found.next_index, last_index=found.next_index - 1)
    if not found.cut:
        return lost
    kept = {found.first} if found.resume is not None else set()
    for part in found.parts():
        header = found.headers.get(part.number)
        if header is not None:
            lost.last_index = max(lost.last_index, header.first_index - 1)
        if part.number in kept and part.start == 0:
            continue  # below the checkpoint
        with open_readable(files, part.path) as file:
            if header is None:
                lost.unrecognised_bytes += extent(file, 0, file.size())
            else:
                _Reader(found, lost, part, file).read()
    return lost


class _Reader:
    """The frames of one dropped part."""

    def __init__(self, found: Survey, lost: Lost, part: Part, file: Readable) -> None:
        self._lost = lost
        self._file = file
        self._header = found.headers[part.number]
        self._start = max(part.start, SEGMENT_HEADER_BYTES)
        self._end = part.end if part.end >= 0 else file.size()
        # The chain behind the last frame that was recognised, and where it ended.
        whole = part.start == 0
        self._chain = self._header.seed if whole else 0 if found.tail is None else found.tail.chain
        self._next = self._start

    def read(self) -> None:
        lost, covered, until = self._lost, 0, self._start
        for header, at in headers_behind(self._file, self._header.salt, self._start, self._end):
            if at < until:
                continue  # inside the body of a frame: a record that looks like one
            length = min(length_of(header), self._end - at)
            self._take(header, at, length)
            covered += length
            until = at + length
        if not covered:
            until = extent(self._file, self._start, self._end)
        lost.unrecognised_bytes += until - self._start - covered

    def _take(self, header: Header, at: int, length: int) -> None:
        lost = self._lost
        lost.highest_term = max(lost.highest_term, header.term)
        data = memoryview(self._file.read(length, at))
        follows = at == self._next and len(data) == length_of(header)
        whole = follows and chain_at(data, 0, length, self._chain) == header.chain_crc
        self._chain, self._next = header.chain_crc, at + length
        if header.type == FrameType.MARK or header.first_index + header.entries <= lost.first_index:
            return
        lost.last_index = max(lost.last_index, header.first_index + header.entries - 1)
        lost.frames += 1
        if not whole:
            # Damaged, or the first one behind damage: nothing tells that its body is what was written.
            lost.unreadable_frames += 1
        lost.entries += header.entries
        lost.operations += header.entries if header.type == FrameType.BATCH else 0
        try:
            self._sessions(header, data)
        except (Malformed, ValueError):
            pass  # it is counted, and its sessions cannot be told

    def _sessions(self, header: Header, data: memoryview) -> None:
        frame = frame_at(data, 0, header, 0)
        touched, begun = self._lost.sessions, self._lost.begun
        if frame.type == FrameType.BATCH:
            batch = decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED))
            for position, row in enumerate(batch.rows):
                if row[4] == Verb.NEW:
                    begun.add((frame.term, frame.first_index + position))
                    touched.add((frame.term, frame.first_index + position))
                else:
                    touched.add((row[3], row[0]))
        elif frame.type == FrameType.PROPOSALS:
            touched.update((one.term, one.index) for one in decode_proposals(frame.batch))
        elif frame.type == FrameType.ADMIN:
            touched.update((term, index) for term, index in decode_admin(frame.batch).sessions)


def values(found: Survey, lost: Lost) -> dict[str, Any]:
    """The finding as JSON values."""
    return {
        "whole": found.whole,
        "pipe": found.identity.pipe,
        "log": found.identity.log.hex(),
        "damage": [
            {"path": one.path, "offset": one.offset, "index": one.index, "what": one.what} for one in found.damage
        ],
        "checkpoint": {
            "next_index": found.base.next_index if found.base else None,
            "given_up": bool(found.problems),
            "problems": list(found.problems),
        },
        "keeps_up_to": found.next_index - 1,
        "loses": {
            "first_index": lost.first_index if lost.last_index >= lost.first_index else None,
            "last_index": lost.last_index if lost.last_index >= lost.first_index else None,
            "frames": lost.frames,
            "entries": lost.entries,
            "operations": lost.operations,
            "sessions": len(lost.sessions),
            "sessions_begun": len(lost.begun),
            "unreadable_frames": lost.unreadable_frames,
            "unread_entries": lost.unread_entries,
            "unrecognised_bytes": lost.unrecognised_bytes,
        },
    }


def sentences(found: Survey, lost: Lost) -> list[str]:
    """The finding for people."""
    lines = [f"DAMAGED {one.path} at byte {one.offset}: {one.what}" for one in found.damage]
    lines += [f"DAMAGED {problem}" for problem in found.problems]
    if found.problems:
        lines.append("the checkpoint is given up: the log reaches back to index 1 and says the same")
    if found.base is not None:
        lines.append(f"everything up to index {found.base.next_index - 1} is in the checkpoint and stays")
    if not found.cut:
        lines.append("nothing is lost: what is damaged is not needed any more" if found.base or found.problems else "")
        return [line for line in lines if line]
    lines.append(f"the log is kept up to index {found.next_index - 1} and ends there")
    if lost.last_index >= lost.first_index:
        lines.append(
            f"LOST operations {lost.operations:,} in {lost.frames:,} frames, touching {len(lost.sessions):,} sessions"
            f" ({len(lost.begun):,} of them begun there); index {lost.first_index:,} to {lost.last_index:,}"
        )
        if lost.unread_entries:
            lines.append(f"LOST {lost.unread_entries:,} entries of these indexes that cannot be read any more")
        if lost.unreadable_frames:
            lines.append(f"{lost.unreadable_frames:,} of the frames may be damaged: what they say is a guess")
    if lost.unrecognised_bytes:
        lines.append(f"LOST perhaps more: {lost.unrecognised_bytes:,} bytes in which no frame is recognised")
    if not lost.anything:
        lines.append("nothing that is known of is lost above it")
    return lines


def write_dropped(files: Files, path: str, found: Survey, lost: Lost, wall_ms: int) -> int:
    """Put all that a repair drops into one file; its bytes. Durable when it returns.

    A JSON object (what, why, which sessions), padded with spaces to blocks of 4,096 bytes, then the parts one after the
    other, each from the byte that the object names. Zeroes at a part's end are left out.
    """
    named = sorted(lost.sessions)[:SESSIONS_NAMED_MAX]
    head: dict[str, Any] = {
        "mpy6a_dropped": DROPPED_FORMAT,
        "wall_ms": wall_ms,
        **values(found, lost),
        "sentences": sentences(found, lost),
        "sessions": [f"{found.identity.pipe}.{term}.{index}" for term, index in named],
        "sessions_left_out": len(lost.sessions) - len(named),
    }
    parts = found.parts()
    ends: list[int] = []
    for part in parts:
        with open_readable(files, part.path) as source:
            ends.append(extent(source, part.start, part.end if part.end >= 0 else source.size()))
    draft = path + ".new"
    if files.exists(draft):
        files.unlink(draft)
    file = files.open(draft, create=True)
    try:
        text = _head_text(head, parts, ends)
        file.write(text, 0)
        at = len(text)
        for part, end in zip(parts, ends, strict=True):
            with open_readable(files, part.path) as source:
                for offset in range(part.start, end, _COPY_BYTES):
                    file.write(source.read(min(_COPY_BYTES, end - offset), offset), at + offset - part.start)
            at += -(-(end - part.start) // BLOCK_BYTES) * BLOCK_BYTES
        file.sync()
    finally:
        file.close()
    files.rename(draft, path)
    files.sync_dir(os.path.dirname(os.path.abspath(path)))
    return at


def _head_text(head: dict[str, Any], parts: list[Part], ends: list[int]) -> bytes:
    """The object, long enough for where the parts stand to stand in it."""
    size = 0
    while True:
        at, listed = size, []
        for part, end in zip(parts, ends, strict=True):
            listed.append({"path": part.path, "offset": part.start, "bytes": end - part.start, "at": at})
            at += -(-(end - part.start) // BLOCK_BYTES) * BLOCK_BYTES
        text = (json.dumps({**head, "parts": listed}, indent=1) + "\n").encode()
        padded = -(-len(text) // BLOCK_BYTES) * BLOCK_BYTES
        if padded == size:
            return text.ljust(padded)
        size = padded
