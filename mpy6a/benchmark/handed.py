"""One run of `mpy6a bench delivery`: a pipe, a sidecar and a handler on an empty directory, sessions due at one moment.

The handler notes by the machine's monotonic clock when it was handed each session, and when the pipe had answered its
Delete. Log time is that clock and a constant, which the pipe's `status` tells to the millisecond: so due times, which
are log times, and notes can be compared. An `http:` handler learns of no Delete, its sidecar does that: there the end
is when the pipe has no session any more, looked for every LOOK_S.
"""

from __future__ import annotations

import gc
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mpy6a.benchmark import notes
from mpy6a.benchmark.calibration import loop_ns
from mpy6a.benchmark.disk import SyncProbe
from mpy6a.benchmark.exchange import ExchangeLoad
from mpy6a.benchmark.figures import percentile
from mpy6a.benchmark.greeting import UP_S, first_answer
from mpy6a.benchmark.place import KIND, Place, free_port, route
from mpy6a.benchmark.processes import Child, children_of, cpu_ns
from mpy6a.client.operator import Operator
from mpy6a.errors import Unavailable
from mpy6a.model import SessionId

LOOK_S: Final = 0.02  # between two looks at the pipe: 1 % of a run of two seconds, and of the pipe's time
STILL_S: Final = 20.0  # without any session finished the run is given up
LONG: Final = "10m"  # limits that no run reaches, so that nobody who hangs is ended by them
_CLOCK_LOOKS: Final = 50  # answers of the pipe from which its log time is read
_AHEAD_MS: Final = 1_500  # from the first Store to the due time ...
_STORES_MS: Final = 25  # ... and one more for so many sessions: they are stored at 50 to 100 a ms


@dataclass(frozen=True, slots=True)
class Work:
    """What one run is to deliver. `hanging`: the first so many kinds have a handler that never returns."""

    handler: str
    sessions: int
    concurrency: int  # of the kind in the routes, and of the service that is attached
    kinds: int = 1
    hanging: int = 0
    kind_concurrency: int = 0  # of each kind in the routes; 0: as `concurrency`


@dataclass(frozen=True, slots=True)
class Delivered:
    """One run as figures. Times count from the moment at which all sessions were due; lateness is that of a session's
    handing against its own due time."""

    handler: str
    sessions: int  # those that were to be finished, without those of kinds that hang
    credit: int  # of a kind, before it began
    repeats_s: float
    finished_ms: float
    late_p50_ms: float
    late_p99_ms: float
    cpu_us: dict[str, float]  # of each process, per session
    syncs_per_repeat: float
    handed: int  # how often a session was handed over; more than `sessions`: some twice
    twice: int
    left: int  # that the pipe had at the end
    checkpoints: int
    disk_p50_us: float
    loop_ns: float
    durable: bool


def routes_of(work: Work, port: int) -> list[str]:
    """The kinds of a run, as lines of routes.yaml."""
    handler = {
        "attached": "attached: true",
        "python": "python: 'mpy6a.benchmark.nothing:finish'",
        "http": f"http: 'http://127.0.0.1:{port}/'",
    }[work.handler]
    repeat = f"concurrency: {work.kind_concurrency or work.concurrency}, timeout: {LONG}, silence: {LONG}"
    return [route(name, number, handler, repeat) for number, name in enumerate(names_of(work), 1)]


def names_of(work: Work) -> list[str]:
    """The names of its kinds; their numbers count from 1."""
    return [KIND] if work.kinds == 1 else [f"{KIND}-{number}" for number in range(1, work.kinds + 1)]


def deliver(disk: Path, fsync: str, work: Work, record: bytes) -> Delivered:
    """Measure. Raises CannotStart, Unavailable; every child has ended when it returns."""
    gc.collect()
    port = free_port()
    with Place(disk, fsync, routes=routes_of(work, port)) as place:
        probe = SyncProbe(place.data)
        try:
            return _run(place, probe, work, record, port)
        finally:
            probe.close()


