"""The kinds of an embedded pipe: named by its handlers and by the test, with policies in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from mpy6a import policy
from mpy6a.client import handlers
from mpy6a.client.records import delay_ms
from mpy6a.errors import BadRequest
from mpy6a.policy import KindPolicy, Policy

SIDECAR: Final = "embedded"  # the one sidecar's name in the routes
# Nobody falls silent here, since deaths are told at once; a short lease would only make a day of 70,000 heartbeats.
LEASE_MS: Final = 10 * 60_000

Time = float | timedelta


@dataclass(frozen=True, slots=True)
class Kind:
    """What a route says of a kind, as `repeat:` of routes.yaml does; times in seconds or timedelta.

    `number` is the kind's number in wire and log; None: the next one free.
    """

    number: int | None = None
    delay: Time = policy.DELAY_MS / 1000
    jitter: Time = policy.JITTER_MS / 1000
    backoff: tuple[Time, Time] = (policy.BACKOFF_BASE_MS / 1000, policy.BACKOFF_CAP_MS / 1000)
    idle: Time = policy.IDLE_MS / 1000
    silence: Time = policy.SILENCE_MS / 1000
    concurrency: int = policy.CONCURRENCY
    barren_limit: int = policy.BARREN_LIMIT
    charge_limit: int = policy.CHARGE_LIMIT


def policy_for(functions: Iterable[handlers.AnyHandler], kinds: Mapping[str, Kind], default: Kind) -> Policy:
    """The policy in force: a kind for each handler, and those of `kinds`. Raises BadRequest for two of one number or
    two handlers of one kind."""
    wanted = dict(kinds)
    served: set[str] = set()
    for function in functions:
        marked = handlers.read(function).kind
        name = marked if isinstance(marked, str) else _named(marked, wanted)
        if name in served:
            raise BadRequest(f"two handlers finish the kind {name!r}: give one")
        served.add(name)
        if name not in wanted:
            wanted[name] = replace(default, number=marked if isinstance(marked, int) else None)
    return Policy(_policies(wanted), lease_ms=LEASE_MS)


def _named(number: int, kinds: Mapping[str, Kind]) -> str:
    """The name of a kind that a handler knows by its number."""
    return next((name for name, kind in kinds.items() if kind.number == number), f"kind-{number}")


def _policies(kinds: Mapping[str, Kind]) -> dict[int, KindPolicy]:
    taken = {kind.number for kind in kinds.values() if kind.number is not None}
    found: dict[int, KindPolicy] = {}
    free = 1
    for name, kind in kinds.items():
        number = kind.number
        while number is None:
            number, free = (None if free in taken else free), free + 1
        if number in found:
            raise BadRequest(f"the kinds {found[number].name!r} and {name!r} both have the number {number}")
        found[number] = KindPolicy(
            number,
            name,
            (SIDECAR,),
            delay_ms=delay_ms(kind.delay),
            jitter_ms=delay_ms(kind.jitter),
            backoff_base_ms=delay_ms(kind.backoff[0]),
            backoff_cap_ms=delay_ms(kind.backoff[1]),
            idle_ms=delay_ms(kind.idle),
            silence_ms=delay_ms(kind.silence),
            concurrency=kind.concurrency,
            barren_limit=kind.barren_limit,
            charge_limit=kind.charge_limit,
        )
    return found
