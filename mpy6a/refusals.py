"""How fast a client may be refused: a token bucket an incarnation, asked before the log.

A refused operation is logged like a good one, so refusals cost log and syncs. `count` takes what was refused;
`wait_ms` says how long the client's next batch has to wait. Pure, and no part of the state: nothing here is logged.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from mpy6a import limits

_COST_US: Final = 1_000_000 // limits.REFUSALS_PER_S
_BURST_US: Final = limits.REFUSALS_BURST * _COST_US
_DEBT_US: Final = limits.REFUSALS_WAIT_MAX_MS * 1_000


class Refusals:
    """Buckets of those that were refused lately; a bucket that is full again is not kept, whoever it was.

    They outlive a goodbye, so that going and coming back does not fill them, and are bounded: of
    REFUSED_CLIENTS_MAX the one refused longest ago is forgotten.
    """

    __slots__ = ("_full_us", "held_until_ms")

    def __init__(self) -> None:
        self.held_until_ms = 0  # later than this nobody has to wait: one comparison spares all others a look
        self._full_us: OrderedDict[bytes, int] = OrderedDict()  # client -> when its bucket is full again

    def __len__(self) -> int:
        return len(self._full_us)

    def count(self, client: bytes, refused: int, now_ms: int) -> None:
        """Take out one token for each refused operation; what was in flight already may overdraw the bucket."""
        now_us = now_ms * 1_000
        buckets = self._full_us
        full_us = max(buckets.pop(client, 0), now_us) + refused * _COST_US
        full_us = buckets[client] = min(full_us, now_us + _BURST_US + _DEBT_US)
        self.held_until_ms = max(self.held_until_ms, (full_us - _BURST_US) // 1_000 + 1)
        while len(buckets) > limits.REFUSED_CLIENTS_MAX or next(iter(buckets.values())) <= now_us:
            buckets.popitem(last=False)

    def wait_ms(self, client: bytes, now_ms: int) -> int:
        """After how long the client may send again; 0: at once."""
        wait_us = self._full_us.get(client, 0) - _BURST_US - now_ms * 1_000
        return max(limits.REFUSALS_WAIT_MIN_MS, -(-wait_us // 1_000)) if wait_us > 0 else 0