def _run(place: Place, probe: SyncProbe, work: Work, record: bytes, port: int) -> Delivered:
    pipe = place.start_pipe()
    first_answer(place.doors.pipe, pipe)
    handler = None
    if work.handler == "http":
        handler = place.start_handler("mpy6a.benchmark.nothing_http", str(port))
        _await_port(port, handler)
    sidecar = place.start_sidecar()
    first_answer(place.doors.sidecar, sidecar)
    if work.handler == "attached":
        arguments = (place.doors.sidecar, str(work.concurrency), str(work.hanging), *names_of(work))
        handler = place.start_handler("mpy6a.benchmark.nothing", *arguments)
    everybody = [pipe, sidecar, *([handler] if handler is not None else [])]
    with Operator(place.doors.admin) as operator:
        credit = _await_credit(operator, work.kinds, everybody)
        processes = {"pipe": pipe.pid, "sidecar": sidecar.pid}
        processes["handler"] = handler.pid if handler is not None else _only_child(sidecar)
        disk_ns, turn_ns = probe.sample(), loop_ns()
        ahead_ms = _log_ahead_ms(operator)
        load = ExchangeLoad(place.doors.pipe)
        try:
            due_ms = 0

            def after_ms() -> int:
                nonlocal due_ms
                now_ms = time.monotonic_ns() // 1_000_000
                due_ms = due_ms or now_ms + _AHEAD_MS + work.sessions // _STORES_MS
                return max(0, due_ms - now_ms)

            ahead = load.store_ahead(range(1, work.kinds + 1), work.sessions, record, after_ms)
            durable = load.durable()
        finally:
            load.close()
        due = {session: at_ms - ahead_ms for session, at_ms in ahead.due_ms.items()}
        rest_s = min(due.values()) / 1e3 - time.monotonic()
        if rest_s <= 0:
            raise Unavailable(f"{work.sessions} sessions were not stored before they were due: take fewer --sessions")
        hung = {session for session, kind in ahead.kinds.items() if kind <= work.hanging}
        before = operator.request("status")
        used = {name: cpu_ns(pid) for name, pid in processes.items()}
        time.sleep(max(0.0, min(due.values()) / 1e3 - time.monotonic()))
        gone_ns = _await_finished(operator, len(hung), everybody)
        used = {name: cpu_ns(pid) - used[name] for name, pid in processes.items()}
        after = operator.request("status")
    place.end_children()
    told = notes.read(place.notes)
    turn_ns = (turn_ns + loop_ns()) / 2
    disk_ns += probe.sample()
    return figures(
        work, told, due, hung, credit, used, gone_ns=gone_ns,
        syncs=_log(after)["syncs"] - _log(before)["syncs"], left=int(str(after["live"])),
        checkpoints=_checkpoints(after) - _checkpoints(before), disk_ns=disk_ns, turn_ns=turn_ns,
        durable=durable and after["durable"] is True and not told.acks_not_durable,
    )  # fmt: skip


