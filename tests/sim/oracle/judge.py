"""Holds what was seen against what was promised: log, acks, pushes, runs, callers, and what the pipe keeps.

Everything is judged in log order. Whatever comes back after a crash is held against what was acknowledged before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final

from mpy6a.errors import Code

from .decoding import read_batch, read_uncharged, read_verdicts
from .facts import ADMIN, BATCH, OPENING, POLICY, PROPOSALS, FrameSeen, Kept, PolicySeen, Told, Violation
from .model import OPEN, PARKED, REPEATING, STORED, Key, Session
from .paces import BAD, Paces
from .verdicts import Answer, Verdicts

_DISPATCH: Final = 1
_EXPIRE: Final = 2
_OWNER_GONE: Final = 3
_RELEASE: Final = 4
# What nobody who keeps the rules is ever told while the log keeps its own.
_NEVER: Final = frozenset({Code.STALE_COPY, Code.SEQ_GAP, Code.LOG_BEHIND, Code.LOST})
TICK_MS: Final = 5  # the grain of the pipe's timers
TAG_BYTES: Final = 12  # what each record begins with, drawn by nobody twice
# Of a STORED session, by the world.
_WAITS: Final = frozenset({"TIMER", "DISK", "BREAKER_OPEN", "BEHIND", "NO_SIDECAR", "LIMIT", "NO_CREDIT", "NEXT"})


class Run:
    """One epoch as it was dispatched."""

    __slots__ = ("fence", "handed", "target")

    def __init__(self, target: bytes, fence: int) -> None:
        self.target = target
        self.fence = fence
        self.handed = False


class Oracle:
    """One pipe's judge over all of its lives."""

    def __init__(self, steady: Callable[[bytes], bool], lives: Callable[[bytes], bool], lease_ms: int) -> None:
        """`steady`: whether that incarnation has lived and been heard for long, without a fault of anybody; `lives`:
        whether it lives, and nobody has said that it does not."""
        self.notes: Counter[tuple[str, str, str]] = Counter()
        self.words: list[int] = []  # what an operator's last word has to be answered
        self._steady = steady
        self._lives = lives
        self._lease_ms = lease_ms
        self.operations = 0  # of clients, in committed batches
        self.entries = 0
        self.frames: list[FrameSeen] = []
        self._promised = 0  # so many of `frames` may never go away again
        self._issued: list[FrameSeen] = []  # handed to the log and not returned yet
        self._group_index = 1  # first index of the last group
        self._batches: dict[int, tuple[FrameSeen, int, dict[int, Answer]]] = {}  # by first index: not acknowledged yet
        self._started: dict[tuple[Key, int], Run] = {}
        self._fences: dict[Key, tuple[int, int]] = {}
        self._writers: dict[tuple[Key, int], bytes] = {}
        self._dead: set[Key] = set()
        self._begin()

    def _begin(self) -> None:
        self.model = Verdicts()
        self.model.notes = self.notes
        self._paces = Paces()
        self._applied: dict[bytes, Key] = {}  # tag of a record -> the session that took it
        self._decided: set[tuple[Key, int, str]] = set()
        self._order: dict[int, list[tuple[int, int, Session, int]]] = {}  # kind -> heap of who is next

    # ------------------------------------------------------------------ the log

    def issued(self, frames: Sequence[FrameSeen]) -> None:
        """The pipe hands these to its log; nothing of them is promised before `committed`."""
        self._issued = list(frames)
        self._group_index = frames[0].first_index

    def committed(self, frame: FrameSeen) -> None:
        """The log returned this frame: from here on it is judged and answered."""
        if not self._issued or not self._issued[0].same(frame):
            raise Violation("log", f"returned {frame.first_index}, which was not handed to it next")
        del self._issued[0]
        self._take(frame, live=True)

    def durable(self) -> None:
        """All that was committed is said to be durable."""
        self._promised = len(self.frames)

    def opened(self, found: Sequence[FrameSeen], begins_at: int = 1) -> None:
        """A new life replayed these, from log index `begins_at` on."""
        self._batches.clear()
        known = self.frames
        skipped = 0
        while skipped < len(known) and known[skipped].first_index < begins_at:
            skipped += 1
        for place, frame in enumerate(found):
            if place + skipped < len(known):
                if not known[place + skipped].same(frame):
                    raise Violation("durability", f"another frame at index {frame.first_index} than was committed")
            else:
                break
        length = skipped + len(found)
        if length < self._promised:
            first = known[length].first_index
            lost = len(known) - length
            raise Violation("durability", f"acknowledged from index {first} on, and lost ({lost} frames)")
        if length < len(known):
            del known[length:]
            kept, self.frames = known, []
            self._begin()
            self._forget_after(kept[-1].first_index + kept[-1].entries if kept else 1)
            for frame in kept:
                self._take(frame, live=False)
            self.notes["LOG", "lost", "not promised"] += 1
        for frame in found[len(self.frames) - skipped :]:
            if not self._issued or not self._issued[0].same(frame):
                raise Violation("log", f"replays index {frame.first_index}, which nobody logged")
            del self._issued[0]
            self.notes["LOG", "replayed", "not answered"] += 1
            self._take(frame, live=False)
        self._issued = []
        self._promised = len(self.frames)

    def _forget_after(self, index: int) -> None:
        """What was seen of sessions whose beginning is lost (their ids may never come back under this term)."""
        self._started = {run: seen for run, seen in self._started.items() if run[0][1] < index}
        self._writers = {run: seen for run, seen in self._writers.items() if run[0][1] < index}
        self._dead = set()
        self._fences.clear()
        self._started.clear()
        self._writers.clear()

    def _take(self, frame: FrameSeen, *, live: bool) -> None:
        model = self.model
        if frame.first_index != model.next_index:
            raise Violation("log", f"index {frame.first_index} where {model.next_index} is due")
        if frame.log_ms < model.log_ms:
            raise Violation("log time", f"index {frame.first_index}: {frame.log_ms} after {model.log_ms}")
        if frame.term < model.term or (frame.type == OPENING) != (frame.term > model.term):
            raise Violation("term", f"index {frame.first_index} of type {frame.type}: {frame.term} after {model.term}")
        model.advance(frame.log_ms)
        self.frames.append(frame)
        self.entries += frame.entries
        if frame.type == BATCH:
            self._take_batch(frame, live)
        elif frame.type == PROPOSALS:
            self._take_proposals(frame, live)
        elif frame.type == ADMIN:
            self._take_word(frame)
        elif frame.type == POLICY:
            (policy,) = frame.items
            assert isinstance(policy, PolicySeen)
            model.kinds = policy.kinds
            self._paces.reloaded(policy.kinds, frame.first_index, frame.log_ms)
            model.session_bytes_max, model.session_records_max = policy.session_bytes_max, policy.session_records_max
        elif frame.type == OPENING:
            model.term = frame.term
            model.first_of_term[frame.term] = frame.first_index
            model.opened_ms = frame.log_ms
            self._paces.opened()
        model.next_index = frame.first_index + frame.entries
        for session in model.stored:
            self._queue(session)
        model.stored.clear()
        for session, how, charged in model.runs:
            self._take_end(session, how, charged, frame, live)
        model.runs.clear()

    def _take_end(self, session: Session, how: str, charged: bool, frame: FrameSeen, live: bool) -> None:
        """A run is over: what it means for the kind's breaker, and whether the session was rightly charged."""
        number, policy = session.kind, self.model.kinds.get(session.kind)
        if how == BAD and live:
            is_open = self._paces.is_open(number, self._group_index)
            if is_open == charged:
                state = "open" if is_open else "closed"
                said = "charged" if charged else "not charged"
                raise Violation("breaker", f"session {session.id} is {said} while the breaker of its kind is {state}")
            self.notes["BREAKER", "failure", "charged" if charged else "not charged"] += 1
        what = self._paces.ended(number, session.index, how, policy, frame.first_index)
        if what:
            self.notes["BREAKER", what, ""] += 1

    def _take_batch(self, frame: FrameSeen, live: bool) -> None:
        batch = read_batch(frame.body)
        if len(batch.ops) != frame.entries:
            raise Violation("log", f"index {frame.first_index}: {len(batch.ops)} operations in {frame.entries} entries")
        refused = read_verdicts(frame.verdicts) if frame.verdicts else {}
        uncharged = read_uncharged(frame.verdicts) if frame.verdicts else ()
        answers = self.model.batch(frame.first_index, frame.origin, batch, refused, uncharged)
        if live:
            self.operations += frame.entries
            self._batches[frame.first_index] = frame, batch.number, answers
        for verb, key, epoch, origin, record in self.model.accepted:
            if record is not None:
                self._once(record, key)
            if verb >= 4:
                self._decided.add((key, epoch, "DELETE" if verb == 4 else "STORE"))
            if self._writers.setdefault((key, epoch), origin) != origin:
                raise Violation("one writer", f"session {key} epoch {epoch}: two incarnations write")
        self.model.accepted.clear()

    def _once(self, record: bytes, key: Key) -> None:
        tag = record[:TAG_BYTES]
        if len(tag) < TAG_BYTES:
            return
        other = self._applied.setdefault(tag, key)
        if other is not key and other != key:
            raise Violation("exactly once", f"record {tag!r} is in {other} and in {key}")

    def _take_proposals(self, frame: FrameSeen, live: bool) -> None:
        model = self.model
        dispatched: dict[int, list[Session]] = {}
        void: set[Session] = set()
        for item in frame.items:
            session = model.sessions.get((item[1], item[2]))  # type: ignore[arg-type]  # plain tuples
            if session is None:
                continue
            valid = session.epoch == item[3] and session.change == item[4]
            if item[0] == _DISPATCH:
                if valid and session.state == STORED:
                    dispatched.setdefault(session.kind, []).append(session)
                else:
                    void.add(session)
            elif item[0] == _EXPIRE and valid:
                self._check_expiry(session)
            elif valid and live and item[0] in (_OWNER_GONE, _RELEASE):
                target = item[8]
                assert isinstance(target, bytes)
                if self._steady(target):
                    raise Violation("lease", f"session {session.id} is taken from one that lives and is heard")
                if model.log_ms < model.opened_ms + self._lease_ms and self._lives(target):
                    raise Violation("lease", f"session {session.id} is taken in the lease of an opening")
        if live:
            for kind, sessions in dispatched.items():
                self._check_order(kind, sessions, void)
        for position, item in enumerate(frame.items):
            applied = model.propose(frame.first_index + position, item)
            if applied and item[0] == _DISPATCH:
                session = model.sessions[item[1], item[2]]  # type: ignore[index]  # plain tuples
                ahead = model.before(session)
                if live and ahead is not None:
                    raise Violation("order key", f"session {session.id} is dispatched behind {ahead.id}")
                self._check_dispatch(session, live)
                policy = model.kind(session.kind)
                self._paces.dispatched(session.kind, session.index, policy, frame.log_ms, self._group_index, live)

    def _check_expiry(self, session: Session) -> None:
        model = self.model
        kind = model.kind(session.kind)
        half = (kind.idle_ms if session.state == OPEN else kind.silence_ms) // 2
        if session.due_ms > model.log_ms or model.log_ms < model.opened_ms + half:
            raise Violation("limits", f"session {session.id} expired at {model.log_ms}, due {session.due_ms}")

    def _check_dispatch(self, session: Session, live: bool) -> None:
        key = session.id
        before = self._fences.get(key, (0, 0))
        if live and (session.epoch, session.fence) <= before:
            raise Violation("fence", f"session {key}: {before} before {(session.epoch, session.fence)}")
        self._fences[key] = session.epoch, session.fence
        self._started[key, session.epoch] = Run(session.target, session.fence)
        if live and session.sidecar not in self.model.kind(session.kind).sidecars:
            raise Violation("routes", f"session {key} of kind {session.kind} is dispatched to {session.sidecar!r}")

    def _check_order(self, kind: int, dispatched: Sequence[Session], void: set[Session]) -> None:
        """Whoever is due first goes first: nobody who could go stands before those who do."""
        places = [(session.due_ms, session.stored_index) for session in dispatched]
        if places != sorted(places):
            raise Violation("order", f"kind {kind}: dispatched as {places}")
        if self.model.paused_kinds.get(kind, self._group_index) < self._group_index:  # said before the pipe chose
            raise Violation("order", f"kind {kind} is paused, and dispatched")
        last = max(places)
        if last[0] > self.model.log_ms:
            raise Violation("order", f"kind {kind}: due {last[0]}, dispatched at {self.model.log_ms}")
        heap = self._order.get(kind, [])
        going = set(dispatched)
        aside: list[tuple[int, int, Session, int]] = []
        while heap and heap[0][:2] <= last:
            entry = heappop(heap)
            session = entry[2]
            if session.state != STORED or session.stored_index != entry[1] or session.paused or session in going:
                continue
            if session.due_ms != entry[0]:
                continue  # put off by an operator: it stands here once more
            aside.append(entry)
            # Whoever came here in this very group was not there when the pipe chose, nor who was held back then.
            order = (session.kind, session.order_key)
            behind = self.model.before(session) is not None or self.model.moved.get(order, 0) >= self._group_index
            if session not in void and session.change < self._group_index and not behind:
                raise Violation("order", f"kind {kind}: {session.id} due {session.due_ms} is passed over by {last}")
        for entry in aside:
            heappush(heap, entry)

    def _queue(self, session: Session) -> None:
        if session.state == STORED and not session.paused:
            heap = self._order.setdefault(session.kind, [])
            heappush(heap, (session.due_ms, session.stored_index, session, session.change))

    def _take_word(self, frame: FrameSeen) -> None:
        (verb, kind, until_ms, reason), *keys = frame.items
        assert isinstance(until_ms, int)
        assert isinstance(verb, int)
        assert isinstance(kind, int)
        self.words = []
        if not keys:
            if verb == 5:
                self.model.paused_kinds[kind] = frame.first_index
            elif verb == 6:
                self.model.paused_kinds.pop(kind, None)
        for position, key in enumerate(keys):
            term, index = key
            assert isinstance(term, int)
            assert isinstance(index, int)
            at = frame.first_index + position
            self.words.append(self.model.command(at, verb, (term, index), str(reason), until_ms))

    # ------------------------------------------------------------------ what goes out

    def acked(
        self, origin: bytes, number: int, first_index: int, term: int, told: Sequence[Told], durable: bool
    ) -> None:
        """An ack of a logged batch leaves the pipe."""
        found = self._batches.pop(first_index, None)
        if found is None:
            raise Violation("ack", f"batch {number} of {origin.hex()} is answered, and not logged at {first_index}")
        frame, logged, answers = found
        if (frame.origin, logged) != (origin, number):
            raise Violation("ack", f"index {first_index} is batch {logged}, not {number}")
        if term != frame.term and term != self.model.term:
            raise Violation("ack", f"batch {number} is told term {term}, logged under {frame.term}")
        said: dict[int, Answer] = {}
        for one in told:
            is_new = one.code == Code.KEY_LIVE or (one.code == 0)
            said[one.position] = (one.code, one.index, one.term, one.state) if is_new else (one.code, 0, 0, 0)
        if said != answers:
            raise Violation("verdict", _difference(first_index, said, answers))
        if durable and self._promised < len(self.frames):
            raise Violation("ack", f"batch {number} is called durable, and is not")

    def pushed(
        self, target: bytes, term: int, index: int, epoch: int, fence: int, records: Sequence[bytes], cancel: bool
    ) -> None:
        """A RepeatData leaves the pipe for this sidecar incarnation."""
        key = (term, index)
        run = self._started.get((key, epoch))
        if run is None:
            raise Violation("push", f"session {key} epoch {epoch} is pushed, and was not dispatched")
        if run.target != target:
            raise Violation("push", f"session {key} epoch {epoch} is pushed to another incarnation than the log says")
        if run.fence != fence:
            raise Violation("fence", f"session {key} epoch {epoch}: {fence} is pushed, {run.fence} is right")
        session = self.model.sessions.get(key)
        if session is None or session.epoch != epoch or session.state != REPEATING:
            return  # over already; it will be stopped
        if list(records) != session.records[: len(records)] or (not session.grew and list(records) != session.records):
            raise Violation("records", f"session {key} epoch {epoch} is pushed with other records than were written")
        if cancel != session.cancel:
            raise Violation("push", f"session {key} epoch {epoch}: cancel is {cancel}")

    def handed(self, sidecar: bytes, term: int, index: int, epoch: int) -> None:
        """A sidecar gives a run to a handler."""
        run = self._started.get(((term, index), epoch))
        if run is None:
            raise Violation("run", f"session {(term, index)} epoch {epoch} runs, and was not dispatched")
        if run.target != sidecar:
            raise Violation("run", f"session {(term, index)} epoch {epoch} runs at an incarnation it was not meant for")
        if run.handed:
            raise Violation("run", f"session {(term, index)} epoch {epoch} is handed to a second handler")
        run.handed = True

    def answered(self, caller: bytes, tag: bytes, key: Key, epoch: int, verb: str, code: int) -> None:
        """A caller was told `code` for its operation (durable log only)."""
        if code == 0:
            if self._writers.get((key, epoch), caller) != caller:
                # Another one wrote this epoch and deleted it: a group that holds a Delete is told OK all the same
                # (semantics, "On a gone session"). Only a stranger can do that to a handler.
                self.notes["CALLER", "told OK", "by another's Delete"] += 1
                return
            if verb in ("DELETE", "STORE"):
                if (key, epoch, verb) not in self._decided:
                    raise Violation("caller", f"{verb} of {key} epoch {epoch} is told OK, and is not in the log")
            elif tag and self._applied.get(tag) != key:
                raise Violation("caller", f"{verb} of {key} is told OK, and is not in the log")
        elif code in _NEVER:
            raise Violation("caller", f"{verb} of {key} epoch {epoch} is told {Code(code).name}")
        elif tag and code in (Code.TOO_LARGE, Code.AFTER_REFUSAL, Code.DISK_LOW, Code.DENIED) and tag in self._applied:
            raise Violation("caller", f"{verb} of {key} is told {Code(code).name}, and is applied")

    # ------------------------------------------------------------------ what is kept

    def compare(self, kept: Iterable[Kept]) -> None:
        """The pipe's live sessions, all of them, against the log's."""
        sessions = dict(self.model.sessions)
        for one in kept:
            session = sessions.pop((one.term, one.index), None)
            if session is None:
                raise Violation("state", f"session {(one.term, one.index)} lives, and is finished in the log")
            self._compare(one, session)
        if sessions:
            raise Violation("state", f"sessions {sorted(sessions)[:4]} are live in the log, and not kept")

    def _compare(self, one: Kept, session: Session) -> None:
        records: Sequence[object] = session.records
        if one.records and isinstance(one.records[0], int):
            records = [len(record) for record in session.records]
        expected = (
            session.kind, session.state, session.epoch, session.seq, session.writer, session.target, session.fence,
            session.due_ms, session.stored_index, session.change, list(records), session.cancel, session.paused,
            session.repeats, session.charges, session.barren, session.releases, session.park_reason, session.key,
        )  # fmt: skip
        reason = one.park_reason.partition(":")[0] if "_LIMIT:" in one.park_reason else one.park_reason
        found = (*one[2:12], list(one.records), *one[13:19], reason, one.key)
        if found != expected:
            names = Kept._fields[2:]
            wrong = [f"{n} {f!r} for {e!r}" for n, f, e in zip(names, found, expected, strict=True) if f != e]
            raise Violation("state", f"session {session.id}: {'; '.join(wrong)[:600]}")

    def reasons(self, told: Mapping[Key, str], log_ms: int, held: bool) -> None:
        """Every live session's one reason why it is not running."""
        model = self.model
        if told.keys() != model.sessions.keys():
            raise Violation("why", "not exactly the live sessions have a reason")
        for key, reason in told.items():
            session = model.sessions[key]
            expected: tuple[str, ...]
            if session.state == PARKED:
                expected = ("PARKED",)
            elif session.state == OPEN:
                expected = ("OPEN_BY",)
            elif session.state == REPEATING:
                expected = ("REPEATING_AT",)
            elif session.kind not in model.kinds:
                expected = ("ORPHAN_KIND",)
            elif session.paused:
                expected = ("SESSION_PAUSED",)
            elif session.kind in model.paused_kinds:
                expected = ("KIND_PAUSED",)
            elif held:
                expected = ("CLOCK",)
            elif session.due_ms > log_ms:
                expected = ("TIMER",)
            else:
                expected = ("DISK", "BREAKER_OPEN", "NO_SIDECAR", "LIMIT", "NO_CREDIT", "NEXT")
                if model.before(session) is not None:
                    expected = ("DISK", "BREAKER_OPEN", "BEHIND")
            self.notes["WHY", reason, ""] += 1
            if reason not in expected:
                raise Violation("why", f"session {key} in state {session.state}: {reason}, not {expected}")

    def finished(self, told: Mapping[Key, str]) -> None:
        """All faults are over, and much time went by: nobody is left but those who wait for somebody's word."""
        for key, reason in told.items():
            ahead = self.model.before(self.model.sessions[key]) if reason == "BEHIND" else None
            if ahead is not None:
                reason = told[ahead.id]
            if reason not in ("PARKED", "SESSION_PAUSED", "KIND_PAUSED", "ORPHAN_KIND", "FAR_TIMER"):
                session = self.model.sessions[key]
                state = f"state {session.state}, epoch {session.epoch}, due {session.due_ms} at {self.model.log_ms}"
                raise Violation("liveness", f"session {key} is not finished: {reason} ({state})")


def _difference(first_index: int, said: dict[int, Answer], answers: dict[int, Answer]) -> str:
    for position in sorted(said.keys() | answers.keys()):
        if said.get(position) != answers.get(position):
            return (
                f"index {first_index} + {position} is told {said.get(position, 'OK')}, "
                f"{answers.get(position, 'OK')} is right"
            )
    return ""
