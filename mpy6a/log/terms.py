"""The term after a loss: no id and no fence of a life that was cut off, or that went on elsewhere, comes again.

Repair and restore end the old history with an OPENING frame of their own. So the log itself says that a new term began,
every replay knows where, and the pipe's next opening goes on from there (FORMAT.md, "Repair").
"""

from __future__ import annotations

from mpy6a.entries import Opening, encode_opening
from mpy6a.framing import Frame, FrameType
from mpy6a.model import NOBODY, TERM_EPOCH_2020_S
from mpy6a.state import LEVEL


def raised_term(term: int, wall_ms: int) -> int:
    """The term of an opening after a loss: above the highest one known, and above all that the lost life can have had,
    which opened less than once a second."""
    return max(term + 1, wall_ms // 1000 - TERM_EPOCH_2020_S)


def opening_after_loss(
    *, pipe: int, term: int, index: int, log_ms: int, wall_ms: int, release: str, node: str
) -> Frame:
    """The frame that begins `term` at `index`. Log time stays `log_ms`: the pipe's own opening sets it forward."""
    opening = Opening(max(wall_ms, 0), NOBODY, term, pipe, LEVEL, release, node)
    body = encode_opening(opening)
    return Frame(FrameType.OPENING, 0, LEVEL, term, index, 1, max(log_ms, 1), 0, NOBODY, body, b"")
