"""Tells pipe objects that they woke up in a forked child: the parent's sockets and incarnation are not
theirs."""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet

# What a child inherited is kept, not closed: closing would reach into the parent's epoll set and ZeroMQ
# threads.
inherited: Final[list[object]] = []


class Forkable(Protocol):
    def after_fork(self) -> None:
        """Called in the child, in its only thread, before any of its own code: forgets what belongs to the
        parent."""
        ...


_watched: Final[WeakSet[Forkable]] = WeakSet()


def watch(pipe: Forkable) -> None:
    """From now on `pipe.after_fork()` is called in every child that is forked while `pipe` is alive."""
    _watched.add(pipe)


def _in_child() -> None:
    for pipe in list(_watched):
        pipe.after_fork()


os.register_at_fork(after_in_child=_in_child)
