"""What waits to be sent to connections of the service, joined into envelopes.

Pure. Pushes to one service are gathered into messages of many sessions; a part of a RepeatData is never
split.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpy6a import limits, wire
from mpy6a.messages import AnyMessage, Push, RepeatPart, SessionEpoch, Stop
from sidecar.clients import Client
from sidecar.values import RunKey, SendService

_NUMBER = RepeatPart._fields.index("number")
_ROOM = limits.MESSAGE_BYTES_MAX - 64 * limits.KIB  # of records in a push of several sessions


class Letters:
    """The outbox towards the service, by connection."""

    __slots__ = ("_incarnation", "_packed", "_pushes")

    def __init__(self, incarnation: bytes) -> None:
        self._incarnation = incarnation
        self._packed: dict[bytes, list[tuple[bytes, tuple[RunKey, ...]]]] = {}
        self._pushes: dict[tuple[bytes, int], list[tuple[RunKey, tuple[RepeatPart, ...], Client]]] = {}

    def send(self, client: Client, value: AnyMessage, pipe: int = 0) -> None:
        self.to(client.identity, wire.encode(value, incarnation=client.incarnation, pipe=pipe))

    def to(self, identity: bytes, packed: bytes, keys: tuple[RunKey, ...] = ()) -> None:
        self._packed.setdefault(identity, []).append((packed, keys))

    def stop(self, client: Client, pipe: int, code: int, sessions: Iterable[SessionEpoch]) -> None:
        self._write_pushes()  # a stop never overtakes the push that it stops
        self.send(client, Stop(0, 0, code, tuple(sessions)), pipe)

    def push(self, client: Client, key: RunKey, parts: tuple[RepeatPart, ...]) -> None:
        """The client is handed this run; the parts are numbered as its next push."""
        client.pushes += 1
        number = (client.pushes,)  # by slices: a third of what _replace costs
        numbered = tuple([RepeatPart._make(part[:_NUMBER] + number + part[_NUMBER + 1 :]) for part in parts])
        self._pushes.setdefault((client.incarnation, key.pipe), []).append((key, numbered, client))

    def envelopes(self) -> list[SendService]:
        """Everything that waits, in order for each connection."""
        self._write_pushes()
        sent: list[SendService] = []
        for identity, letters in self._packed.items():
            part: list[bytes] = []
            keys: list[RunKey] = []
            size = 0
            for packed, begun in letters:
                if part and (
                    size + len(packed) > limits.ENVELOPE_BYTES_MAX or len(part) == limits.ENVELOPE_MESSAGES_MAX
                ):
                    sent.append(SendService(identity, b"".join(part), tuple(keys)))
                    part, keys, size = [], [], 0
                part.append(packed)
                keys.extend(begun)
                size += len(packed)
            sent.append(SendService(identity, b"".join(part), tuple(keys)))
        self._packed.clear()
        return sent

    def _write_pushes(self) -> None:
        for (_, pipe), runs in self._pushes.items():
            client = runs[0][2]
            part: list[RepeatPart] = []
            keys: list[RunKey] = []
            room = _ROOM
            for key, parts, _ in runs:
                for one in parts:
                    size = _size(one)
                    if part and (size > room or len(part) == limits.PUSH_SESSIONS_MAX):
                        self._push(client, pipe, part, keys)
                        part, keys, room = [], [], _ROOM
                    part.append(one)
                    room -= size
                    if not keys or keys[-1] is not key:
                        keys.append(key)
            self._push(client, pipe, part, keys)
        self._pushes.clear()

    def _push(self, client: Client, pipe: int, parts: list[RepeatPart], keys: list[RunKey]) -> None:
        push = Push(0, 0, self._incarnation, tuple(parts))
        self.to(client.identity, wire.encode(push, incarnation=client.incarnation, pipe=pipe), tuple(keys))


def _size(part: RepeatPart) -> int:
    """An upper bound of the part's bytes in a message."""
    attempts, records = part.attempts, part.records
    size = 512 + 4 * limits.KEY_BYTES_MAX + 16 * len(records) + sum(map(len, records))
    return size + len(attempts) * (64 + 2 * limits.TEXT_BYTES_MAX) if attempts else size
