"""A pipe that writes a checkpoint after each MiB of log, and sessions enough for one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from mpy6a.model import Op, SessionId, Verb
from tests.e2e.live import PIPE, Live, Peer
from tests.ports import FreePorts
from tests.processes import Processes

FILED_S: Final = 20.0  # a checkpoint of these takes 0.3 s with the start of its process
WAIT_MS: Final = 3_600_000
_BATCH: Final = 128


class FiledLive(Live):
    """A `Live` whose `log.checkpoint` is as low as it gets."""

    def __init__(self, path: Path, free_port: FreePorts, processes: Processes) -> None:
        super().__init__(path, free_port, processes)
        config = path / "pipe.yaml"
        text = config.read_text(encoding="utf-8")
        assert "{segment: 16MiB}" in text
        config.write_text(text.replace("{segment: 16MiB}", "{segment: 16MiB, checkpoint: 1MiB}"), encoding="utf-8")

    def checkpoint(self) -> dict[str, Any]:
        """What `status` says of the last one."""
        facts: dict[str, Any] = self.status()["checkpoint"]
        return facts

    def wait_filed(self, index: int) -> None:
        """Until a checkpoint holds everything up to this index. Raises TimeoutError."""
        end_s = time.monotonic() + FILED_S
        with Peer(self.admin) as peer:
            while peer.ask("status")["checkpoint"]["index"] <= index:
                if time.monotonic() > end_s:
                    raise TimeoutError(f"no checkpoint beyond index {index}: {peer.ask('status')['checkpoint']}")
                time.sleep(0.02)


def store_many(peer: Peer, count: int, record: bytes, first_request: int = 1) -> list[SessionId]:
    """So many sessions with this record, stored for an hour."""
    ids: list[SessionId] = []
    while len(ids) < count:
        many = min(_BATCH, count - len(ids))
        request = first_request + len(ids)
        made = peer.batch(*(Op(Verb.NEW, request + n, argument=1, record=record) for n in range(many)), mark=request)
        assert made.results == ()
        here = [SessionId(PIPE, made.term, made.first_index + n) for n in range(many)]
        stored = peer.batch(
            *(Op(Verb.STORE, id.index, id.term, 1, 1, argument=WAIT_MS) for id in here), mark=request + many
        )
        assert stored.results == ()
        ids += here
    return ids
