"""How fast a kind is handed out: its rate, how many at a time, and its breaker. Pure, and no part of the state.

                       `breaker` failures in a row, each of another session
              CLOSED ---------------------------------------------------------> OPEN
                ^                                                              |  ^  one probe at a time, after a
      window    |             a success: the probe's, or of one that ran       |  |  wait that doubles
      reaches   |          .---------------------------------------------------'  |
      the limit |          v                                                      | the same number of failures
                '------ LIMITED  window + 1/window a success, halved by a failure -'

After an outage (no sidecar of the kind for RAMP_AFTER_MS while sessions were due) the window begins at RAMP_SESSIONS
and grows by 1 a success, until something fails. What a breaker decides for the log (a failure is not charged while it
is open) rides in the frame: `open_kinds` is asked before. Source: semantics "Policy is in the log".
"""

from __future__ import annotations

from typing import Final

from mpy6a import limits
from mpy6a.model import AttemptOutcome
from mpy6a.policy import KindPolicy
from mpy6a.session import REPEATING
from mpy6a.state import State

MANY: Final = 1 << 30  # no limit of the kind's own: credit alone bounds it
_SUCCESS: Final = (AttemptOutcome.DECIDED, AttemptOutcome.PARK)  # the handler lives and has answered
_NS_PER_MS: Final = 1_000_000


