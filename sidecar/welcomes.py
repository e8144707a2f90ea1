"""What a sidecar's welcome says: kinds, limits and pipes as last heard from the pipes themselves.

Pure. Said again to every client when it changes, so that nobody polls for a pipe that came (back).
"""

from __future__ import annotations

from collections.abc import Sequence

from mpy6a import limits
from mpy6a.messages import Kind, Limits, Role, Welcome
from sidecar.links import Link

PROTOCOL = 1  # the one version this release speaks
OWN_LIMITS = Limits(
    limits.RECORD_BYTES_MAX,
    limits.SESSION_BYTES_MAX,
    limits.SESSION_RECORDS_MAX,
    limits.MESSAGE_BYTES_MAX,
    limits.MESSAGE_OPERATIONS_MAX,
    limits.ENVELOPE_BYTES_MAX,
)


class Welcomes:
    """Makes welcomes and knows when the last one no longer holds."""

    __slots__ = ("_said",)

    def __init__(self, links: Sequence[Link], now_ms: int) -> None:
        self._said = _facts(links, now_ms)

    def now(self, hop: bytes, links: Sequence[Link], now_ms: int) -> Welcome:
        """The welcome as things stand, to a client that knows us by this `hop`."""
        heard = [link for link in links if link.pipe]
        told = [link.limits for link in heard if link.limits is not None]
        return Welcome(
            version=PROTOCOL,
            role=Role.SIDECAR,
            lease_ms=min(link.lease_ms for link in links),
            log_ms=max((link.log_ms for link in heard), default=0),
            limits=Limits(*map(min, OWN_LIMITS, *told)) if told else OWN_LIMITS,
            kinds=_kinds(heard),
            pipes=tuple(link.info(now_ms) for link in _newest(heard)),
            hop=hop,
        )

    def changed(self, links: Sequence[Link], now_ms: int) -> bool:
        """True once for each change that clients have to know."""
        said = _facts(links, now_ms)
        if said == self._said:
            return False
        self._said = said
        return True


def _facts(links: Sequence[Link], now_ms: int) -> list[object]:
    """What a welcome says and does not change by itself, as log time does."""
    return [(link.pipe, link.term, link.live(now_ms), link.lease_ms, link.limits, link.kinds) for link in links]


def _newest(heard: Sequence[Link]) -> list[Link]:
    """One link for each pipe: the one heard last, where several addresses lead to the same pipe."""
    by_pipe: dict[int, Link] = {}
    for link in sorted(heard, key=lambda link: link.heard_ms or 0):
        by_pipe[link.pipe] = link
    return [by_pipe[pipe] for pipe in sorted(by_pipe)]


def _kinds(heard: Sequence[Link]) -> tuple[Kind, ...]:
    by_id: dict[int, Kind] = {}
    for link in sorted(heard, key=lambda link: link.heard_ms or 0):
        by_id.update((kind.id, kind) for kind in link.kinds)
    return tuple(by_id[number] for number in sorted(by_id))
