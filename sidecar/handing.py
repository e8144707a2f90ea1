"""Hands pushed sessions to handlers, ends their runs, and says how much room there is.

Pure. Which handler gets a run, what the end of a service's process means for what it ran, and the credit that
follows from both. Endings go through the `Endings` port, which sends them to the pipe until they are
answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from mpy6a import limits
from mpy6a.client.writer import NEVER
from mpy6a.errors import Code
from mpy6a.messages import Ending, KindCredit, RepeatPart, SessionEpoch
from mpy6a.model import BY_POLICY, AttemptOutcome, Verb
from sidecar.clients import Client, Clients
from sidecar.dials import Dial, whole
from sidecar.runs import Run, Runs, Stage
from sidecar.values import CALLED, Effect, KindSetup, RunKey, StartRun, StopRun

ENDS: dict[int, Verb] = {
    AttemptOutcome.FAIL: Verb.FAIL,
    AttemptOutcome.RELEASE: Verb.RELEASE,
    AttemptOutcome.PARK: Verb.PARK,
}


class Endings(Protocol):
    """Ends an epoch by its target; resent until answered, then the run is told to `Handing.answered`."""

    def end(self, key: RunKey, verb: Verb, retry_after_ms: int, message: str, now_ms: int) -> None: ...
    def forget(self, key: RunKey) -> None: ...


class ToClients(Protocol):
    """Queues what an attached service is told."""

    def push(self, client: Client, key: RunKey, parts: tuple[RepeatPart, ...]) -> None: ...
    def stop(self, client: Client, pipe: int, code: int, sessions: Iterable[SessionEpoch]) -> None: ...


class Handing:
    """The runs of one sidecar and who runs them. `told` collects what its driver has to do for http
    and exec handlers."""

    def __init__(
        self,
        kinds: Iterable[KindSetup],
        clients: Clients,
        endings: Endings,
        tell: ToClients,
        credit_bytes: int,
        counts: Counter[str],
    ) -> None:
        self.kinds = {kind.id: kind for kind in kinds}
        self.coming: dict[int, KindSetup] = {}  # of a reload that is not taken yet: services may serve them
        self._gone: dict[int, KindSetup] = {}  # kinds that a reload took away: what runs of them goes on
        self.runs = Runs()
        self.told: list[Effect] = []
        self.draining = False
        self.changes = 0  # rises with everything that may change credit or what was taken
        self._clients = clients
        self._counts = counts
        self._endings = endings
        self._tell = tell
        self._credit_bytes = credit_bytes
        self._unhealthy: set[int] = set()
        self._fresh: set[int] = set()  # kinds with runs that wait, or with room that came free
        self._unserved: dict[int, int] = {}  # kinds whose runs wait for a service, and until when
        self._expire_ms = 0  # when runs are next compared with their timeout

    @property
    def held(self) -> int:
        """Runs that are not over: waiting, running, or with an ending that is not answered."""
        return len(self.runs)

    @property
    def running(self) -> int:
        """Runs at handlers now."""
        return sum(run.stage is Stage.RUNNING for run in self.runs.all())

    # ---- what the pipe says

    def take(self, pipe: int, parts: tuple[RepeatPart, ...], now_ms: int) -> None:
        """Holds a session that was pushed; one that nobody here runs is released at once."""
        self.changes += 1
        run = self.runs.take(pipe, parts, now_ms)
        if run is None:
            self._counts["run_again"] += 1
            return
        setup = self.kinds.get(run.kind)
        if run.again:
            # The run is over here, and the pipe has lost that: it was restored or repaired, or lost its power under
            # `fsync: interval`. Dropped, the session would wait for its silence limit, and be charged.
            self._counts["run_again"] += 1
            self.end(run, Verb.RELEASE, BY_POLICY, "this epoch was run before", now_ms)
        elif self.draining:
            # Not at once: it would be pushed here again, as long as credit given before is left.
            self.end(run, Verb.RELEASE, BY_POLICY, "the sidecar is stopping", now_ms)
        elif setup is None:
            self.end(run, Verb.RELEASE, BY_POLICY, "this sidecar does not run the kind", now_ms)
        else:
            self._fresh.add(run.kind)

    def stop(self, pipe: int, code: int, sessions: Iterable[SessionEpoch]) -> None:
        """These epochs are not this sidecar's any more: their handlers stop. An outcome on its way stays
        so."""
        by_holder: dict[bytes, list[SessionEpoch]] = {}
        for one in sessions:
            run = self.runs.get(RunKey.of(pipe, one))
            if run is None or run.stage is Stage.ENDING:
                continue
            if run.stage is Stage.RUNNING:
                if run.holder:
                    by_holder.setdefault(run.holder, []).append(one)
                else:
                    self.told.append(StopRun(run.key, code))
            self._over(run)
        for holder, ended in by_holder.items():
            client = self._clients.get(holder)
            if client is not None:
                self._tell.stop(client, pipe, code, ended)

    def answered(self, key: RunKey) -> None:
        """The pipe has given its verdict on the run's ending, whatever it is."""
        run = self.runs.get(key)
        if run is not None:
            self._over(run)

    # ---- what services say

    def serve(self, client: Client, kinds: frozenset[int], concurrency: int) -> None:
        """A service takes (concurrency 0: no longer takes) runs of these kinds."""
        self.changes += 1
        self._clients.serve(client, kinds, 0 if self.draining else concurrency)
        self._fresh.update(kinds)

    def serves(self, kind: int) -> bool:
        """May services attach for this kind?"""
        setup = self.coming.get(kind) or self.kinds.get(kind)
        return setup is not None and setup.handler not in CALLED

    def outcome(self, client: Client, pipe: int, ending: Ending, now_ms: int) -> None:
        """How a run at an attached service ended; only of what it was handed."""
        key = RunKey.of(pipe, ending)
        run = self.runs.get(key)
        if run is None or run.stage is not Stage.RUNNING or run.holder != client.incarnation:
            self._counts["outcome_unknown_run"] += 1
            return
        verb = ENDS.get(ending.outcome)
        if verb is None:  # decided by its own operation, or cancelled by an operator
            self._over(run)
        else:
            self.end(run, verb, ending.retry_after_ms, ending.message, now_ms)

    def left(self, client: Client, *, died: bool, now_ms: int) -> None:
        """A service is gone: what a dead one ran failed, what one that said goodbye ran is free for
        others."""
        self.changes += 1
        for key in sorted(client.running):
            run = self.runs.get(key)
            if run is None:
                continue
            if died:
                self.end(run, Verb.FAIL, 0, "the handler's process died", now_ms)
            else:
                self.end(run, Verb.RELEASE, 0, "the handler's process left", now_ms)
        self._fresh.update(client.serves)

    # ---- what the driver says

    def reload(self, kinds: Iterable[KindSetup], now_ms: int) -> None:
        """These kinds from now on. Of others credit is taken back, what waits is released, what runs goes on."""
        self.changes += 1
        before, self.kinds, self.coming = self.kinds, {kind.id: kind for kind in kinds}, {}
        self._gone = {number: kind for number, kind in (self._gone | before).items() if number not in self.kinds}
        while len(self._gone) > limits.KINDS_MAX - len(self.kinds):
            del self._gone[next(iter(self._gone))]
        self._unhealthy &= self.kinds.keys()
        self._fresh.update(self.kinds)
        for run in self.runs.all():
            if run.stage is Stage.WAITING and run.kind not in self.kinds:
                self.end(run, Verb.RELEASE, 0, "this sidecar does not run the kind any more", now_ms)

    def finished(self, key: RunKey, now_ms: int, verb: Verb | None, retry_after_ms: int = 0, message: str = "") -> None:
        """The http or exec handler of the run ended; verb None: its writer decided the session."""
        run = self.runs.get(key)
        if run is None or run.stage is not Stage.RUNNING:
            return
        if verb is None:
            self._over(run)
        else:
            self.end(run, verb, retry_after_ms, message, now_ms)

    def undelivered(self, keys: Iterable[RunKey], now_ms: int) -> None:
        """These runs could not be sent to their service."""
        for key in keys:
            run = self.runs.get(key)
            if run is not None and run.stage is Stage.RUNNING:
                self.end(run, Verb.RELEASE, 0, "the service could not be reached", now_ms)

    def healthy(self, kind: int, is_healthy: bool) -> None:
        """Whether the http handler of the kind is there; without it there is no credit."""
        self.changes += 1
        if is_healthy:
            self._unhealthy.discard(kind)
        else:
            self._unhealthy.add(kind)

    def drain(self, now_ms: int) -> None:
        """No more runs: what waits is released, what runs may finish."""
        self.changes += 1
        self.draining = True
        for run in self.runs.all():
            if run.stage is Stage.WAITING:
                self.end(run, Verb.RELEASE, 0, "the sidecar is stopping", now_ms)

    def release_rest(self, now_ms: int, code: int) -> None:
        """The grace is over: what still runs is stopped and released."""
        for run in self.runs.all():
            if run.stage is not Stage.RUNNING:
                continue
            client = self._clients.get(run.holder)
            if not run.holder:
                self.told.append(StopRun(run.key, code))
            elif client is not None:
                self._tell.stop(client, run.key.pipe, code, [run.key.session_epoch])
            self.end(run, Verb.RELEASE, 0, "the sidecar is stopping", now_ms)

    def deadline(self) -> int:
        """When a run has waited long enough for a service that is not there, or has run out of its kind's timeout."""
        return min(min(self._unserved.values(), default=NEVER), self._expire_ms if len(self.runs) else NEVER)

    def expire(self, now_ms: int) -> None:
        """Stops and fails what runs at a service for longer than its kind's `timeout` (others have their own)."""
        if now_ms < self._expire_ms:
            return
        self._expire_ms = now_ms + limits.RUN_CHECK_MS
        for run in self.runs.all():
            if run.stage is not Stage.RUNNING or not run.holder or now_ms < run.until_ms:
                continue
            client = self._clients.get(run.holder)
            if client is not None:
                self._tell.stop(client, run.key.pipe, Code.FENCED, [run.key.session_epoch])
            self.end(run, Verb.FAIL, 0, f"no outcome within {run.timeout_ms} ms", now_ms)

    def hand_out(self, now_ms: int) -> None:
        """Gives waiting runs to whoever has room; releases those that nobody is there for."""
        self.expire(now_ms)
        if now_ms >= self.deadline():
            self._fresh.update(self._unserved)
        for kind in list(self._fresh):
            self._unserved.pop(kind, None)
            setup = self.kinds.get(kind)
            while setup is not None and (run := self.runs.waiting(kind)) is not None:
                if setup.handler in CALLED:
                    self.told.append(StartRun(run.key, setup, whole(self.runs.handed(run, b""))))
                elif (client := self._clients.least_busy(kind)) is not None:
                    client.running.add(run.key)
                    run.timeout_ms, run.until_ms = setup.timeout_ms, now_ms + setup.timeout_ms
                    self._tell.push(client, run.key, self.runs.handed(run, client.incarnation))
                elif self._clients.served(kind):
                    break
                elif now_ms < run.taken_ms + limits.SERVICE_GRACE_MS:
                    self._unserved[kind] = run.taken_ms + limits.SERVICE_GRACE_MS
                    break
                else:
                    self.end(run, Verb.RELEASE, BY_POLICY, "no service is there for the kind", now_ms)
        self._fresh.clear()

    def credit(self, dial: Dial, share: int) -> tuple[KindCredit, ...]:
        """Totals of every kind in this dial; a kind whose handler is not there gets no more than it has
        used."""
        return tuple(self._credit(dial, setup, share) for kinds in (self.kinds, self._gone) for setup in kinds.values())

    def end(self, run: Run, verb: Verb, retry_after_ms: int, message: str, now_ms: int) -> None:
        """Ends a run by its target; it is held until the pipe has answered."""
        self.changes += 1
        self._released(run)
        self.runs.ending(run)
        self._endings.end(run.key, verb, retry_after_ms, message[: limits.TEXT_BYTES_MAX], now_ms)

    def _credit(self, dial: Dial, setup: KindSetup, share: int) -> KindCredit:
        free: int | None = None
        closed = self.draining or setup.id in self._unhealthy or setup.id in self._gone
        if closed or len(self.runs) >= limits.HELD_SESSIONS_MAX:
            free = 0
        elif setup.handler not in CALLED:
            free = self._clients.free(setup.id)
        return self.runs.credit(dial, setup, free, share, self._credit_bytes)

    def _over(self, run: Run) -> None:
        self.changes += 1
        self._released(run)
        self.runs.forget(run.key)
        self._endings.forget(run.key)

    def _released(self, run: Run) -> None:
        """Frees the place that the run had at a service."""
        client = self._clients.get(run.holder) if run.holder else None
        if client is not None and run.key in client.running:
            client.running.discard(run.key)
            self._fresh.update(client.serves)
