"""One pipe, two sidecars, their clients and handlers, on a machine and a network that lie, in one thread.

A run is a list of steps, each with a seed of its own, so that dropping some leaves the others what they were. After the
last step the faults end, time goes by, and everybody has to come to an end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from random import Random
from typing import Final

from mpy6a.pipe import Pipe
from mpy6a.policy import IDLE_MS, KindPolicy, Orphans, Policy
from mpy6a.session import PARKED, STORED
from sidecar.values import KindSetup

from .agenda import Agenda
from .bounds import keep_bytes
from .clients import ClientProcess
from .machine import Machine
from .network import Line, Network
from .oracle import Oracle, Violation
from .pipes import SEGMENT_BYTES, PipeProcess
from .process import Process
from .sidecars import SETTLE_MS, SidecarProcess

ALPHA: Final = (KindSetup(1, "one", "attached", 8, 5_000), KindSetup(2, "two", "attached", 6, 5_000),
                KindSetup(4, "four", "attached", 4, 5_000))  # fmt: skip
BETA: Final = (KindSetup(2, "two", "attached", 6, 5_000), KindSetup(3, "three", "http", 5, 5_000))
LEASE_MS: Final = 6_000
COPIES: Final = 64  # messages kept, to come a second time
COMPARED: Final = 16  # steps between two looks at all that the pipe keeps


class World:
    """Everything there is. `chance` is for what happens by itself; steps bring their own."""

    def __init__(self, seed: int, *, interval: bool = False, marks: Counter[str] | None = None) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.agenda = Agenda()
        self.network = Network(self.agenda, self.chance)
        self.oracle = Oracle(self.steady, self.lives, LEASE_MS)
        self.files = Machine(self.chance, self.agenda, self._power_lost)
        self.marks: Counter[str] = Counter() if marks is None else marks
        self.calm = False
        self.at_push = ""  # what happens to the connection, or the process, that the next push goes to
        self.disk_level = 0
        self.lease_ms = LEASE_MS
        self.kinds_to_open: tuple[int, ...] = (1, 1, 2, 3, 4)
        self.sidecars: dict[str, SidecarProcess] = {}
        self.clients: list[ClientProcess] = []
        self.copies: deque[bytes] = deque(maxlen=COPIES)
        self.interval = interval
        self.lost_power = 0
        self._records = 0
        self._clients_made = 0
        self.stranger_batches = 0
        self.stranger_requests = 0
        self.opened = 0  # sessions that clients began
        self.pipe = PipeProcess(self, policy_for(Random(seed), self.lease_ms), interval=interval)
        for name, kinds, skew_ms in (("alpha", ALPHA, 31_000_000), ("beta", BETA, 47_000_000)):
            self.sidecars[name] = SidecarProcess(self, name, kinds, skew_ms)
        self.pipe.start()
        for sidecar in self.sidecars.values():
            sidecar.start()
        self._service("alpha", (1, 2))
        self._service("beta", (2,))
        self._service("alpha", (4, 1))
        self.client("alpha")
        self.client("alpha")
        self.client("beta")
        self.client("pipe")
        self.run_for(200)

    # ------------------------------------------------------------------ who there is

    def client(self, door: str, serves: tuple[int, ...] = (), principal: int = 1_001) -> ClientProcess:
        """One more client process."""
        self._clients_made += 1
        at: Process = self.pipe if door == "pipe" else self.sidecars[door]
        client = ClientProcess(
            self, f"client {self._clients_made}", at, 100_000_000 + 3_000_017 * self._clients_made, serves, principal
        )
        self.clients.append(client)
        return client

    def _service(self, door: str, serves: tuple[int, ...]) -> ClientProcess:
        return self.client(door, serves)

    def sidecar_of(self, line: Line) -> SidecarProcess | None:
        """The sidecar that the pipe dialed by that line."""
        return next((sidecar for sidecar in self.sidecars.values() if sidecar.dialed is line), None)

    def client_of(self, line: Line) -> ClientProcess | None:
        """Whose line that is."""
        return next((client for client in self.clients if line is client.line or line is client.beats), None)

    def client_died(self, client: ClientProcess) -> None:
        """A client is gone; where its sidecar has a pidfd, that one is told soon."""
        if client in self.clients:
            self.clients.remove(client)
        if isinstance(client.door, SidecarProcess) and self.chance.random() < 0.6:
            for identity in client.identities[-4:]:
                self.agenda.at(self.agenda.now_ms + SETTLE_MS, client.door.client_died, identity)

    def replace(self, client: ClientProcess) -> ClientProcess:
        """Another process in the place of one that is gone."""
        if client in self.clients:
            self.clients.remove(client)
        return self.client(client.door.name, client.serves)

    def lives(self, incarnation: bytes) -> bool:
        """Whether that process lives, and nobody has told the pipe otherwise."""
        here = {client.incarnation for client in self.clients if client.alive}
        here.update(sidecar.incarnation for sidecar in self.sidecars.values() if sidecar.alive)
        return incarnation in here and incarnation not in self.pipe.pipe._dead

    def steady(self, incarnation: bytes) -> bool:
        """Whether that client or sidecar lives, and has been heard without a break for two leases."""
        if not self.pipe.alive or self.pipe.paused:
            return False
        if incarnation in self.pipe.pipe._dead:  # told gone, and its word that it lives is still on its way
            self.note("known", "who came back is dead to the pipe")
            return False
        for client in self.clients:
            if client.incarnation == incarnation:
                return client.steady and client.line.up and client.beats.up and client.door.alive and (
                    client.door is self.pipe or client.door.steady
                )  # fmt: skip
        return any(
            sidecar.incarnation == incarnation and sidecar.steady and sidecar.link.up and sidecar.dialed.up
            for sidecar in self.sidecars.values()
        )

    def pushed(self, incarnation: bytes, line: Line) -> None:
        """A push is under way; what a step has in store for it happens."""
        trouble, self.at_push = self.at_push, ""
        sidecar = next((one for one in self.sidecars.values() if one.incarnation == incarnation), None)
        if not trouble or sidecar is None or not sidecar.alive:
            self.at_push = trouble
            return
        self.note("fault", f"{trouble} at a push")
        if trouble == "cut":
            self.agenda.at(self.agenda.now_ms, line.cut)
        else:
            self.agenda.at(self.agenda.now_ms, self._die_and_start, sidecar, sidecar.lives)

    def _power_lost(self) -> None:
        """In work beside the pipe's loop."""
        self.note("pipe", "lost its power beside its loop")
        self.pipe.die()
        self.files.crash(self.chance)

    def _die_and_start(self, sidecar: SidecarProcess, life: int) -> None:
        if sidecar.alive and sidecar.lives == life:
            sidecar.die()
            sidecar.start()

    def hang_up(self, process: Process) -> None:
        """Every connection to a dead process breaks."""
        for line in list(self.network.lines):
            if line.far is process or line.near is process:
                line.cut(wait_ms=30)

    def redial(self) -> None:
        """Whoever lost a connection tries again: somebody was started."""
        for line in self.network.lines:
            if not line.up:
                line.dial(self.chance.randrange(40))

    # ------------------------------------------------------------------ notes

    def note(self, where: str, what: str) -> None:
        """A branch was taken."""
        self.marks[f"{where}: {what}"] += 1

    def count_lives(self) -> None:
        """Take in what the processes that live have counted themselves."""
        for sidecar in self.sidecars.values():
            sidecar.tell_counts()
        self.pipe.tell_counts()

    def record(self, chance: Random | None = None) -> bytes:
        """Bytes for a record that nobody else writes."""
        self._records += 1
        tag = b"%012d" % self._records
        r = (chance or self.chance).random()
        if r < 0.75:
            return tag + b"." * int(40 * r)
        if r < 0.97:
            return tag + b"-" * int(300 * (r - 0.7))
        return tag + b"#" * (900 if r < 0.99 else 1_500)

    def copy(self, payload: bytes) -> None:
        """Remember a message that went out."""
        if payload[35] == 3:
            self.copies.append(payload)

    def answered(
        self, caller: bytes, tag: bytes, key: tuple[int, int], epoch: int, verb: str, code: int
    ) -> None:
        """A caller was told what became of its operation."""
        if not self.interval and code >= 0:
            self.oracle.answered(caller, tag, key, epoch, verb, code)

    def oracle_of_life(self, sidecar: SidecarProcess) -> None:
        """A sidecar process began."""
        self.note("sidecar", "started" if sidecar.lives == 1 else "started again")

    def disk_level_asked(self, pipe: Pipe) -> None:
        """What the disk's levels will be once the checkpoint watches it; until then a step says so."""
        pipe.disk_level = max(pipe.disk_level, self.disk_level)

    # ------------------------------------------------------------------ time

    def run_for(self, ms: int) -> None:
        """Let time go by."""
        self.agenda.run_until(self.agenda.now_ms + ms)

    def ensure_pipe(self) -> None:
        """The pipe runs."""
        for times in range(20):
            if self.pipe.alive:
                return
            if times == 3:
                self.files.room = None  # an operator makes some
            self.pipe.start()
        raise Violation("opening", "the pipe does not start any more")

    def look(self) -> None:
        """Hold all that the pipe keeps against the oracle."""
        if self.pipe.alive and not self.pipe.paused:
            pipe = self.pipe
            self.oracle.compare(pipe.kept(records=not self.agenda.calls % 4))
            pipe.shadow.compare(pipe.pipe.state)
            self.oracle.reasons(pipe.reasons(), pipe.pipe.log_ms(pipe.clock()), pipe.pipe.due.clock_held)

    # ------------------------------------------------------------------ the checkpoint's place

    def checkpoint(self) -> None:
        """The next one is due now, if there is anything to write."""
        if self.pipe.alive:
            self.pipe.keeper.kept.done_ms = 1
            self.pipe.wake()

    # ------------------------------------------------------------------ the end

    def settle(self, most_ms: int = IDLE_MS + 30_000) -> None:
        """Faults are over: everybody starts, works, and comes to an end, or waits for a reason that has a name.

        A session that its client has finished is OPEN again where the log lost that (fsync: interval): its idle limit
        ends it, and that is the longest where the routes did not name its kind when it was last written.
        """
        self.calm = True
        self.at_push = ""
        network = self.network
        network.harsh, network.latency_ms, network.fair = 0.0, 1, True
        self.files.faults.clear()
        self.files.room = None
        self.files.calm = True
        self.disk_level = 0
        self.pipe.writer.pages = None
        for process in (self.pipe, *self.sidecars.values(), *self.clients):
            process._paused_until_ms = 0
        policy = policy_for(Random(self.seed), self.lease_ms)
        if self.pipe.alive and (self.seed % 2 or self.pipe.policy != policy):
            self.pipe.die()
        self.pipe.policy = policy
        self.ensure_pipe()
        for sidecar in self.sidecars.values():
            if sidecar.alive and sidecar.agent.handing.draining:
                sidecar.die()
            if not sidecar.alive:
                sidecar.start()
        for door, serves in (("alpha", (1, 2)), ("beta", (2,)), ("alpha", (4, 1))):
            if not any(client.serves == serves and client.door.name == door for client in self.clients):
                self.client(door, serves)
        self.redial()
        self.run_for(1_500)
        if self.pipe.pipe.due.clock_held:
            self.pipe.accept_clock()
        for client in list(self.clients):
            client.finish_all()
        end_ms = self.agenda.now_ms + most_ms
        while self.agenda.now_ms < end_ms:
            self.run_for(2_000)
            for client in list(self.clients):
                client.finish_all()
            if not any(reason not in _NAMED for reason in self._left().values()):
                break
        self.look()
        self.oracle.finished(self._left())
        self._nobody_waits()
        self._is_bounded()

    def _left(self) -> dict[tuple[int, int], str]:
        pipe = self.pipe
        log_ms = pipe.pipe.log_ms(pipe.clock())
        left = pipe.reasons()
        for session in pipe.pipe.state.sessions.all():
            if left[session.term, session.index] == "TIMER" and session.due_ms > log_ms + 240_000:
                left[session.term, session.index] = "FAR_TIMER"
        return left

    def _nobody_waits(self) -> None:
        """Every operation that was called is answered, and no sidecar holds a run: a handler that hangs, at a session
        that somebody else has finished, is given its time."""
        for _ in range(60):
            waiting = any(client.connection.unanswered for client in self.clients)
            if not waiting and not any(sidecar.agent.handing.held for sidecar in self.sidecars.values()):
                break
            self.run_for(1_000)
        for client in self.clients:
            if client.connection.unanswered:
                raise Violation("liveness", f"{client.connection.unanswered} operations of {client.name} wait for ever")
        for sidecar in self.sidecars.values():
            if sidecar.agent.handing.held:
                runs = [run.key for run in sidecar.agent.handing.runs.all()][:3]
                raise Violation("liveness", f"{sidecar.name} holds {runs} for ever")


    def _is_bounded(self) -> None:
        """What a checkpoint holds leaves memory, and the log below it goes."""
        pipe = self.pipe
        wanted = pipe.pipe.state.next_index if pipe.keeper.backlog_bytes else 0
        for _ in range(6):
            self.checkpoint()
            self.run_for(500)
        filed = pipe.keeper.kept.index
        if filed < wanted:
            raise Violation("checkpoint", f"it holds what is below {filed}, {wanted} is wanted")
        for session in pipe.pipe.state.sessions.in_memory():
            if session.state in (STORED, PARKED) and session.change < filed:
                raise Violation("checkpoint", f"session {(session.term, session.index)} stays in memory")
        segments = pipe.log.stats.segments
        if segments > 3 + keep_bytes(self.seed) // SEGMENT_BYTES:
            raise Violation("checkpoint", f"{segments} segments of log are kept")
        self.look()


