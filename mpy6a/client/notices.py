"""Tells the program's log what the pipe warns its writers of."""

from __future__ import annotations

import logging
from typing import Final

from mpy6a.messages import Notice
from mpy6a.model import SessionId

_log: Final = logging.getLogger("mpy6a.client")


def log_notice(pipe: int, notice: Notice) -> None:
    """Warns that a session will be taken from its silent writer."""
    _log.warning(
        "session is silent: it will be stored unless an operation or touch comes",
        extra={
            "session": str(SessionId(pipe, notice.term, notice.index)),
            "epoch": notice.epoch,
            "remaining_ms": notice.remaining_ms,
        },
    )
