"""The pipe's process: one poll loop between ROUTER, log, pipe and push. Short and boring; it decides nothing.

    drain the doors -> receive -> tick -> turn -> append (write, sync) -> committed -> send -> keep the store small
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket as sockets_of_os
import time
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from typing import Any, Final

import zmq

from mpy6a import limits
from mpy6a.admin import AdminDoor
from mpy6a.changes import Setup
from mpy6a.checkpoint.driver import Checkpointer
from mpy6a.clock import Clock
from mpy6a.disk import DiskSettings
from mpy6a.diskwatch import DiskWatch
from mpy6a.errors import BadRequest, CannotStart, Code, DamagedLog, Malformed, VersionMismatch
from mpy6a.filed import Filed
from mpy6a.framing import FrameType
from mpy6a.keeping import Keeper
from mpy6a.log import Log
from mpy6a.log.segments import SegmentLog
from mpy6a.messages import AdminRequest, Error, MessageType, Role
from mpy6a.orphans import Orphans
from mpy6a.pipe import Pipe
from mpy6a.policy import Policy
from mpy6a.push import Pusher
from mpy6a.reloading import Reader, Reloading
from mpy6a.sockets import Socket, bind, drain, open_socket
from mpy6a.state import State
from mpy6a.version import __version__
from mpy6a.waiter import Waiter
from mpy6a.wire import unpack

logger = logging.getLogger(__name__)

IDLE_MARK_MS: Final = 50  # so long without work, and the log gets its mark
_NOBODY: Final = bytes(16)
_OF_SIDECARS: Final = frozenset({int(MessageType.SIDECAR_HELLO), int(MessageType.ACCEPTED)})
_NOBLOCK: Final = int(zmq.NOBLOCK)  # plain ints: an enum's operators cost more than the call
_SNDMORE_NOBLOCK: Final = int(zmq.SNDMORE) | int(zmq.NOBLOCK)


class Server:
    """A pipe on real sockets over a log. `run` returns when `stop` was called or a signal came."""

    def __init__(
        self,
        log: Log,
        pipe_number: int,
        policy: Policy,
        clock: Clock,
        *,
        listen: Sequence[str],
        admin: str,
        sidecars: Mapping[str, str],
        state: State | None = None,
        checkpoints: Checkpointer | None = None,
        open_file: Callable[[], Filed] | None = None,
        disk: DiskSettings | None = None,
        checkpoint_bytes: int = limits.CHECKPOINT_BYTES,
        keep_bytes: int = 0,
        setup: Setup | None = None,
        reader: Reader | None = None,
    ) -> None:
        """`state` is that of the last checkpoint, `checkpoints` whoever writes the next ones (each after
        `checkpoint_bytes` of log, `keep_bytes` of which stay below), and `open_file` gives their reading side; without
        them the log is kept whole. `reader` reads the files at a reload, `setup` is what they said at the start."""
        self._checkpoint_bytes = checkpoint_bytes
        self._keep_bytes = keep_bytes
        self._log = log
        self._checkpoints = checkpoints
        self._open_file = open_file
        self._keeper: Keeper | None = None
        self._segments = log if isinstance(log, SegmentLog) else None
        self._clock = clock
        self._policy = policy
        self.pipe = Pipe(state or State(pipe_number), os.urandom(16), durable=log.durable)
        self._disk = None if self._segments is None else DiskWatch(self.pipe, self._segments, disk)
        self.pusher = Pusher(self.pipe, log.read, sidecars)
        self._orphans = Orphans(self.pipe)
        setup = setup or Setup(policy, dict(sidecars))
        self._reloading = Reloading(self.pipe, self.pusher, setup, reader, self)
        verbs = {"config.reload": self._asked_to_reload, "config.show": self._asked_for_config}
        self._door = AdminDoor(self.pipe, self.pusher, log.read, self._facts, verbs)
        self._stopping = False
        self._unmarked_ms: int | None = None
        self._alone = False
        self._hung_up = False  # SIGHUP came
        self._reload_ns_max = 0  # the most CPU that one turn spent for a reload, without what it logged
        self._keep_ns_max = self._keep_cpu_ns_max = 0  # the most that one turn spent for the checkpoint
        self._context: zmq.Context[Socket] = zmq.Context()
        self._locks: list[int | None] = []
        try:
            self._clients = self._bound(zmq.ROUTER, listen, 0o600)
            self._operators = self._bound(zmq.ROUTER, [admin], 0o600)
        except CannotStart:
            self._context.destroy(linger=0)
            self._unlock()
            raise
        self._dials = open_socket(self._context, zmq.ROUTER)
        self._dials.setsockopt(zmq.IMMEDIATE, 1)
        self._dials.setsockopt(zmq.RECONNECT_IVL, 50)
        self._dials.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self._dialed: set[str] = set()
        self._wake_read, self._wake_write = sockets_of_os.socketpair()
        self._wake_write.setblocking(False)
        self._wake_read.setblocking(False)

    def _bound(self, kind: int, addresses: Sequence[str], mode: int) -> Socket:
        socket = open_socket(self._context, kind)
        for address in addresses:
            self._locks.append(bind(socket, address, mode))
        return socket

    # ------------------------------------------------------------------ life

    def replay(self) -> None:
        """Bring the state to the log's end. Raises DamagedLog, also for a log that does not join its checkpoint."""
        state, first = self.pipe.state, self._log.first_index
        if first > state.next_index:
            before = "there is no checkpoint"
            if state.next_index > 1:
                before = f"the checkpoint ends at index {state.next_index}"
            raise DamagedLog(f"the log begins at index {first}, and {before}: restore a backup")
        if self._log.next_index < state.next_index:
            raise DamagedLog(
                f"the log ends at index {self._log.next_index}, its checkpoint at {state.next_index}: restore a backup"
            )
        for frame in self._log.replay(state.next_index):
            if frame.first_index >= state.next_index:
                state.apply(frame)
                frame.decoded = None
        if self._segments is not None and self._checkpoints is not None and self._open_file is not None:
            replayed = self._segments.replayed_bytes
            self._keeper = Keeper(
                self.pipe, self._segments, self._checkpoints, self._open_file, replayed, self._checkpoint_bytes,
                self._keep_bytes, stopwatch_ns=time.perf_counter_ns,
            )

    def run(self) -> None:
        """Serve until stopped: the opening is logged first, and only then is anything taken in or dialed."""
        pipe, clock = self.pipe, self._clock
        pipe.open(self._policy, clock.monotonic_ms(), clock.wall_ms(), __version__, os.uname().nodename)
        self._work(clock.monotonic_ms())
        for address in self._reloading.setup.sidecars.values():
            self.dial(address)
        logger.info("serving", extra={"facts": {"pipe": pipe.state.pipe, "term": pipe.state.term}})
        waiter = Waiter((self._clients, self._operators, self._dials), self._wake_read.fileno())
        while not self._stopping:
            ready = waiter.wait(self._wait_ms(clock.monotonic_ms()), spin=self._alone)
            now_ms = clock.monotonic_ms()
            self._receive(ready, now_ms)
            self._work(now_ms)
            self._keep(waiter, ready, now_ms)
            self._reload(now_ms)
        self._work(clock.monotonic_ms())

    def _keep(self, waiter: Waiter, ready: Container[object], now_ms: int) -> None:
        """One turn for the checkpoint: hear its writer, which comes and goes, and let go of what it holds."""
        keeper, checkpoints = self._keeper, self._checkpoints
        if keeper is None or checkpoints is None:
            return
        told = waiter.watched is not None and waiter.watched in ready
        cpu_ns = time.thread_time_ns() if told or keeper.is_busy else None
        started_ns = time.perf_counter_ns()
        if told:
            keeper.receive(now_ms)
        keeper.turn(now_ms)
        waiter.watch(checkpoints.fileno())
        self._keep_ns_max = max(self._keep_ns_max, time.perf_counter_ns() - started_ns)
        if cpu_ns is not None:
            self._keep_cpu_ns_max = max(self._keep_cpu_ns_max, time.thread_time_ns() - cpu_ns)

    def _reload(self, now_ms: int) -> None:
        """One turn for a reload. Nothing is in flight; what it logs is durable before it is carried out."""
        if self._hung_up:
            self._hung_up = False
            try:
                self._reloading.ask()
            except BadRequest:
                logger.warning("SIGHUP: this pipe was started without files, there is nothing to reload")
        if self._reloading.deadline(now_ms) is None:
            return
        started_ns = time.thread_time_ns()
        to_log = self._reloading.turn(now_ms)
        took_ns = time.thread_time_ns() - started_ns
        if to_log:
            self._log_group(now_ms)
            if self._segments is not None and self._segments.unsynced_bytes:
                self._segments.sync()
            started_ns = time.thread_time_ns()
            self._reloading.logged(now_ms)
            took_ns = max(took_ns, time.thread_time_ns() - started_ns)
        self._reload_ns_max = max(self._reload_ns_max, took_ns)

    def _asked_to_reload(self, arguments: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        self._reloading.ask(answer)

    def _asked_for_config(self, arguments: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        start = arguments.get("from", 0)
        if type(start) is not int or start < 0:
            raise BadRequest("from: allowed is a number of bytes, 0 or more")
        answer(self._reloading.show(start))

    def dial(self, address: str) -> None:
        """Connect to a sidecar, unless that connection stands."""
        if address not in self._dialed:
            self._dialed.add(address)
            self._dials.connect(address)

    def hang_up(self, address: str) -> None:
        """Let go of that connection."""
        if address in self._dialed:
            self._dialed.remove(address)
            self._dials.disconnect(address)

    def watch_disk(self, settings: DiskSettings) -> None:
        """These are the disk's thresholds from now on."""
        if self._disk is not None:
            self._disk.reload(settings)

    def reload(self, *_: object) -> None:
        """Have the files read anew. Safe in a signal handler."""
        self._hung_up = True
        self._wake()

    def stop(self, *_: object) -> None:
        """End `run` after what was taken in is finished and synced. Safe in a signal handler."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            pass  # it is awake already

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end `run`, SIGHUP has the files read anew."""
        signal.signal(signal.SIGHUP, self.reload)
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def close(self) -> None:
        """Let go of sockets and log. What was acknowledged is durable already."""
        self._context.destroy(linger=200)
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._reloading.close()
        self._wake_read.close()
        self._wake_write.close()
        self._log.close()
        self._unlock()

    def _unlock(self) -> None:
        for lock in self._locks:
            if lock is not None:
                os.close(lock)
        self._locks.clear()

    def _wait_ms(self, now_ms: int) -> int:
        deadline = self.pipe.deadline(now_ms)
        for other in (
            self.pusher.deadline(now_ms),
            None if self._unmarked_ms is None else self._unmarked_ms + IDLE_MARK_MS,
            None if self._segments is None else self._segments.sync_due(),
            None if self._keeper is None else self._keeper.deadline(now_ms),
            self._orphans.deadline(now_ms),
            self._reloading.deadline(now_ms),
        ):
            if other is not None:
                deadline = min(deadline, other)
        return max(0, deadline - now_ms)

    # ------------------------------------------------------------------ in

    def _receive(self, ready: Container[object], now_ms: int) -> None:
        """Take what waits at those sockets that poll named: asking the others costs as much as an operation."""
        for door in (self._clients, self._operators):
            if door not in ready:
                continue
            malformed: list[bytes] = []
            for identity, payload in drain(door, limits.DRAIN_MESSAGES_MAX, malformed):
                self._take((door, identity), payload, now_ms)
                if self.pipe.full or self._clock.monotonic_ms() - now_ms >= limits.TURN_MS:
                    break
            for identity in malformed:
                self._error((door, identity), Code.MALFORMED, "a message is one frame: an envelope, nothing more")
        if self._dials in ready:
            strange: list[bytes] = []
            for identity, payload in drain(self._dials, limits.DRAIN_MESSAGES_MAX, strange):
                if payload:
                    self.pipe.count_dropped("spoke_on_dial")
                else:
                    self.pusher.probed(identity, now_ms)
            for _ in strange:
                self.pipe.count_dropped("spoke_on_dial")
        if self._wake_read.fileno() in ready:
            self._wake_read.recv(64)

    def _take(self, sender: tuple[Socket, bytes], payload: bytes, now_ms: int) -> None:
        pipe = self.pipe
        try:
            messages = unpack(payload)
        except (Malformed, VersionMismatch) as problem:
            self._error(sender, problem.code or Code.MALFORMED, str(problem))
            return
        operators = sender[0] is self._operators
        for message in messages:
            if operators and message.type not in (MessageType.HELLO, MessageType.ADMIN_REQUEST):
                pipe.drop(sender, message, Code.MALFORMED, "the admin door takes hello and operators' verbs only")
                continue
            # Before the body is looked at: the longest bodies are those of sidecars, and only dialed ones may speak.
            if message.type in _OF_SIDECARS and not self.pusher.knows(message.incarnation):
                pipe.drop(sender, message, Code.MALFORMED, "this pipe has not dialed that incarnation")
                continue
            value = pipe.receive(sender, message, now_ms, role=Role.ADMIN if operators else Role.PIPE)
            if value is None or self.pusher.receive(sender, message, value, now_ms):
                continue
            if not isinstance(value, AdminRequest):
                sentence = f"message type {message.type} is not for a pipe"
                pipe.drop(sender, message, Code.MALFORMED, sentence)
            elif operators:
                self._door.receive(sender, message, value, now_ms)
            else:
                pipe.drop(sender, message, Code.NOT_ADMIN, "operators' verbs are answered on the admin door only")

    def _error(self, sender: Hashable, code: Code, sentence: str) -> None:
        self.pipe.count_dropped(code.name.lower())
        self.pipe.reply(sender, _NOBODY, Error(code, sentence[: limits.TEXT_BYTES_MAX]))

    # ------------------------------------------------------------------ log and out

    def _work(self, now_ms: int) -> None:
        """Log what came in and what time has brought, answer, hand out. Whoever works one by one has his answer before
        anything else is looked at."""
        pipe = self.pipe
        self._alone = pipe.is_lone
        logged = self._alone and self._log_group(now_ms)
        pipe.tick(now_ms)
        self.pusher.turn(now_ms)
        self._orphans.turn(now_ms)
        if self._log_group(now_ms):
            logged = True
        else:
            if self._unmarked_ms is not None and now_ms - self._unmarked_ms >= IDLE_MARK_MS:
                self._unmarked_ms = None
                self._log.mark()
            self._send()
        if self._segments is not None:
            self._keep_segments(self._segments, now_ms, logged)

    def _log_group(self, now_ms: int) -> bool:
        """Write and sync what is to be logged, apply and answer it. Whether there was anything."""
        pipe, pusher, log = self.pipe, self.pusher, self._log
        frames = pipe.group()
        if not frames:
            return False
        self._unmarked_ms = now_ms
        log.append(frames)
        for applied in pipe.committed(log.committed()):
            if applied.dispatched or applied.ended or applied.void:
                pusher.applied(applied, now_ms)
        if any(frame.type == FrameType.PROPOSALS for frame in frames):
            pusher.flush()
        self._send()
        return True

    def _keep_segments(self, log: SegmentLog, now_ms: int, busy: bool) -> None:
        """What a local log wants between groups: its late syncs, and the next segment zero-filled ahead."""
        due_ms = log.sync_due()
        if due_ms is not None and now_ms >= due_ms:
            log.sync()
        if not busy:
            log.prepare()
        if self._disk is not None:
            self._disk.turn(now_ms, starved=self._checkpoints is not None and self._checkpoints.full)

    def _send(self) -> None:
        outbox, self.pipe.outbox = self.pipe.outbox, []
        for sender, payload in outbox:
            assert isinstance(sender, tuple)
            self._send_one(sender[0], sender[1], payload)
        pushes, self.pusher.outbox = self.pusher.outbox, []
        for incarnation, payload in pushes:
            if not self._send_one(self._dials, incarnation, payload):
                self.pusher.undeliverable(incarnation)  # until libzmq's next probe tells of a new connection

    def _send_one(self, socket: Socket, identity: bytes, payload: bytes) -> bool:
        """Whether the peer is there. Nothing that ZeroMQ took counts as sent: whoever waits for this asks again, and
        what a full queue did not take is settled by the same timeouts."""
        try:
            socket.send(identity, _SNDMORE_NOBLOCK)
            socket.send(payload, _NOBLOCK, copy=len(payload) < 65_536)
        except zmq.Again:
            self.pipe.count_dropped("slow_reader")
        except zmq.ZMQError as problem:
            if problem.errno != zmq.EHOSTUNREACH:
                raise
            self.pipe.count_dropped("peer_gone")
            return False
        return True

    def _facts(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "process": {
                "pid": os.getpid(),
                "cpu_us": int((usage.ru_utime + usage.ru_stime) * 1_000_000),
                "rss_max_kib": usage.ru_maxrss,
                "time": time.time(),
            },
            "log": log_facts(self._log),
            "checkpoint": self._keeper_facts(),
            "disk": {} if self._disk is None else self._disk.facts(),
            "reload": {"stall_cpu_us_max": self._reload_ns_max // 1_000},
        }

    def _keeper_facts(self) -> dict[str, Any]:
        """How far the last checkpoint reaches, and how much log lies above it."""
        if self._keeper is None:
            return {}
        kept = self._keeper.kept
        return {
            "index": kept.index,
            "checkpoints": kept.checkpoints,
            "took_ms": kept.took_ms,
            "stall_us_max": self._keep_ns_max // 1_000,
            "stall_cpu_us_max": self._keep_cpu_ns_max // 1_000,
            "backlog_bytes": self._keeper.backlog_bytes,
            "in_memory": self.pipe.state.sessions.live() - self.pipe.state.sessions.filed.count,
        }


def log_facts(log: Log) -> dict[str, Any]:
    """What the log has done since it was opened, where it counts."""
    stats = getattr(log, "stats", None)
    if stats is None:
        return {}
    times = sorted(stats.sync_ns)
    return {
        "frames": stats.frames,
        "entries": stats.entries,
        "groups": stats.groups,
        "syncs": stats.syncs,
        "bytes": stats.bytes,
        "segments": stats.segments,
        "sync_p50_us": times[len(times) // 2] // 1000 if times else 0,
        "sync_p99_us": times[len(times) * 99 // 100] // 1000 if times else 0,
        "cut_bytes": stats.cut_bytes,
    }


