"""Bounds of the shipped code made small while a world runs, so that what takes gigabytes happens in a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Final
from unittest.mock import patch

from mpy6a import due, limits, sessions

KIB: Final = 1024
# Everything that goes in pages or slices has several of them in a world of some hundred sessions.
_LIMITS: Final = {
    "CHECKPOINT_BYTES": 48 * KIB,  # of log in one transaction of the writer
    "CHECKPOINT_STEP_BYTES_MIN": 8 * KIB,
    "CHECKPOINT_IDLE_BYTES": 1,
    "CHECKPOINT_BACKLOG_BYTES_MIN": 160 * KIB,
    "CHECKPOINT_REST_MS": 4_000,
    "CHECKPOINT_BEHIND_MS": 250,
    "CHECKPOINT_SLACK_BYTES": 32 * KIB,
    "CHECKPOINT_SHRINK_BYTES": 16 * KIB,
    "SETTLE_SESSIONS": 25,
    "SETTLE_SLICES": 1,
    "SETTLE_DUE": 3,
    "PROPOSALS_MAX": 24,
    "DISPATCHES_MAX": 24,
    "LOAD_ROWS_MAX": 7,
    "SWEEP_RECORDS_BYTES_MAX": 4 * KIB,
}
WINDOW: Final = 4  # rows of one look at what is due in the file
PAGE: Final = 16


@contextmanager
def small(seed: int) -> Iterator[None]:
    """As long as this lasts; how often there is a checkpoint is the seed's."""
    with ExitStack() as stack:
        for name, value in _LIMITS.items():
            stack.enter_context(patch.object(limits, name, value))
        stack.enter_context(patch.object(limits, "CHECKPOINT_MS", Random(seed).choice((3_000, 15_000, 60_000))))
        stack.enter_context(patch.object(due, "WINDOW", WINDOW))
        stack.enter_context(patch.object(sessions, "_PAGE", PAGE))
        yield


def checkpoint_bytes(seed: int) -> int:
    """Of log, after which the next checkpoint begins."""
    return Random(seed).choice((12 * KIB, 32 * KIB, 128 * KIB))


def keep_bytes(seed: int) -> int:
    """Of log that stays below the checkpoint."""
    return Random(~seed).choice((0, 0, 0, 300 * KIB))
