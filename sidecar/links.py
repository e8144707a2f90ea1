"""One connection to a pipe as the agent sees it: what it is, what it last said, and what waits to be sent to
it.

Pure. Waiting operations of clients are joined into envelopes without a look into their bodies. What the
sidecar itself says goes first and is not queued while the link is blocked: it is said anew when the link
writes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mpy6a import limits
from mpy6a.messages import Kind, Limits, PipeInfo, Welcome
from sidecar.clients import Client


class Link:
    """A pipe's DEALER. `pipe` is 0 until its first Welcome; `writable` is False from a blocked send to the
    next sign that it writes again."""

    __slots__ = (
        "_own",
        "_queued",
        "_unsent",
        "_waiting",
        "_waiting_bytes",
        "gone",
        "greet",
        "heard_ms",
        "hop",
        "kinds",
        "lease_ms",
        "limits",
        "log_ms",
        "number",
        "pipe",
        "speak_ms",
        "term",
        "writable",
    )

    def __init__(self, number: int, now_ms: int) -> None:
        self.number = number
        self.pipe = 0
        self.term = 0
        self.hop = b""  # incarnation of the pipe's process
        self.log_ms = 0
        self.lease_ms = limits.LEASE_MS
        self.kinds: tuple[Kind, ...] = ()
        self.limits: Limits | None = None
        self.heard_ms: int | None = None
        self.greet = True  # a hello is due: the connection is new, or the pipe
        self.speak_ms = now_ms  # when the next hello or heartbeat is due
        self.writable = True
        self.gone: dict[bytes, int] = {}  # incarnation -> heartbeats that still have to tell it
        self._own: deque[bytes] = deque()
        self._waiting: deque[tuple[bytes, Client]] = deque()
        self._waiting_bytes = 0
        self._queued: set[bytes] = set()  # what was queued while blocked: a resend of it need not wait twice
        self._unsent: deque[bytes] = deque()

    def live(self, now_ms: int) -> bool:
        """Was the pipe heard within a lease?"""
        return self.heard_ms is not None and now_ms - self.heard_ms < self.lease_ms

    def welcomed(self, welcome: Welcome) -> bool:
        """Takes what the pipe said of itself; False: it is no pipe, or names none."""
        if len(welcome.pipes) != 1 or not welcome.pipes[0].pipe:
            return False
        info = welcome.pipes[0]
        self.pipe, self.term, self.hop = info.pipe, info.term, welcome.hop
        self.log_ms = max(welcome.log_ms, info.log_ms)
        self.kinds, self.limits = welcome.kinds, welcome.limits
        self.lease_ms = max(limits.LEASE_MS_MIN, welcome.lease_ms)
        return True

    def info(self, now_ms: int) -> PipeInfo:
        return PipeInfo(self.pipe, self.term, self.live(now_ms), self.log_ms)

    def tell_gone(self, incarnation: bytes) -> None:
        """With the next heartbeats; what is over their bound, the pipe learns by the end of its lease."""
        if len(self.gone) < limits.CLIENTS_MAX:
            self.gone[incarnation] = limits.GONE_TOLD

    def say(self, message: bytes) -> None:
        """Queues a message of the sidecar's own; it goes before those of clients."""
        self._own.append(message)

    def wait(self, message: bytes, client: Client) -> bool:
        """Queues a client's packed message; False when a bound of the queue is reached."""
        size = len(message)
        if not self.writable and message in self._queued:
            return True
        if (
            self._waiting_bytes + size > limits.LINK_QUEUE_BYTES_MAX
            or client.waiting_bytes + size > limits.CLIENT_QUEUE_BYTES_MAX
        ):
            return False
        if not self.writable:
            self._queued.add(message)
        self._waiting.append((message, client))
        self._waiting_bytes += size
        client.waiting_bytes += size
        return True

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._waiting or self._own or self._unsent)

    def envelopes(self) -> list[bytes]:
        """What is to be sent now, in order; empty while the link is blocked."""
        if not self.writable:
            return []
        sent = list(self._unsent)
        self._unsent.clear()
        part: list[bytes] = []
        size = 0
        while self._own or self._waiting:
            message = self._own[0] if self._own else self._waiting[0][0]
            if part and (size + len(message) > limits.ENVELOPE_BYTES_MAX or len(part) == limits.ENVELOPE_MESSAGES_MAX):
                sent.append(b"".join(part))
                part, size = [], 0
            part.append(message)
            size += len(message)
            if self._own:
                self._own.popleft()
            else:
                _, client = self._waiting.popleft()
                self._waiting_bytes -= len(message)
                self._queued.discard(message)
                client.waiting_bytes -= len(message)
        if part:
            sent.append(b"".join(part))
        return sent

    def unsent(self, payload: bytes) -> None:
        """Takes back an envelope that could not be sent; it goes first when the link writes again."""
        self.writable = False
        self._unsent.append(payload)


def link_to(links: Sequence[Link], pipe: int) -> Link | None:
    """The link to a pipe: the one heard last, if several addresses lead to it. 0 names the only pipe there
    is."""
    if not pipe:
        return links[0] if len(links) == 1 and links[0].pipe else None
    named = [link for link in links if link.pipe == pipe]
    return max(named, key=lambda link: link.heard_ms or 0, default=None)