_NAMED: Final = frozenset({"BEHIND", "PARKED", "SESSION_PAUSED", "KIND_PAUSED", "ORPHAN_KIND", "FAR_TIMER"})


def policy_for(
    chance: Random, lease_ms: int, *, without: Iterable[int] = (), orphans: Orphans = "hold"
) -> Policy:
    """Routes of the world; times are short, so that much happens."""
    kinds = [
        KindPolicy(
            1, "one", ("alpha",), delay_ms=chance.choice((0, 300, 1_500)), jitter_ms=chance.choice((0, 200)),
            backoff_base_ms=100, backoff_cap_ms=2_000, idle_ms=chance.choice((12_000, 25_000)), silence_ms=9_000,
            timeout_ms=5_000, breaker=chance.choice((0, 4, 10)), concurrency_total=chance.choice((0, 0, 5)),
        ),
        KindPolicy(
            2, "two", ("alpha", "beta"), delay_ms=200, backoff_base_ms=chance.choice((50, 800)), backoff_cap_ms=3_000,
            idle_ms=20_000, silence_ms=chance.choice((4_000, 9_000)), timeout_ms=5_000, breaker=3,
            rate=chance.choice((0, 0, 40)), burst=20, order_skips_parked=True,
        ),
        KindPolicy(
            3, "three", ("beta",), handler="http", delay_ms=100, jitter_ms=50, backoff_base_ms=100,
            backoff_cap_ms=1_000, idle_ms=15_000, silence_ms=7_000, timeout_ms=5_000,
        ),
        KindPolicy(
            4, "four", ("alpha",), delay_ms=50, backoff_base_ms=20, backoff_cap_ms=500, idle_ms=9_000,
            silence_ms=3_000, timeout_ms=5_000, barren_limit=chance.choice((2, 5)), charge_limit=chance.choice((3, 9)),
            breaker=chance.choice((0, 2)),
        ),
    ]  # fmt: skip
    left = set(without)
    return Policy(
        {kind.id: kind for kind in kinds if kind.id not in left}, lease_ms=lease_ms, record_bytes_max=1_200,
        session_bytes_max=4_000, session_records_max=20, orphans=orphans,
    )  # fmt: skip