class Pace:
    """What is known of one kind; most kinds never have one. Times are monotonic ms."""

    __slots__ = (
        "away_ms", "error", "failed", "full_ns", "linear", "probe", "probe_ms", "probes", "reserved", "under", "window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.window: float | None = None  # sessions that may run at a time; None: whatever there is credit for
        self.under: set[int] = set()  # sessions handed out under this window: what ran before does not count
        self.linear = False  # it grows by one a window of successes; else by one a success
        self.failed: dict[int, None] = {}  # sessions that failed since the last success, each once
        self.error = ""  # of the last failure
        self.probe = 0  # session that is tried while the breaker is open; 0: none
        self.probe_ms = 0  # when the next may be tried
        self.probes = 0  # that failed in a row
        self.full_ns = 0  # when the rate's bucket is full again
        self.reserved = 0  # sessions in a proposal that is not applied yet
        self.away_ms = 0  # since when sessions are due and no sidecar is there; 0: not so


class Pacing:
    """The paces of a pipe's kinds."""

    def __init__(self, state: State) -> None:
        self.open_kinds: set[int] = set()  # whose breaker is open: a failure is not charged
        self._state = state
        self._paces: dict[int, Pace] = {}

    # ------------------------------------------------------------------ before a dispatch

    def room(self, kind: KindPolicy, now_ms: int) -> int:
        """How many of the kind's sessions may be handed out now, whatever credit there is."""
        pace, room = self._paces.get(kind.id), MANY
        if pace is None:
            return min(kind.burst if kind.rate else MANY, self._left(kind, 0) if kind.concurrency_total else MANY)
        if kind.rate:
            room = max(0, (_burst_ns(kind) - max(0, pace.full_ns - now_ms * _NS_PER_MS)) // _cost_ns(kind))
        if kind.concurrency_total:
            room = min(room, self._left(kind, pace.reserved))
        if kind.id in self.open_kinds:
            return min(room, 1) if not pace.probe and now_ms >= pace.probe_ms else 0
        if pace.window is not None:
            room = min(room, int(pace.window) - len(pace.under))
        return max(0, room)

    def _running(self, kind: int) -> int:
        return self._state.sessions.counts.get(kind << 3 | REPEATING, 0)

    def _left(self, kind: KindPolicy, reserved: int) -> int:
        return max(0, kind.concurrency_total - self._running(kind.id) - reserved)

    def took(self, kind: KindPolicy, index: int, now_ms: int) -> None:
        """A session of the kind is in a proposal; `settled` has to follow."""
        pace = self._paces.get(kind.id)
        if pace is None:
            pace = self._paces[kind.id] = Pace()
        pace.reserved += 1
        if kind.rate:
            pace.full_ns = max(pace.full_ns, now_ms * _NS_PER_MS) + _cost_ns(kind)
        if kind.id in self.open_kinds:
            pace.probe = index
        elif pace.window is not None:
            pace.under.add(index)

    def settled(self, kind: int, index: int, *, void: bool) -> None:
        """The proposal was applied, or came too late."""
        pace = self._paces.get(kind)
        if pace is None:
            return
        pace.reserved -= 1
        if void:
            pace.under.discard(index)
        if void and pace.probe == index:
            pace.probe = 0

    def is_bounded(self, kind: KindPolicy) -> bool:
        """Whether the end of a run may make room for another."""
        return kind.concurrency_total > 0 or kind.id in self._paces

    def away(self, kind: int, now_ms: int) -> None:
        """Sessions of the kind are due and no sidecar is connected."""
        pace = self._paces.setdefault(kind, Pace())
        pace.away_ms = pace.away_ms or now_ms

    def back(self, kind: int, now_ms: int) -> None:
        """A sidecar is there, for what is due."""
        pace = self._paces.get(kind)
        if pace is None or not pace.away_ms:
            return
        outage = now_ms - pace.away_ms >= limits.RAMP_AFTER_MS
        pace.away_ms = 0
        if outage and pace.window is None and kind not in self.open_kinds:
            pace.window, pace.linear = float(limits.RAMP_SESSIONS), False
            pace.under.clear()

    # ------------------------------------------------------------------ what came of it

    def ended(self, kind: KindPolicy, index: int, outcome: int, message: str, now_ms: int) -> None:
        """One run of a handler is over."""
        pace = self._paces.get(kind.id)
        if pace is not None:
            pace.under.discard(index)
        if outcome in _SUCCESS:
            if pace is not None and (pace.failed or pace.window is not None or kind.id in self.open_kinds):
                self._succeeded(pace, kind)
        elif outcome == AttemptOutcome.FAIL:
            if pace is None:
                pace = self._paces[kind.id] = Pace()
            self._failed(pace, kind, index, message, now_ms)
        if pace is not None and pace.probe == index and kind.id in self.open_kinds:  # not the probe's success
            self._probe_again(pace, kind, now_ms)

    def _succeeded(self, pace: Pace, kind: KindPolicy) -> None:
        pace.failed.clear()
        if kind.id in self.open_kinds:
            self.open_kinds.discard(kind.id)
            pace.window, pace.linear = 1.0, True
            pace.under.clear()
            pace.probe = pace.probes = 0
            return
        if pace.window is not None:
            pace.window += 1 / pace.window if pace.linear else 1
            if pace.window >= (kind.concurrency_total or kind.concurrency * len(kind.sidecars)):
                pace.window = None

    def _failed(self, pace: Pace, kind: KindPolicy, index: int, message: str, now_ms: int) -> None:
        pace.error = message
        if kind.id in self.open_kinds:
            if pace.probe == index:
                pace.probes += 1
            return
        if pace.window is not None:
            pace.window, pace.linear = max(1.0, pace.window / 2), True
        pace.failed[index] = None
        if kind.breaker and len(pace.failed) >= kind.breaker:
            self.open_kinds.add(kind.id)
            pace.failed.clear()
            pace.window = None
            pace.probes = 0
            self._probe_again(pace, kind, now_ms)
        elif len(pace.failed) > limits.BREAKER_MAX:
            del pace.failed[next(iter(pace.failed))]

    def _probe_again(self, pace: Pace, kind: KindPolicy, now_ms: int) -> None:
        pace.probe = 0
        wait_ms = min(kind.backoff_base_ms << min(pace.probes, 20), kind.backoff_cap_ms, limits.PROBE_MS_MAX)
        pace.probe_ms = now_ms + wait_ms

    def reload(self, now_ms: int) -> None:
        """Another policy is in force: a breaker that is no more is closed, kinds that are no more are forgotten, and
        what a slower rate has used up counts as one burst of the rate there is now."""
        kinds = self._state.policy.kinds
        for number, pace in self._paces.items():
            kind = kinds.get(number)
            if kind is not None and kind.rate:
                pace.full_ns = min(pace.full_ns, now_ms * _NS_PER_MS + _burst_ns(kind))
        for number, pace in list(self._paces.items()):
            if number not in kinds:
                self._paces[number] = fresh = Pace()
                fresh.reserved = pace.reserved
                if not fresh.reserved:
                    del self._paces[number]
        self.open_kinds -= {number for number in self.open_kinds if number not in kinds or not kinds[number].breaker}

    # ------------------------------------------------------------------ for people and the loop

    def next_ms(self, kind: KindPolicy, now_ms: int) -> int | None:
        """Monotonic time at which time alone makes room again; None if it does not, or there is room."""
        pace = self._paces.get(kind.id)
        if pace is None:
            return None
        next_ms = 0
        if kind.id in self.open_kinds:
            if pace.probe:
                return None
            next_ms = pace.probe_ms
        if kind.rate:
            next_ms = max(next_ms, -(-(pace.full_ns - _burst_ns(kind) + _cost_ns(kind)) // _NS_PER_MS))
        return next_ms if next_ms > now_ms else None

    def timed(self) -> list[int]:
        """Kinds that may wait for a time."""
        kinds = self._state.policy.kinds
        rated = {number for number in self._paces if number in kinds and kinds[number].rate}
        return [*(rated | self.open_kinds)]

    def facts(self, kind: KindPolicy) -> dict[str, object]:
        """For operators: the breaker, how many may run at a time beside their credit, and the rate."""
        pace, is_open = self._paces.get(kind.id), kind.id in self.open_kinds
        window = None if pace is None or pace.window is None else int(pace.window)
        breaker = "none" if not kind.breaker else "open" if is_open else "closed"
        total = kind.concurrency_total or None
        at_a_time = 1 if is_open else min((one for one in (window, total) if one is not None), default=None)
        return {"breaker": breaker, "at_a_time": at_a_time, "rate": rate_text(kind) if kind.rate else None}

    def breaker(self, kind: KindPolicy, now_ms: int) -> str | None:
        """In words, why the breaker of the kind is open; None where it is not."""
        if kind.id not in self.open_kinds:
            return None
        pace = self._paces[kind.id]
        following = "one is tried now"
        if not pace.probe:
            following = f"one is tried in {max(0, pace.probe_ms - now_ms) / 1000:.1f} s"
        return f"{kind.breaker} sessions failed in a row; {following}; last: {pace.error or 'no message'}"

    def limit(self, kind: KindPolicy, now_ms: int) -> str | None:
        """In words, which limit of the kind keeps its sessions back; None where there is room."""
        if self.room(kind, now_ms) > 0:
            return None
        pace, running = self._paces.get(kind.id), self._running(kind.id)
        if kind.concurrency_total and self._left(kind, pace.reserved if pace else 0) == 0:
            return f"concurrency: {running} run, of {kind.concurrency_total} at a time"
        if pace is not None and pace.window is not None and int(pace.window) <= len(pace.under):
            return f"concurrency: {int(pace.window)} at a time for now: it grows as they succeed"
        return f"rate: {rate_text(kind)}"


def rate_text(kind: KindPolicy) -> str:
    """`100/s, burst 200`."""
    unit = {1_000: "s", 60_000: "m", 3_600_000: "h"}.get(kind.rate_ms, f"{kind.rate_ms}ms")
    return f"{kind.rate}/{unit}, burst {kind.burst}"


def _cost_ns(kind: KindPolicy) -> int:
    return max(1, kind.rate_ms * _NS_PER_MS // kind.rate)


def _burst_ns(kind: KindPolicy) -> int:
    return kind.burst * _cost_ns(kind)
