"""What a kind's route and repeat policy say, as plain values: they travel in the log and decide there.

No I/O and no clock. Times are int milliseconds, sizes bytes; `mpy6a.config` makes these values from YAML, a
Policy frame of the log carries them (schemas/log.capnp), `apply` reads them. Source: semantics "Repeat policy
of a kind".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from mpy6a import limits

Orphans = Literal["refuse", "hold", "park"]

DELAY_MS: Final = 1_000  # between a writer that went away and the first repeat: a restart is usually over by then
JITTER_MS: Final = 0  # none unless asked for: back-off already spreads what fails
BACKOFF_BASE_MS: Final = 1_000  # doubles with each charged repeat, drawn with full jitter
BACKOFF_CAP_MS: Final = 10 * 60_000
IDLE_MS: Final = 5 * 60_000  # OPEN without an accepted operation
SILENCE_MS: Final = 5 * 60_000  # REPEATING without an accepted operation
TIMEOUT_MS: Final = 30_000  # one run of a handler
CONCURRENCY: Final = 64  # handlers of the kind at a time, in one sidecar
RATE_MS: Final = 1_000  # in which `rate` sessions are handed out
BREAKER: Final = 10  # sessions that fail in a row; then they are tried one at a time
BARREN_LIMIT: Final = 200  # charged repeats in a row that added no record; then PARKED
CHARGE_LIMIT: Final = 1_000  # charged repeats in all; then PARKED
ORPHANS: Final[Orphans] = "refuse"


@dataclass(frozen=True, slots=True)
class KindPolicy:
    """One kind of the routes. `id` is a u32 ≥ 1, never reused; `handler` decides nothing."""

    id: int
    name: str
    sidecars: tuple[str, ...]
    handler: str = "attached"  # attached, python, http or exec
    delay_ms: int = DELAY_MS
    jitter_ms: int = JITTER_MS
    backoff_base_ms: int = BACKOFF_BASE_MS
    backoff_cap_ms: int = BACKOFF_CAP_MS
    idle_ms: int = IDLE_MS
    silence_ms: int = SILENCE_MS
    timeout_ms: int = TIMEOUT_MS
    concurrency: int = CONCURRENCY
    barren_limit: int = BARREN_LIMIT
    charge_limit: int = CHARGE_LIMIT
    rate: int = 0  # sessions handed out in `rate_ms`, by all sidecars; 0: as many as can
    rate_ms: int = RATE_MS
    burst: int = 0  # of them at once, after a rest; at least 1 where there is a rate
    concurrency_total: int = 0  # handlers of the kind at a time, in all sidecars; 0: only `concurrency` counts
    breaker: int = BREAKER  # sessions that fail in a row and open it; 0: there is none


@dataclass(frozen=True, slots=True)
class Policy:
    """What is in force from one Policy frame to the next. `kinds` is by number, ascending, read-only."""

    kinds: Mapping[int, KindPolicy] = field(default_factory=dict)
    lease_ms: int = limits.LEASE_MS
    record_bytes_max: int = limits.RECORD_BYTES_MAX
    session_bytes_max: int = limits.SESSION_BYTES_MAX
    session_records_max: int = limits.SESSION_RECORDS_MAX
    orphans: Orphans = ORPHANS
    _named: Mapping[str, KindPolicy] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ascending = dict(sorted(self.kinds.items()))
        named = {kind.name: kind for kind in ascending.values()}
        assert all(number == kind.id for number, kind in ascending.items()), "a kind stands under another's number"
        assert len(named) == len(ascending), "two kinds have one name"
        object.__setattr__(self, "kinds", MappingProxyType(ascending))
        object.__setattr__(self, "_named", MappingProxyType(named))

    def kind_named(self, name: str) -> KindPolicy | None:
        """The kind of that name, or None: then `nearest` has what may have been meant."""
        return self._named.get(name)

    def nearest(self, name: str) -> tuple[str, ...]:
        """Up to three names of kinds that look like `name`, the nearest first; takes up to 0.2 ms a kind."""
        return nearest(name, self._named)


def policy_of(kinds: Iterable[KindPolicy]) -> Policy:
    """A policy with these kinds and every other value at its default."""
    return Policy({kind.id: kind for kind in kinds})


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three of `names` that look like `name`, which is cut to stay quick on hostile lengths."""
    return tuple(difflib.get_close_matches(name[: 2 * limits.NAME_BYTES_MAX], list(names), n=3, cutoff=0.6))
