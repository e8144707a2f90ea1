"""Runs one demo: every part its own process, killed by the schedule and started again until all is done."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from mpy6a.demo import audit, journal, processes
from mpy6a.demo.kills import Kill, schedule
from mpy6a.demo.place import SIDECARS, Place
from mpy6a.demo.processes import Child
from mpy6a.demo.service import STATS_PATH
from mpy6a.demo.show import InFlight, Progress
from mpy6a.demo.watch import Live
from mpy6a.errors import CannotStart, Unavailable

TICK_S: Final = 0.03
SHOW_EVERY_S: Final = 0.5
START_S_MAX: Final = 30.0  # for all processes to be up at the beginning, on a machine that is busy
CALM_S_MAX: Final = 10.0  # for a row to be done once everybody is up; with --fail 1 none ever is
RUN_S_MAX: Final = 300.0  # until the client is done and everybody was killed
SETTLE_S_MAX: Final = 90.0  # from the client's end until no session is live
QUIET_S_MAX: Final = 15.0  # from then until the last request that hangs has ended (10 s at most)
STOP_GRACE_S: Final = 3.0

CLIENT_SPAN_S: Final = 20.0  # the client is paced to need about this long, so that the kills hit it at work
CLIENT_RATE_MIN: Final = 4.0  # users a second; fewer users take less long
UNDISTURBED: Final = 0.75  # of that time; the rest, and what the restarts add, are outages


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for."""

    users: int
    fail: float
    kill: bool
    seed: int
    input: Path
    guard: bool = True

    @property
    def rate(self) -> float:
        """Users begun a second."""
        return max(CLIENT_RATE_MIN, self.users / CLIENT_SPAN_S)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: what the audit found, and what it was put through."""

    audit: audit.Audit
    hits: tuple[InFlight, ...]
    parked: int
    elapsed_s: float


class Watching(Protocol):
    """Who asks the pipe for its live sessions; `watch.Watch`, or a test's."""

    last: Live | None

    def poll(self) -> None:
        """Take the answer if it is there, and ask anew; never waits."""

    def list_live(self) -> list[str]:
        """Live sessions as lines for the audit."""

    def close(self) -> None:
        """Ask no more."""


