"""Short ways to make frames and logs for the tests of the log."""

from __future__ import annotations

from collections.abc import Sequence

from mpy6a.files import Files
from mpy6a.framing import Frame, FrameType
from mpy6a.log.segments import SegmentLog
from tests.fakes.files import FakeFiles

DIRECTORY = "/data"
SEGMENT_BYTES = 16 * 1024
FRAME_BYTES_MAX = 8 * 1024
ORIGIN = bytes(range(16))


def frame(
    index: int,
    batch: bytes = b"batch",
    *,
    count: int = 1,
    term: int = 1,
    type: FrameType = FrameType.BATCH,
    verdicts: bytes = b"",
) -> Frame:
    return Frame(type, 0, 1, term, index, count, 1000 + index, 42, ORIGIN, batch, verdicts)


def fake_log(files: FakeFiles, **options: object) -> SegmentLog:
    """A small log on fake files, replayed."""
    log = open_log(files, **options)
    list(log.replay())
    return log


def open_log(files: Files, **options: object) -> SegmentLog:
    options = {"segment_bytes": SEGMENT_BYTES, "frame_bytes_max": FRAME_BYTES_MAX, **options}
    return SegmentLog.open(files, DIRECTORY, 1, **options)  # type: ignore[arg-type]  # options of open, by name


def fill(log: SegmentLog, batches: Sequence[bytes], *, group: int = 1) -> list[Frame]:
    """Append a frame of each batch, `group` at a time; they are committed when it returns."""
    index = log.next_index
    frames = [frame(index + place, batch) for place, batch in enumerate(batches)]
    for start in range(0, len(frames), group):
        log.append(frames[start : start + group])
    assert log.committed() == frames
    return frames


def path_of(number: int) -> str:
    return f"{DIRECTORY}/log/{number:016x}.seg"