def figures(
    work: Work, told: notes.Notes, due_ms: dict[SessionId, int], hung: set[SessionId], credit: int,
    used_ns: dict[str, int], *, gone_ns: int, syncs: int, left: int, checkpoints: int, disk_ns: Sequence[int],
    turn_ns: float, durable: bool,
) -> Delivered:  # fmt: skip
    """What was noted, as figures. Raises Unavailable if a session was finished that nobody had stored, or none was."""
    times = Counter(session for session, _, _ in told.runs)
    due_of = {str(session): at_ms for session, at_ms in due_ms.items()}
    strangers = times.keys() - due_of.keys()
    if strangers or not told.runs:
        raise Unavailable(f"the handler noted {len(told.runs)} runs, {len(strangers)} of sessions that nobody stored")
    late_ns = sorted(handed_ns - due_of[session] * 1_000_000 for session, handed_ns, _ in told.runs)
    first_ms = min(due_ms.values())
    done_ns = gone_ns if work.handler == "http" else max(done_ns for _, _, done_ns in told.runs)
    sessions = len(due_ms) - len(hung)
    disk = sorted(disk_ns)
    return Delivered(
        handler=work.handler,
        sessions=sessions,
        credit=credit,
        repeats_s=sessions * 1e9 / (done_ns - first_ms * 1_000_000),
        finished_ms=done_ns / 1e6 - first_ms,
        late_p50_ms=percentile(late_ns, 0.5) / 1e6,
        late_p99_ms=percentile(late_ns, 0.99) / 1e6,
        cpu_us={name: used / sessions / 1000 for name, used in used_ns.items()},
        syncs_per_repeat=syncs / sessions,
        handed=len(told.runs),
        twice=len(told.runs) - len(times),
        left=left,
        checkpoints=checkpoints,
        disk_p50_us=percentile(disk, 0.5) / 1000,
        loop_ns=turn_ns,
        durable=durable,
    )


# ---------------------------------------------------------------------- waiting for the processes


def _await_port(port: int, child: Child) -> None:
    """Until somebody takes connections there."""

    def is_there() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            return False
        return True

    _await(is_there, [child], f"nobody listens at port {port}")


def _await_credit(operator: Operator, kinds: int, children: Sequence[Child]) -> int:
    """Until every kind may be pushed; how many sessions of each."""
    found: list[int] = []

    def is_granted() -> bool:
        [sidecar] = _list(operator.request("status")["sidecars"])
        found[:] = [room for room in sidecar["credit"].values() if room > 0]
        return len(found) == kinds

    _await(is_granted, children, "the sidecar grants no credit")
    return min(found)


def _await(holds: Callable[[], bool], children: Sequence[Child], otherwise: str) -> None:
    give_up_at = time.monotonic() + UP_S
    while not holds():
        for child in children:
            child.check()
        if time.monotonic() > give_up_at:
            raise Unavailable(f"{otherwise} within {UP_S:g} s: is the machine overloaded?")
        time.sleep(LOOK_S)


def _await_finished(operator: Operator, left: int, children: Sequence[Child]) -> int:
    """Until the pipe has no more than so many sessions; when it said so, in monotonic ns. Raises Unavailable once
    nothing was finished for STILL_S."""
    live, since = -1, time.monotonic()
    while True:
        now_live = int(str(operator.request("status")["live"]))
        if now_live <= left:
            return time.monotonic_ns()
        if now_live != live:
            live, since = now_live, time.monotonic()
        elif time.monotonic() - since > STILL_S:
            raise Unavailable(f"{live - left} sessions were not finished, and none of them in {STILL_S:g} s")
        for child in children:
            child.check()
        time.sleep(LOOK_S)


def _log_ahead_ms(operator: Operator) -> int:
    """How far the pipe's log time is ahead of the monotonic clock, in whole ms: between what it was when it was asked
    for and when it was told, over many answers."""
    low, high = -(1 << 62), 1 << 62
    for _ in range(_CLOCK_LOOKS):
        asked_ms = time.monotonic_ns() // 1_000_000
        log_ms = int(str(operator.request("status")["log_ms"]))
        low, high = max(low, log_ms - time.monotonic_ns() // 1_000_000), min(high, log_ms - asked_ms)
    return (low + high) // 2


def _only_child(sidecar: Child) -> int:
    """The process of its python handlers."""
    [child] = children_of(sidecar.pid)
    return child


# ---------------------------------------------------------------------- what the pipe says


def _list(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


def _log(status: dict[str, object]) -> dict[str, Any]:
    log = status["log"]
    assert isinstance(log, dict)
    return log


def _checkpoints(status: dict[str, object]) -> int:
    kept = status["checkpoint"]
    assert isinstance(kept, dict)
    return int(kept.get("checkpoints", 0))
