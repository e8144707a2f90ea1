"""`python -m mpy6a.benchmark.nothing_http PORT`: an HTTP handler that answers every POST with 204, and notes when.

No framework: what is measured is the pipe and its sidecar. SIGTERM writes the notes, and ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from mpy6a.benchmark.notes import NOTES, Notes

REQUEST_BYTES_MAX: Final = 32 * 1024 * 1024  # a session's 16 MiB in base64, and its head
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_SESSION: Final = b"\r\nmpy6a-session:"
_ANSWER: Final = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


class Nothing(asyncio.Protocol):
    """One connection, one request."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_END)
        if len(self._received) > REQUEST_BYTES_MAX:
            self._transport.abort()
        elif end and len(body) >= int(_field(head, _LENGTH) or 0):
            handed_ns = time.monotonic_ns()
            self._transport.write(_ANSWER)
            self._transport.close()
            self._notes.runs.append((_field(head, _SESSION), handed_ns, time.monotonic_ns()))


def _field(head: bytes, name: bytes) -> str:
    """The value of a header; "" without it."""
    at = head.lower().find(name)
    return head[at + len(name) :].split(b"\r\n", 1)[0].decode("latin-1").strip() if at >= 0 else ""


async def serve(port: int, path: Path) -> None:
    """Answers until SIGTERM."""
    notes, ended, loop = Notes(), asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: Nothing(notes), "127.0.0.1", port, backlog=1_024)
    await ended.wait()
    server.close()
    notes.write(path)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(os.environ[NOTES])))