class Orchestrator:
    """One run. `run` returns its outcome; `close` ends every process and may be called at any time."""

    def __init__(
        self,
        wanted: Wanted,
        place: Place,
        progress: Progress,
        children: dict[str, Child],
        planned: list[Kill],
        watch: Watching,
    ) -> None:
        self._wanted, self._place, self._progress = wanted, place, progress
        self._children, self._kills = children, list(planned)
        self._restarts: dict[str, float] = {}
        self._coming: set[str] = set()  # started, and not seen up yet
        self._up: tuple[float, int] | None = None  # everybody is up since then, and the journal's length at that moment
        self._calm_s: float | None = None  # since then rows are done again
        self._hits: list[InFlight] = []
        self._watch = watch
        self._began_s = self._last_kill_s = self._shown_s = time.monotonic()
        self._journal_bytes = 0
        self._counts: dict[str, int] = {}
        self._client_done = False

    def run(self) -> Outcome:
        """The whole run. Raises `CannotStart`, or `Unavailable` when a process ends by itself."""
        self._start()
        self._until(lambda: self._client_done and not self._kills and not self._restarts, RUN_S_MAX)
        if not self._client_done:
            raise Unavailable(f"the client is not done after {RUN_S_MAX:.0f} s\n" + self._tails(["client"]))
        live = self._settle()
        self._until(self._quiet, QUIET_S_MAX)
        if not self._quiet():
            raise Unavailable(f"a service is not idle after {QUIET_S_MAX:.0f} s\n" + self._tails(list(SIDECARS)))
        elapsed_s = time.monotonic() - self._began_s
        found = audit.audit(
            self._place.database("users"),
            self._place.database("search"),
            self._place.journal,
            self._watch.list_live() if live.total else [],
        )
        lacking = missing(self._wanted, found.facts, self._hits)
        found = audit.Audit((*found.findings, *lacking), found.facts)
        return Outcome(found, tuple(self._hits), live.states["parked"], elapsed_s)

    def close(self) -> None:
        """End every process, all at once; then what outlived its parents."""
        for child in self._children.values():
            child.ask_to_stop()
        end_s = time.monotonic() + STOP_GRACE_S
        for child in self._children.values():
            child.stop(max(0.0, end_s - time.monotonic()))
        processes.end_leftovers(self._place.token)
        self._watch.close()

    def _start(self) -> None:
        for name in self._children:
            if name != "client":
                self._begin(name)
        try:
            self._until(
                lambda: all(child.up for name, child in self._children.items() if name != "client"),
                START_S_MAX,
            )
        except Unavailable as error:
            raise CannotStart(str(error)) from error
        down = [name for name, child in self._children.items() if name != "client" and not child.up]
        if down:
            raise CannotStart(f"not up after {START_S_MAX:.0f} s: {', '.join(down)}\n" + self._tails(down))
        self._begin("client")
        self._last_kill_s = time.monotonic()

    def _settle(self) -> Live:
        """Wait until the pipe says that no session is live (or only parked ones are); the last it said."""
        begun_s = time.monotonic()

        def fresh() -> Live | None:
            live = self._watch.last
            return live if live is not None and live.asked_s > begun_s else None

        def settled() -> bool:
            live = fresh()
            return live is not None and live.moving == 0

        self._until(settled, SETTLE_S_MAX)
        last = fresh()
        if last is None:
            raise Unavailable(f"the pipe did not answer for {SETTLE_S_MAX:.0f} s\n" + self._tails(["pipe"]))
        return last

    def _until(self, reached: Callable[[], bool], at_most_s: float) -> None:
        """Turn the wheel until `reached`, or for so long."""
        end_s = time.monotonic() + at_most_s
        while not reached() and time.monotonic() < end_s:
            self._turn()
            time.sleep(TICK_S)

    def _turn(self) -> None:
        now_s = time.monotonic()
        self._check_ends()
        for name in [name for name, due_s in self._restarts.items() if due_s <= now_s]:
            del self._restarts[name]
            self._begin(name)
        self._look(now_s)
        self._kill_next(now_s)
        if now_s - self._shown_s >= SHOW_EVERY_S:
            self._shown_s = now_s
            self._show(now_s)

    def _check_ends(self) -> None:
        """The client may end when it is done; nobody else ends by itself."""
        for name, child in self._children.items():
            code = child.exit_code
            if code is None or (name == "client" and code == 0 and self._client_done):
                continue
            if name == "client" and code == 0:
                self._client_done = True
                # What is left of its kills can hit nobody any more.
                self._kills = [kill for kill in self._kills if kill.name != "client"]
                continue
            raise Unavailable(f"{name} ended by itself with {code}\n{child.tail}")

    def _look(self, now_s: float) -> None:
        """Notice who is up, and when rows are done again after the last kill."""
        coming = {name: self._children[name] for name in self._coming}
        self._coming = {name for name, child in coming.items() if child.exit_code is None and not child.up}
        if self._coming or self._restarts:
            if now_s - self._last_kill_s > START_S_MAX:
                late = sorted(self._coming)
                raise Unavailable(f"not up after {START_S_MAX:.0f} s: {', '.join(late)}\n" + self._tails(late))
            return
        if self._up is None:
            self._up = now_s, journal.whole_bytes(self._place.journal)
        up_s, up_bytes = self._up
        if self._calm_s is None and (
            self._client_done
            or now_s - up_s > CALM_S_MAX
            or any(entry.phase == "done" for entry in journal.read(self._place.journal, up_bytes))
        ):
            self._calm_s = now_s

    def _kill_next(self, now_s: float) -> None:
        """Carry out the next kill of the schedule when its time has come and its target is at work."""
        if not self._kills:
            return
        kill = self._kills[0]
        since_s = self._last_kill_s if kill.in_outage else self._calm_s
        if since_s is None or now_s - since_s < kill.gap_ms / 1000:
            return
        child = self._children[kill.name]
        if not child.up or (kill.name == "client" and not self._client_at_work()):
            return
        del self._kills[0]
        hit = self._in_flight(kill.name)
        child.kill()
        self._hits.append(hit)
        self._last_kill_s = now_s
        self._restarts[kill.name] = now_s + kill.down_ms / 1000
        self._up = self._calm_s = None

    def _begin(self, name: str) -> None:
        if name == "client":
            self._journal_bytes = journal.whole_bytes(self._place.journal)
        self._children[name].start()
        self._coming.add(name)

    def _client_at_work(self) -> bool:
        """Whether this life of the client has begun a row: a kill while it starts would hit nothing."""
        return journal.whole_bytes(self._place.journal) > self._journal_bytes

    def _in_flight(self, name: str) -> InFlight:
        """What a kill at this moment hits."""
        # Rows of earlier lives that never ended are no longer the client's: they are the pipe's.
        entries = journal.read(self._place.journal, self._journal_bytes)
        alive = self._children["client"].exit_code is None and self._children["client"].running
        begun = sum(1 if entry.phase == "started" else -1 for entry in entries) if alive else 0
        requests = _requests(self._place, name) if name in SIDECARS else 0
        live = self._watch.last
        return InFlight(name, begun, live.total if live else 0, requests or 0)

    def _quiet(self) -> bool:
        """Whether neither service is at any request: no zombie is left that could still write."""
        return all(_requests(self._place, name) == 0 for name in SIDECARS)

    def _show(self, now_s: float) -> None:
        self._watch.poll()
        states = self._watch.last.states if self._watch.last else {}
        self._counts |= audit.counts(self._place.database("users"), self._place.database("search"))
        self._counts |= {
            "unfinished": states.get("stored", 0) + states.get("repeating", 0),
            "repeating": states.get("repeating", 0),
            "parked": states.get("parked", 0),
            "kills": len(self._hits),
        }
        self._progress.show(now_s - self._began_s, self._counts)

    def _tails(self, names: list[str]) -> str:
        return "\n".join(self._children[name].tail for name in names)


