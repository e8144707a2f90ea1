"""Logs of several segments on fake files, damaged and repaired, for the tests of the repair."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mpy6a import wire
from mpy6a.framing import HEADER_BYTES, Frame, FrameType, frame_bytes, place_of
from mpy6a.log.directory import segment_path
from mpy6a.log.losing import Lost, measure
from mpy6a.log.repair import Repaired, repair
from mpy6a.log.segments import SegmentLog
from mpy6a.log.surveying import CheckpointFound, Survey, survey
from mpy6a.log.terms import opening_after_loss
from mpy6a.log.verify import verify
from mpy6a.model import BY_POLICY, TERM_EPOCH_2020_S, Op, Verb
from tests.fakes.files import FakeFiles
from tests.unit.log.frames import DIRECTORY, ORIGIN, open_log

WALL_MS = (TERM_EPOCH_2020_S + 1_000_000) * 1000  # the term of a repair is 1,000,000 then
CHECKPOINT_PATH = f"{DIRECTORY}/checkpoint.db"


def opening(log: SegmentLog) -> Frame:
    """The frame that begins a term, as a pipe's start writes it."""
    return opening_after_loss(
        pipe=1, term=log.term + 1, index=log.next_index, log_ms=1000, wall_ms=WALL_MS, release="", node=""
    )


def batch(log: SegmentLog, ops: Sequence[Op]) -> Frame:
    """A frame of a client's operations."""
    body = wire.encode_batch_body(1, 1, 1000, ops)
    index = log.next_index
    return Frame(FrameType.BATCH, 0, 1, log.term, index, len(ops), 2000 + index, 42, ORIGIN, body, b"")


def begun(request: int, size: int = 100) -> Op:
    return Op(Verb.NEW, request, argument=1, record=bytes([request & 0xFF]) * size)


def stored(term: int, index: int) -> Op:
    return Op(Verb.STORE, index, term, 1, 1, BY_POLICY)


def write_sessions(log: SegmentLog, count: int, size: int = 100) -> list[Frame]:
    """So many sessions, each begun and stored in a group of its own; the frames."""
    frames = []
    for request in range(1, count + 1):
        for ops in ([begun(request, size)], [stored(log.term, log.next_index)]):
            log.append([batch(log, ops)])
            frames += log.committed()
    return frames


def checkpoint_behind(frame: Frame) -> CheckpointFound:
    """The checkpoint that holds everything up to a frame."""
    segment, offset = place_of(frame.position)
    end = offset - HEADER_BYTES + frame_bytes(len(frame.batch), len(frame.verdicts))
    next_index = frame.first_index + frame.count
    return CheckpointFound(CHECKPOINT_PATH, next_index, segment, end, frame.term, 1, frame.log_ms)


def look(files: FakeFiles, checkpoint: CheckpointFound | None = None) -> tuple[Survey, Lost]:
    found = survey(files, DIRECTORY, checkpoint)
    return found, measure(files, found)


def mend(files: FakeFiles, checkpoint: CheckpointFound | None = None, seed: int = 0) -> tuple[Survey, Lost, Repaired]:
    """Repair, and see that it is whole."""
    found, lost = look(files, checkpoint)
    number = 1
    while files.exists(f"{DIRECTORY}/dropped-{number}"):
        number += 1
    done = repair(
        files, DIRECTORY, found, lost, dropped_path=f"{DIRECTORY}/dropped-{number}", wall_ms=WALL_MS,
        draw=random.Random(seed).randbytes,
    )  # fmt: skip
    return found, lost, done


def reopened(files: FakeFiles, from_index: int = 1) -> tuple[SegmentLog, list[Frame]]:
    """The next pipe: its log, replayed from an index on."""
    files.kill()
    log = open_log(files, durable_below=from_index)
    return log, list(log.replay(from_index))


def assert_whole(files: FakeFiles) -> None:
    files.kill()
    assert verify(files, DIRECTORY).damage == []


def damage_body(files: FakeFiles, frame: Frame) -> None:
    """A bit of a frame's batch turns."""
    segment, offset = place_of(frame.position)
    files.flip(segment_path(DIRECTORY, segment), offset + len(frame.batch) // 2, 3)


