"""What a session says about itself, whatever the shape (async, blocking) of its operations."""

from __future__ import annotations

from typing import Final

from mpy6a import model
from mpy6a.model import SessionId

SESSION_HEADER: Final = "Mpy6a-Session"
FENCE_HEADER: Final = "Mpy6a-Fence"


class UndecidedSession(UserWarning):
    """A session's block was left without `delete()` or `store()`: it was stored, and its handler will run."""


def undecided_text(kind: str) -> str:
    """What `UndecidedSession` says."""
    return f"a session of {kind!r} was left without delete() or store(): it is stored, and its handler will run"


class Facts:
    """Identity and fence of a session in one epoch; read-only."""

    __slots__ = ("_cancelled", "_id", "epoch", "fence_number", "kind")

    def __init__(self, session: SessionId, kind: str, epoch: int, fence_number: int | None = None) -> None:
        self._id = session
        self._cancelled = False
        self.kind = kind
        self.epoch = epoch
        self.fence_number = model.fence(session.term, epoch) if fence_number is None else fence_number

    @property
    def id(self) -> str:
        """`pipe.term.index`, for example `1.3.48213`."""
        return str(self._id)

    @property
    def fence(self) -> dict[str, str]:
        """HTTP headers that carry the fence to systems that check it (`mpy6a.guard`)."""
        return {SESSION_HEADER: str(self._id), FENCE_HEADER: str(self.fence_number)}

    @property
    def cancelled(self) -> bool:
        """The sidecar stopped this run: the session is no longer this writer's."""
        return self._cancelled

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id} {self.kind!r} epoch {self.epoch}>"
