"""The state and the reference side by side: one log of real frames, and a comparison after each of them.

Whatever drives it (Hypothesis in test_state_machine.py, the planted mutations in test_mutations.py) only says what is
logged; here it becomes bytes, is applied to both, and every verdict, effect, record and index is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mpy6a.entries import Admin, Opening, encode_admin, encode_opening, encode_policy, encode_proposals
from mpy6a.entries import SessionKey as Key
from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.model import NOBODY, AdminVerb, Extra, Op, Proposal, SessionState, Verb
from mpy6a.policy import KindPolicy, Policy
from mpy6a.session import Session
from mpy6a.sessions import Applied
from mpy6a.state import LEVEL, VERDICT, State
from mpy6a.wire import decode_rows, encode_batch_body, null_refused

from .filing import Filing
from .reference import Kind, Reference, SessionKey, Verdict

PIPE = 1
FENCED = 1
KEY_LIVE = 9
LIMIT_NAMES = ("CHARGE_LIMIT", "BARREN_LIMIT")


class NewState(Protocol):
    """Makes an empty state: `State`, or one with a planted fault."""

    def __call__(self, pipe: int) -> State: ...


@dataclass(frozen=True)
class Sent:
    """A batch as a client packed it, kept to be sent again."""

    origin: bytes
    number: int
    mark: int
    first_sent_ms: int
    ops: tuple[Op, ...]
    extras: tuple[Extra, ...] = ()


class Pair:
    """One log, two readers. Every method logs one frame and raises AssertionError where the two differ."""

    def __init__(self, new_state: NewState = State, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self.state = new_state(PIPE)
        self.reference = Reference()
        self.log_ms = 1_700_000_000_000
        self.term = 0
        self.next_index = 1
        self.frames: list[Frame] = []
        self._log = bytearray(b"\0" * 64)  # what record references address; position 0 holds no frame
        self._epochs: dict[str, tuple[int, int]] = {}  # id -> (epoch, fence) seen last
        self._writers: dict[tuple[str, int], str] = {}  # (id, epoch) -> its writer
        self._gone: set[str] = set()
        self._filing: Filing | None = None
        self.opening(3)

    # ------------------------------------------------------------------ frames

    def opening(self, term: int) -> None:
        """A new leader."""
        self.term = term
        body = encode_opening(Opening(self.log_ms, NOBODY, term, PIPE, LEVEL))
        self._narrate("opening", f"term {term}")
        first, _ = self._apply(FrameType.OPENING, body, 1)
        self.reference.apply_opening(first, self.log_ms, term)
        self._compare()

    def policy(self, kinds: Iterable[KindPolicy], session_bytes_max: int, session_records_max: int) -> None:
        """A reload of the routes."""
        policy = Policy(
            {kind.id: kind for kind in kinds},
            session_bytes_max=session_bytes_max,
            session_records_max=session_records_max,
        )
        self._narrate("policy", policy)
        first, _ = self._apply(FrameType.POLICY, encode_policy(policy), 1)
        plain = {number: kind_of(kind) for number, kind in policy.kinds.items()}
        self.reference.apply_policy(first, self.log_ms, plain, session_bytes_max, session_records_max)
        self._compare()

    def batch(self, sent: Sent, refused: Mapping[int, int] | None = None) -> list[Verdict]:
        """A batch, with what was refused before the log; returns the verdicts, on which both agree."""
        body = encode_batch_body(sent.number, sent.mark, sent.first_sent_ms, sent.ops, sent.extras)
        flags, verdicts = 0, b""
        if refused:
            body = null_refused(decode_rows(body), refused)
            flags = FLAG_REENCODED
            verdicts = b"".join(VERDICT.pack(position, code, 0) for position, code in sorted(refused.items()))
        self._narrate("batch", sent, f"refused {refused}" if refused else "")
        first, applied = self._apply(FrameType.BATCH, body, len(sent.ops), sent.origin, flags, verdicts)
        expected = self.reference.apply_batch(
            first,
            self.log_ms,
            sent.origin,
            sent.number,
            sent.mark,
            sent.first_sent_ms,
            sent.ops,
            sent.extras,
            refused,
        )
        found = self._verdicts(first, sent.ops, applied)
        assert found == expected, f"{sent.ops}: {found}, the reference says {expected}"
        self._compare()
        return expected

    def proposals(self, proposals: Sequence[Proposal]) -> list[bool]:
        """What the pipe proposes; returns which were applied."""
        self._narrate("proposals", *proposals)
        first, applied = self._apply(FrameType.PROPOSALS, encode_proposals(proposals), len(proposals))
        expected = self.reference.apply_proposals(first, self.log_ms, proposals)
        void = [proposal for proposal, done in zip(proposals, expected, strict=True) if not done]
        assert applied.void == void, f"void {applied.void}, the reference says {void}"
        self._compare()
        return expected

    def admin(self, verb: AdminVerb, sessions: Sequence[SessionKey], reason: str = "") -> list[bool]:
        """An operator's word; returns which sessions it fitted."""
        keys = tuple(Key(term, index) for term, index in sessions)
        body = encode_admin(Admin(verb, "operator", reason, keys))
        self._narrate("admin", AdminVerb(verb).name, *sessions)
        first, applied = self._apply(FrameType.ADMIN, body, len(sessions))
        expected = self.reference.apply_admin(first, self.log_ms, verb, sessions, "operator", reason)
        refused = {result.position for result in applied.results}
        assert [i not in refused for i in range(len(sessions))] == expected, f"{verb!r}: refused {refused}"
        self._compare()
        return expected

    def _narrate(self, what: str, *facts: object) -> None:
        if self._tell is not None:
            told = "".join(f"\n    {fact}" for fact in facts if fact != "")
            self._tell(f"{self.next_index} at {self.log_ms}: {what}{told}")

    def _apply(
        self,
        kind: FrameType,
        body: bytes,
        count: int,
        origin: bytes = NOBODY,
        flags: int = 0,
        verdicts: bytes = b"",
    ) -> tuple[int, Applied]:
        first = self.next_index
        position = len(self._log)
        frame = Frame(
            int(kind), flags, LEVEL, self.term, first, count, self.log_ms, 0, origin, body, verdicts, position
        )
        self._log += body
        self.next_index += count
        self.frames.append(frame)
        repeating = self._repeating()
        applied = self.state.apply(replace(frame))
        self._check_effects(repeating, applied)
        return first, applied

    def _verdicts(self, first: int, ops: Sequence[Op], applied: Applied) -> list[Verdict]:
        """The verdicts of the state, with those that are plain OK filled in."""
        told = {result.position: result for result in applied.results}
        assert list(told) == sorted(told), "results ascend by position"
        verdicts = []
        for position, op in enumerate(ops):
            result = told.get(position)
            if result is None:
                made = (first + position, self.term) if op.verb == Verb.NEW else (0, 0)
                verdicts.append(Verdict(0, *made))
                continue
            session = self.state.session(op.term, op.index) if op.verb != Verb.NEW else None
            assert result.epoch in (0, session.epoch if session is not None else 0), "FENCED tells the epoch now"
            assert (result.state != 0) == (result.code == KEY_LIVE), "KEY_LIVE tells the state of the holder"
            verdicts.append(Verdict(result.code, result.index, result.term))
        return verdicts

    # ------------------------------------------------------------------ checkpoints

    def checkpoint(self, leave: Callable[[Session], bool]) -> None:
        """One is written by whoever follows the log; then waiting sessions may `leave` memory, and traces do."""
        self._narrate("checkpoint")
        if self._filing is None:
            self._filing = Filing(PIPE)
        self._filing.write(self.frames, len(self._log))
        self._use_file()
        sessions = self.state.sessions
        for session in sessions.in_memory():
            if session.state in (SessionState.STORED, SessionState.PARKED) and leave(session):
                sessions.drop(session)
        sessions.drop_traces(self.next_index)
        self._compare()

    def start_from_checkpoint(self) -> None:
        """The pipe starts again: from the last checkpoint, and what was logged since."""
        if self._filing is None or type(self.state) is not State:
            return  # none yet; or a state with a planted fault, which is to stay
        self._narrate("start from the checkpoint")
        self.state = self._filing.load()
        for frame in self.frames:
            if frame.first_index >= self.state.next_index:
                self.state.apply(replace(frame))
        self._compare()

    def _use_file(self) -> None:
        assert self._filing is not None
        self.state.sessions.source = self._filing.file
        self.state.sessions.filed_below = len(self._log)

    # ------------------------------------------------------------------ what is compared

    def _compare(self) -> None:
        found, expected = self.state.dump(), self.reference.snapshot()
        for name, session in found["sessions"].items():
            reason = session["park_reason"].partition(":")[0]
            if reason in LIMIT_NAMES:
                session["park_reason"] = reason
            self._check_invariants(name, session)
        for part, value in expected.items():
            assert found[part] == value, _difference(part, found[part], value)
        for name in self._epochs.keys() - found["sessions"].keys():
            self._gone.add(name)
        self._check_records()
        self._check_indexes()

    def _check_invariants(self, name: str, session: Mapping[str, int | str]) -> None:
        """What holds for a live session whatever happened, said without the reference."""
        assert name not in self._gone, f"{name} came back"
        epoch, fence, writer = int(session["epoch"]), int(session["fence"]), str(session["writer"])
        before = self._epochs.get(name, (epoch, fence))
        assert (epoch, fence) >= before, f"{name}: epoch or fence went back: {before} to {(epoch, fence)}"
        assert (fence > before[1]) == (epoch > before[0]), f"{name}: a fence is for one epoch"
        self._epochs[name] = (epoch, fence)
        state = session["state"]
        if writer:
            assert self._writers.setdefault((name, epoch), writer) == writer, f"{name}: a second writer"
        assert bool(writer) or state != SessionState.OPEN, f"{name} is open and has no writer"
        assert not writer or state in (SessionState.OPEN, SessionState.REPEATING), f"{name}: a writer"
        assert bool(session["target"]) == (state == SessionState.REPEATING), f"{name}: target"
        assert bool(session["due_ms"]) == (state != SessionState.PARKED), f"{name}: one due time"

    def _check_records(self) -> None:
        """References into the log lead to the very bytes that were sent."""
        for session in self.state.sessions.all():
            records = self.state.sessions.records(session, lambda at, length: bytes(self._log[at : at + length]))
            assert records == self.reference.sessions[(session.term, session.index)].records
            assert session.size == sum(map(len, records))

    def _check_indexes(self) -> None:
        """Who owns, holds and has a key is told without a search, and tells the same."""
        sessions = self.state.sessions
        live = sessions.all()
        opened = [s for s in live if s.state == SessionState.OPEN]
        held = [s for s in live if s.state == SessionState.REPEATING]
        assert sorted(sessions.writers()) == sorted({s.writer for s in opened})
        for writer in sessions.writers():
            assert sorted(sessions.owned(writer)) == [s.index for s in opened if s.writer == writer]
        targets = {s.index: s.delivery.target for s in held if s.delivery is not None}
        assert sorted(sessions.targets()) == sorted(set(targets.values()))
        for target in sessions.targets():
            assert sorted(sessions.held(target)) == [i for i, of in targets.items() if of == target]
        counts = Counter(s.kind << 3 | s.state for s in live)
        assert {key: count for key, count in sessions.counts.items() if count} == counts
        assert sessions.live() == len(live)
        assert self.state.requests.kept == sum(len(c.outcomes) for c in self.reference.clients.values())

    def _repeating(self) -> dict[tuple[int, int, int], bytes]:
        """(term, index, epoch) of what is pushed now -> its target."""
        return {
            (s.term, s.index, s.epoch): s.delivery.target
            for s in self.state.sessions.all()
            if s.state == SessionState.REPEATING and s.delivery is not None
        }

    def _check_effects(self, before: Mapping[tuple[int, int, int], bytes], applied: Applied) -> None:
        """The driver hears of every epoch that began or ended, with its target, and of nothing else."""
        after = self._repeating()
        ended = [((term, index, epoch), target) for term, index, epoch, target, _ in applied.ended]
        begun = [(s.term, s.index, s.epoch) for s in applied.dispatched]
        assert sorted(ended) == sorted((key, of) for key, of in before.items() if key not in after)
        assert sorted(begun) == sorted(key for key in after if key not in before)


def kind_of(kind: KindPolicy) -> Kind:
    """A kind's policy as the reference holds it."""
    return Kind(
        delay_ms=kind.delay_ms,
        jitter_ms=kind.jitter_ms,
        backoff_base_ms=kind.backoff_base_ms,
        backoff_cap_ms=kind.backoff_cap_ms,
        idle_ms=kind.idle_ms,
        silence_ms=kind.silence_ms,
        barren_limit=kind.barren_limit,
        charge_limit=kind.charge_limit,
    )


def _difference(part: str, found: object, expected: object) -> str:
    """The first thing in which the two differ, in a line."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys(), key=str):
            if found.get(key) != expected.get(key):
                return _difference(f"{part} {key}", found.get(key), expected.get(key))
    return f"{part}: {found}, the reference says {expected}"
