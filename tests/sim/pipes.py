"""The pipe's process: the real core over the real segment store, and the loop of `mpy6a.server` without its sockets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from mpy6a import limits
from mpy6a.checkpoint.loading import load_state
from mpy6a.entries import Admin, SessionKey, encode_policy
from mpy6a.errors import CannotStart, Code, DamagedLog, DiskFailed, Malformed, VersionMismatch
from mpy6a.framing import Frame, FrameType
from mpy6a.keeping import Keeper
from mpy6a.log.segments import SegmentLog
from mpy6a.messages import Ack, AnyMessage, Error, MessageType, Push, Stop
from mpy6a.model import AdminVerb
from mpy6a.orphans import Orphans
from mpy6a.pipe import Pipe
from mpy6a.policy import Policy
from mpy6a.push import Pusher
from mpy6a.sessions import Applied
from mpy6a.state import State
from mpy6a.why import why
from mpy6a.wire import decode, unpack
from tests.fakes.files import PowerCut

from .bounds import checkpoint_bytes, keep_bytes
from .network import Line
from .oracle import FrameSeen, Kept, Told, Violation
from .process import Process
from .shadow import Shadow
from .sight import kept, seen
from .writer import Child

if TYPE_CHECKING:
    from .sidecars import SidecarProcess
    from .world import World

DIRECTORY: Final = "/data"
NUMBER: Final = 1
SEGMENT_BYTES: Final = 192 * 1024
FRAME_BYTES_MAX: Final = SEGMENT_BYTES - 8 * 1024
IDLE_MARK_MS: Final = 50
SYNC_INTERVALS_MS: Final = (20, 500)
_OF_SIDECARS: Final = frozenset({int(MessageType.SIDECAR_HELLO), int(MessageType.ACCEPTED)})

Sender = tuple[Line, bytes]  # a connection, and which one of its lives


class PipeProcess(Process):
    """The pipe. What leaves it, and what its log returns, goes past the oracle."""

    def __init__(self, world: World, policy: Policy, *, interval: bool) -> None:
        super().__init__(world, "pipe", 7_000_000)
        self.policy = policy
        self.interval = interval
        self.dials: dict[bytes, Line] = {}  # sidecar incarnation -> the connection dialed to it
        self.die_before_answers = False
        self.writer = Child(world, DIRECTORY)
        self.shadow = Shadow(NUMBER)
        self._unmarked_ms: int | None = None
        self._pushed: set[tuple[int, int, int]] = set()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Open the log, take the checkpoint, replay what is above it, open a new term."""
        world, oracle = self.world, self.world.oracle
        super().start()
        self.die_before_answers = False
        self.dials.clear()
        header = self.writer.disk.header()
        begins_at = 1 if header is None else header.next_index
        try:
            self.log = SegmentLog.open(
                world.files, DIRECTORY, NUMBER, segment_bytes=SEGMENT_BYTES, frame_bytes_max=FRAME_BYTES_MAX,
                durable_below=begins_at, sync_interval_ms=self.sync_interval_ms, clock=self,
                draw=world.chance.randbytes,
            )  # fmt: skip
            state = State(NUMBER) if header is None else load_state(self.writer.disk.open(), NUMBER, self.log.uuid)
            found = self._replay(state)
        except (DiskFailed, CannotStart):
            world.note("open", "disk failed")
            self.die()
            return
        except PowerCut:
            world.note("open", "power cut")
            self.die()
            world.files.crash(world.chance)
            return
        except DamagedLog as problem:
            raise Violation("opening", f"an honest crash left a log that is refused: {problem}") from problem
        self._note_opening(begins_at)
        oracle.opened([seen(frame) for frame in found], begins_at)
        self.shadow.opened(found, begins_at)
        self.pipe = Pipe(state, world.chance.randbytes(16), durable=self.log.durable, authorise=_may)
        self.pusher = Pusher(self.pipe, self.log.read, dict.fromkeys(world.sidecars, "sim"))
        self.orphans = Orphans(self.pipe)
        self.keeper = Keeper(
            self.pipe, self.log, self.writer, self.writer.disk.open, self.log.replayed_bytes,
            checkpoint_bytes(world.seed), keep_bytes(world.seed),
        )  # fmt: skip
        oracle.compare(self.kept(records=True))
        self.shadow.compare(state)
        self._unmarked_ms = None
        self._pushed.clear()
        self.pipe.open(self.policy, self.clock(), world.agenda.wall_ms, "sim", "sim")
        if self.pipe.due.clock_held:
            world.note("open", "clock held")
        self._work(self.clock())
        if self.alive:
            for sidecar in world.sidecars.values():
                sidecar.dialed.dial(world.chance.randrange(60))
            world.redial()
            self.wake()

    @property
    def sync_interval_ms(self) -> int | None:
        """None for `fsync: always`; else the seed's."""
        return SYNC_INTERVALS_MS[self.world.seed & 1] if self.interval else None

    def _replay(self, state: State) -> list[Frame]:
        """As `mpy6a.server` does: the log has to join the checkpoint."""
        if not self.log.first_index <= state.next_index <= self.log.next_index:
            ends = f"the log holds {self.log.first_index} to {self.log.next_index}, the checkpoint {state.next_index}"
            raise Violation("opening", f"{ends}: they do not join")
        found: list[Frame] = []
        for frame in self.log.replay(state.next_index):
            if frame.first_index >= state.next_index:
                state.apply(frame)
                frame.decoded = None
                found.append(frame)
        return found

    def monotonic_ms(self) -> int:
        """As the log's clock."""
        return self.clock()

    def wall_ms(self) -> int:
        """As the log's clock."""
        return self.world.agenda.wall_ms

    def _note_opening(self, begins_at: int) -> None:
        stats, world = self.log.stats, self.world
        if begins_at > 1:
            world.note("open", "from a checkpoint")
            world.note("open", "trimmed" if self.log.first_index > 1 else "not trimmed yet")
        if stats.cut_frames:
            world.note("open", "torn tail cut")
        if stats.rewritten_bytes:
            world.note("open", "tail written again")
        if stats.segments > 1:
            world.note("open", "several segments")
        if self.lives > 1 and self.log.tail.marked:
            world.note("open", "marked")

    def tell_counts(self) -> None:
        """What this life dropped, and why."""
        for name, times in self.pipe.dropped.items():
            self.world.marks[f"dropped: {name}"] += times
        self.pipe.dropped.clear()

    def die(self) -> None:
        """As by kill -9: the machine still has what was written."""
        if hasattr(self, "pipe"):
            self.tell_counts()
        super().die()
        self.writer.die_with_parent()
        self.world.files.kill()
        for sidecar in self.world.sidecars.values():
            sidecar.dialed.cut(wait_ms=50)
        self.world.hang_up(self)

    def stop(self) -> None:
        """As by SIGTERM: what was taken in is finished and synced."""
        self.turn()
        if self.alive:
            self.log.close()
            self.world.note("pipe", "stopped in order")
            if not self.interval or self.log.durable:
                self.world.oracle.durable()
            self.die()

    # ------------------------------------------------------------------ the loop

    def turn(self) -> None:
        now_ms = self.clock()
        taken = 0
        while self.inbox and taken < limits.DRAIN_MESSAGES_MAX and not self.pipe.full:
            line, identity, payload = self.inbox.popleft()
            self._take((line, identity), payload, now_ms)
            taken += 1
        if self.inbox:
            self.wake()
        self._work(now_ms)

    def deadline(self) -> int:
        now_ms = self.clock()
        deadline = self.pipe.deadline(now_ms)
        for other in (
            self.pusher.deadline(now_ms),
            self.orphans.deadline(now_ms),
            None if self._unmarked_ms is None else self._unmarked_ms + IDLE_MARK_MS,
            self.log.sync_due(),
            self.keeper.deadline(now_ms),
        ):
            if other is not None:
                deadline = min(deadline, other)
        return deadline

    def _take(self, sender: Sender, payload: bytes, now_ms: int) -> None:
        pipe = self.pipe
        try:
            messages = unpack(payload)
        except (Malformed, VersionMismatch) as problem:
            pipe.count_dropped("malformed")
            pipe.reply(sender, bytes(16), Error(problem.code or Code.MALFORMED, str(problem)[:500]))
            return
        for message in messages:
            if message.type in _OF_SIDECARS and not self.pusher.knows(message.incarnation):
                pipe.drop(sender, message, Code.MALFORMED, "this pipe has not dialed that incarnation")
                self.world.note("pipe", "a sidecar that was not dialed")
                continue
            value = pipe.receive(sender, message, now_ms)
            if value is not None and not self.pusher.receive(sender, message, value, now_ms):
                pipe.drop(sender, message, Code.MALFORMED, f"message type {message.type} is not for a pipe")

    def _work(self, now_ms: int) -> None:
        pipe, pusher = self.pipe, self.pusher
        lone = pipe.is_lone
        if lone and not self._logged(now_ms):
            return
        filed = pipe.state.sessions.filed
        before = filed.count
        pipe.tick(now_ms)
        pusher.turn(now_ms)
        self.orphans.turn(now_ms)
        if filed.count < before:
            self.world.note("memory", "came back for its turn")
        if self._logged(now_ms, busy=lone):
            self._survives(lambda: self._keep(now_ms))

    def _logged(self, now_ms: int, *, busy: bool = False) -> bool:
        """Log and answer what there is; whether the pipe lives."""
        frames = self.pipe.group()
        if not self._survives(lambda: self._log_group(frames, now_ms, busy)):
            return False
        if self.die_before_answers and frames:
            self.world.note("pipe", "died between log and answers")
            self.die()
            return False
        self._send()
        return True

    def _survives(self, work: Callable[[], None]) -> bool:
        """Do what the disk may not survive; whether the pipe lives."""
        world = self.world
        try:
            work()
        except DiskFailed:
            world.note("pipe", "ended by its disk")
            self.die()
        except PowerCut:
            world.note("pipe", "lost its power in a write")
            self.die()
            world.files.crash(world.chance)
        return self.alive

    def _log_group(self, frames: Sequence[Frame], now_ms: int, busy: bool) -> None:
        pipe, log, world = self.pipe, self.log, self.world
        if frames:
            self._unmarked_ms = now_ms
            issued = [seen(frame) for frame in frames]
            world.oracle.issued(issued)
            log.append(frames)
            self._committed(log.committed(), issued, now_ms)
        elif self._unmarked_ms is not None and now_ms - self._unmarked_ms >= IDLE_MARK_MS:
            self._unmarked_ms = None
            log.mark()
            world.note("log", "mark")
        due_ms = log.sync_due()
        if due_ms is not None and now_ms >= due_ms:
            log.sync()
        if not frames and not busy:
            log.prepare()
        pipe.disk_level = 1 if log.disk_full else 0
        world.disk_level_asked(pipe)
        self._note_durable()

    def _note_durable(self) -> None:
        if self.interval and self.log.sync_due() is None:
            self.world.oracle.durable()

    def _keep(self, now_ms: int) -> None:
        """One turn for the checkpoint."""
        keeper, due, filed = self.keeper, self.pipe.due, self.pipe.state.sessions.filed
        if self.writer.spoke:
            keeper.receive(now_ms)
        before = filed.count if due.is_settling else -1
        keeper.turn(now_ms)
        if 0 <= before < filed.count:
            self.world.note("memory", "let go")
        if self.pipe.behind:
            self.world.note("checkpoint", "clients wait")
        self._note_durable()  # it syncs what it has filed

    def _committed(self, frames: Sequence[Frame], issued: Sequence[FrameSeen], now_ms: int) -> None:
        pipe, pusher, oracle = self.pipe, self.pusher, self.world.oracle
        filed = pipe.state.sessions.filed
        there = filed.count
        dispatches = False
        for frame, before in zip(frames, issued, strict=True):
            oracle.committed(seen(frame, items=False)._replace(items=before.items))
            self.shadow.committed(frame)
            if not self.interval:
                oracle.durable()
            dispatches |= frame.type == FrameType.PROPOSALS
            (applied,) = pipe.committed([frame])
            if applied.dispatched or applied.ended or applied.void:
                pusher.applied(applied, now_ms)
        if filed.count < there:
            self.world.note("memory", "came back for an operation")
        if dispatches:
            if self.interval:
                oracle.durable()
            pusher.flush()

    def _send(self) -> None:
        outbox, self.pipe.outbox = self.pipe.outbox, []
        for sender, payload in outbox:
            assert isinstance(sender, tuple)
            line, identity = sender
            if payload[35] == MessageType.ACK:
                self._show_ack(payload)
            if line.identity == identity:
                line.send(self, payload)
        pushes, self.pusher.outbox = self.pusher.outbox, []
        for incarnation, payload in pushes:
            self._show_push(incarnation, payload)
            line = self.dials.get(incarnation)
            if line is None or not line.up or not line.send(self, payload):
                self.dials.pop(incarnation, None)
                self.pusher.undeliverable(incarnation)
            elif self.world.at_push and payload[35] == MessageType.PUSH:
                self.world.pushed(incarnation, line)

    def _show_ack(self, payload: bytes) -> None:
        (message,) = unpack(payload)
        ack = decode(message)
        assert isinstance(ack, Ack)
        if ack.code:
            self.world.note("ack", Code(ack.code).name)
            return
        told = [Told(r.position, r.code, r.index, r.term, r.state) for r in ack.results]
        self.world.oracle.acked(message.incarnation, ack.number, ack.first_index, ack.term, told, ack.durable)

    def _show_push(self, incarnation: bytes, payload: bytes) -> None:
        (message,) = unpack(payload)
        value: AnyMessage = decode(message)
        if isinstance(value, Stop):
            self.world.note("pipe", "stop")
        if not isinstance(value, Push):
            return
        if value.target != incarnation:
            raise Violation("push", "a push names another target than it is sent to")
        for part in value.sessions:
            assert part.parts == 1, "the world's sessions are short"
            key = (part.term, part.index, part.epoch)
            self.world.note("pipe", "pushed again" if key in self._pushed else "pushed")
            self._pushed.add(key)
            self.world.oracle.pushed(
                value.target, part.term, part.index, part.epoch, part.fence, part.records, part.cancel
            )

    # ------------------------------------------------------------------ lines

    def came_up(self, line: Line) -> None:
        sidecar = self.world.sidecar_of(line)
        if sidecar is not None:  # its probe
            self.dials[sidecar.incarnation] = line
            self.pusher.probed(sidecar.incarnation, self.clock())
            self.wake()

    # ------------------------------------------------------------------ operators

    def say(self, verb: AdminVerb, chance: Random, sessions: Iterable[tuple[int, int]] = (), kind: int = 0) -> None:
        """An operator's word; its answer is held against the oracle's."""
        keys = tuple(SessionKey(*key) for key in sessions)
        number = chance.randrange(100)
        until_ms = 0
        if verb is AdminVerb.PAUSE and keys and number % 3 == 0:
            until_ms = self.pipe.log_ms(self.clock()) + 50 * number
            self.world.note("operator", "paused until")
        word = Admin(verb, "operator", f"{verb.name.lower()} {number}", keys, kind, until_ms)
        oracle = self.world.oracle

        def done(applied: Applied) -> None:
            codes = {result.position: result.code for result in applied.results}
            found = [codes.get(position, 0) for position in range(len(keys))]
            if found != oracle.words:
                raise Violation("verdict", f"an operator's {verb.name} is told {found}, {oracle.words} is right")

        self.pipe.say(word, self.clock(), done)
        self.wake()

    def reload(self, policy: Policy) -> None:
        """Other routes while it runs."""
        self.policy = policy

        def done(applied: Applied) -> None:
            self.world.note("pipe", "reloaded")
            self.pusher.look_again()

        self.pipe.reload(policy, encode_policy(policy), self.clock(), done)
        self.wake()

    def accept_clock(self) -> None:
        """The operator says that the wall clock is right."""
        self.world.note("pipe", "clock accepted")
        self.pipe.accept_clock("operator", self.clock(), lambda applied: None)
        self.wake()

    # ------------------------------------------------------------------ sight

    def kept(self, *, records: bool = False) -> Iterable[Kept]:
        """Every live session; with its records read back, or only how long they are."""
        sessions, read = self.pipe.state.sessions, self.log.read
        for session in sessions.all():
            yield kept(session, (lambda one: sessions.records(one, read)) if records else None)

    def frames_from(self, index: int) -> list[FrameSeen]:
        """What was committed from a log index on."""
        frames = self.world.oracle.frames
        return frames[bisect_left(frames, index, key=lambda frame: frame.first_index) :]

    def reasons(self) -> dict[tuple[int, int], str]:
        """Why each session is not running."""
        log_ms = self.pipe.log_ms(self.clock())
        return {
            (session.term, session.index): why(self.pipe, self.pusher, session, log_ms)[0]
            for session in self.pipe.state.sessions.all()
        }

    def knows(self, sidecar: SidecarProcess) -> bool:
        """Whether a dial to that process stands and said hello."""
        return sidecar.name in self.pusher.connected([sidecar.name])


def _may(principal: int, kind: int) -> bool:
    """The user's own rights: uid 666 makes no sessions of kind 2."""
    return not (principal == 667 and kind == 2)
