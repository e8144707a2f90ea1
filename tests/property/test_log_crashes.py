"""Whatever happens to process, machine and disk: nothing acknowledged is lost, nothing else appears.

Histories of appends, marks, trims, failing disks, kills and power cuts run on files that forget whatever was
not synced (tests/fakes/files.py), watched by an oracle (log_world.py). And the oracle is tried itself: each
planted fault of the store has to be caught by the same histories.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from mpy6a.files import File, Files
from mpy6a.framing import Frame, SegmentHeader, encode_group, encode_segment_header
from mpy6a.log import opening, reading, segments
from mpy6a.log.directory import segment_path
from mpy6a.log.recovery import Tail
from mpy6a.log.segments import SegmentLog
from mpy6a.log.spares import Spares
from tests.profile import PROFILE
from tests.property.log_world import MOVES, World, caught, run_history

HISTORIES = {"quick": 20, "ci": 250, "soak": 20_000}[PROFILE]
STEPS = 60
SEARCHED = range(400)  # a fault is usually seen within ten histories, the rarest within a hundred


def test_no_history_breaks_the_promise() -> None:
    """Seeded histories; and they reached what they are for: replays of what nobody was told of, many lives."""
    worlds = [run_history(seed, STEPS) for seed in range(HISTORIES)]
    assert sum(world.lives for world in worlds) > 5 * HISTORIES
    assert sum(world.replays for world in worlds) > HISTORIES
    assert any(world.interval for world in worlds)
    assert any(world.log.first_index > 1 for world in worlds)


@given(st.integers(0, 2**32), st.lists(st.sampled_from([name for name, _ in MOVES]), max_size=40))
def test_no_history_that_hypothesis_finds_breaks_it(seed: int, moves: list[str]) -> None:
    """The same with the moves chosen by Hypothesis, which shrinks what it finds."""
    World(random.Random(seed)).run(moves)


class AckBeforeSync(SegmentLog):
    """Committed when written."""

    def _put(self, frames: Sequence[Frame], *, durable: bool) -> None:
        super()._put(frames, durable=False)


class ClaimsTooMuch(SegmentLog):
    """`synced` names the group it stands in, not what was durable before it."""

    def _write(self, frames: Sequence[Frame], total: int, durable: bool) -> None:
        self._synced = frames[-1].first_index + frames[-1].count - 1
        super()._write(frames, total, durable)


def rewrite_only(file: File, tail: Tail, size: int) -> None:
    """The end of opening without the zeroes: what was cut is still there."""
    file.write(file.read(tail.offset - tail.rewrite_from, tail.rewrite_from), tail.rewrite_from)
    file.sync()


def zero_only(file: File, tail: Tail, size: int) -> None:
    """The end of opening without writing the tail again: a sync has nothing to do for what only reads back."""
    file.zero(tail.offset, size - tail.offset)
    file.sync()


def name_before_header(files: Files, directory: str, spares: Spares, header: SegmentHeader) -> File:
    """A spare gets its name, and then a header that nobody syncs: a crash shows its earlier life."""
    spare, path = spares.take(), segment_path(directory, header.number)
    files.rename(spare, path)
    files.sync_dir(os.path.dirname(path))
    file = files.open(path)
    file.write(encode_segment_header(header), 0)
    return file


def name_not_synced(files: Files, directory: str, spares: Spares, header: SegmentHeader) -> File:
    """The directory is not synced after the rename."""
    spare, path = spares.take(), segment_path(directory, header.number)
    file = files.open(spare)
    file.write_synced(encode_segment_header(header), 0)
    files.rename(spare, path)
    return file


def frames_by_themselves(frames: Sequence[Frame], *, salt: int, chain: int, synced: int) -> tuple[bytearray, int]:
    """Each frame with a crc of its own, as in many logs: whatever stands there whole is believed."""
    data = bytearray()
    for frame in frames:
        one, chain = encode_group([frame], salt=salt, chain=0, synced=synced)
        data += one
    return data, chain


Plant = Callable[[pytest.MonkeyPatch], type[SegmentLog]]


def ack_before_sync(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    return AckBeforeSync


def synced_claims_too_much(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    return ClaimsTooMuch


def cut_tail_comes_back(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    patch.setattr(opening, "restore_tail", rewrite_only)
    return SegmentLog


def no_rewrite_at_open(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    patch.setattr(opening, "restore_tail", zero_only)
    return SegmentLog


def stale_frame_of_an_earlier_life(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    patch.setattr(opening, "restore_tail", rewrite_only)
    patch.setattr(segments, "encode_group", frames_by_themselves)
    patch.setattr(reading, "chain_at", lambda window, at, length, chain: crc32c(window[at + 12 : at + length]))
    return SegmentLog


def stale_header_of_an_earlier_life(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    for module in (opening, segments):
        patch.setattr(module, "start_segment", name_before_header)
    return SegmentLog


def segment_name_lost(patch: pytest.MonkeyPatch) -> type[SegmentLog]:
    for module in (opening, segments):
        patch.setattr(module, "start_segment", name_not_synced)
    return SegmentLog


@pytest.mark.parametrize(
    "plant",
    [
        ack_before_sync,
        synced_claims_too_much,
        cut_tail_comes_back,
        no_rewrite_at_open,
        stale_frame_of_an_earlier_life,
        stale_header_of_an_earlier_life,
        segment_name_lost,
    ],
)
def test_a_planted_fault_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The histories above tell a store with this fault from an honest one."""
    assert caught(plant(monkeypatch), SEARCHED, STEPS) is not None
