"""`--until` of a pause: how long from now, or a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from mpy6a import limits
from mpy6a.config.values import parse_duration

ENDS: Final = "when it ends by itself: from now (90s, 2h30m), or a time with its zone (2026-12-01T06:00+01:00)"


class Until(click.ParamType):  # type: ignore[type-arg]  # subscripting it fails before click 8.4
    """A duration from now or a time, as ms from now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        for_ms = parse_duration(value)
        if for_ms is None:
            try:
                at = datetime.fromisoformat(value)
            except ValueError:
                self.fail(f"{value!r}: allowed is a duration such as 90s or 2h30m, or a time such as 2026-12-01T06:00Z")
            if at.tzinfo is None:
                self.fail(f"{value!r}: say its zone too, as in {value}Z")
            for_ms = int((at - datetime.now(UTC)).total_seconds() * 1000)
        if not 0 < for_ms <= limits.DURATION_MS_MAX:
            self.fail(f"{value!r}: it has to lie ahead, by {limits.DURATION_MS_MAX // 86_400_000} days at most")
        return for_ms
