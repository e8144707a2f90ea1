"""Keeps a client's lease from a thread of its own: a busy loop or a CPU-bound handler does not lose its
sessions."""

from __future__ import annotations

import threading
from typing import Final

import zmq

from mpy6a import limits, wire
from mpy6a.client.link import Link
from mpy6a.messages import Heartbeat as HeartbeatMessage

_RETRY_S: Final = limits.RECONNECT_MS / 1000


class Heartbeat:
    """Sends a heartbeat at once and then each third of the lease, over its own socket, until `stop`.

    `context`: that of the client's other socket, which must not be closed before `stop`.
    """

    def __init__(
        self, address: str, incarnation: bytes, lease_ms: int, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        self._address = address
        self._context = context
        self._message = wire.encode(HeartbeatMessage(), incarnation=incarnation)
        self._interval_s = max(lease_ms, 3) / 3000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpy6a-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No heartbeat is sent after it returns."""
        self.forget()
        self._thread.join()

    def forget(self) -> None:
        """Stops soon, without anybody waiting for it."""
        self._stop.set()

    def _run(self) -> None:
        # Nothing is queued while nobody is there: a heartbeat says "now".
        link = Link(self._address, queue_unconnected=False, context=self._context)
        try:
            while True:
                link.changes()
                link.receive()  # pongs: nothing in them that the other socket does not hear
                dropped = link.dropped
                link.send([self._message])
                sent = link.dropped == dropped
                if self._stop.wait(self._interval_s if sent else min(self._interval_s, _RETRY_S)):
                    return
        finally:
            link.close()
