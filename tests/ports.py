"""TCP ports and directories for tests that run beside each other on one machine."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

# Below Linux's ephemeral range (32768 up): the kernel gives none of these to an outgoing connection between
# the look and the bind.
_FIRST: Final = 20_000
_END: Final = 32_000
_TEMP_BYTES_MAX: Final = 40  # leaves 60 of the 100 bytes of an ipc path to the test


class FreePorts:
    """Hands out TCP ports of 127.0.0.1 that nobody listens on, each once."""

    def __init__(self, seed: int | None = None, *, worker: int = 0, workers: int = 1) -> None:
        # Workers of one run share the range out: between the look and the bind, none takes what another was given.
        self._first, self._end = (_FIRST + (_END - _FIRST) * share // workers for share in (worker, worker + 1))
        # Where it starts differs from process to process, so that two test runs rarely meet.
        self._random = random.Random(os.getpid() if seed is None else seed)
        self._given: set[int] = set()

    def __call__(self) -> int:
        """The next one; RuntimeError when the range is used up."""
        start = self._random.randrange(self._first, self._end)
        for port in chain(range(start, self._end), range(self._first, start)):
            if port not in self._given and _is_free(port):
                self._given.add(port)
                return port
        raise RuntimeError(f"no free TCP port between {self._first} and {self._end}")


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets in it (ipc: at most 100 bytes); removed afterwards."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _TEMP_BYTES_MAX:
        base = "/tmp"
    path = tempfile.mkdtemp(prefix="m6-", dir=base)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As libzmq and asyncio bind: a port whose last connection still lingers is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