def plan(wanted: Wanted) -> list[Kill]:
    """The kills of a run, spread over the time that the client needs."""
    return schedule(wanted.seed, round(wanted.users / wanted.rate * UNDISTURBED * 1000)) if wanted.kill else []


def make_children(wanted: Wanted, place: Place) -> dict[str, Child]:
    """Every process of a run, in the order in which they are started."""

    def child(name: str, at: str, is_up: Callable[[], bool], *command: str) -> Child:
        return Child(name, place.command(*command), place.environment(at), place.log(name), is_up)

    made = [child("pipe", "", lambda: processes.answers_tcp(place.pipe_port), "mpy6a", "serve", "pipe.yaml")]
    for name in SIDECARS:
        path, port = place.sidecar_socket(name), place.service_ports[name]
        made.append(child(f"sidecar-{name}", name, _unix(path), "sidecar", str(place.sidecar_config(name))))
        service = [f"mpy6a.demo.{name}", "--port", str(port), "--db", str(place.database(name))]
        service += ["--seed", str(wanted.seed), "--fail", str(wanted.fail)]
        service += [] if wanted.guard else ["--no-guard"]
        made.append(child(name, name, _tcp(port), *service))
    client = ["mpy6a.demo.client", "--input", str(wanted.input), "--users", str(wanted.users)]
    client += ["--journal", str(place.journal), "--rate", str(wanted.rate)]
    made.append(child("client", "", lambda: True, *client))
    return {one.name: one for one in made}


def _unix(path: Path) -> Callable[[], bool]:
    return lambda: processes.answers_unix(path)


def _tcp(port: int) -> Callable[[], bool]:
    return lambda: processes.answers_tcp(port)


def _requests(place: Place, name: str) -> int | None:
    """Requests a service is at; None when it does not answer."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            place.service_url(name) + STATS_PATH, timeout=0.5
        ) as answer:
            return int(json.load(answer)["in_flight"])
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError):
        return None


def missing(wanted: Wanted, facts: audit.Facts, hits: list[InFlight]) -> list[str]:
    """A run that was put through nothing shows nothing."""
    lacking: list[str] = []
    if not facts.recoveries:
        lacking.append("no session was recovered: nothing was shown (more users, or a higher --fail)")
    if wanted.kill and not hits:
        lacking.append("no process was killed: nothing was shown (more users)")
    return lacking
