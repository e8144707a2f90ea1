"""Holds what a pipe has, in its log and in its state, against what the writers were promised.

It knows the writers' side of semantics "One writer" only: one incarnation a session, one group a session in flight,
never fenced off. So the first copy of a batch in the log decides, and every later one may change nothing. It shares
the codec with the package, not `apply`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mpy6a.errors import Code
from mpy6a.framing import FLAG_REENCODED, Frame, FrameType
from mpy6a.messages import Ack
from mpy6a.model import Op, Verb
from mpy6a.wire import RowBatch, decode_rows
from tests.crash.histories import History, Story
from tests.crash.place import RECORD_BYTES_MAX
from tests.crash.writer import KINDS

Name = tuple[bytes, int]  # writer and number of a batch
Id = tuple[int, int]  # term and index of a session


@dataclass(frozen=True, slots=True)
class Logged:
    """The first copy of a batch in the log."""

    first_index: int
    term: int
    codes: tuple[int, ...]  # what each operation has to be answered


@dataclass(slots=True)
class Session:
    """A session as the batches in the log make it."""

    writer: bytes
    kind: int
    records: list[bytes]
    seq: int = 0
    stored: bool = False
    gone: bool = False


@dataclass(slots=True)
class Reading:
    """What the log says, and everything in it that may not be."""

    batches: dict[Name, Logged] = field(default_factory=dict)
    places: dict[Name, list[int]] = field(default_factory=dict)  # first index of every copy
    sessions: dict[Id, Session] = field(default_factory=dict)
    terms: list[tuple[int, int]] = field(default_factory=list)  # (term, its first index)
    faults: list[str] = field(default_factory=list)

    def live(self) -> dict[Id, Session]:
        """The sessions that are not finished."""
        return {id: session for id, session in self.sessions.items() if not session.gone}


def read_log(frames: Iterable[Frame], histories: Sequence[History]) -> Reading:
    """Walk the log in its order: every batch as it was sent, whole, and applied once."""
    by_writer = {history.writer: history for history in histories}
    reading = Reading()
    next_index = 0
    for frame in frames:
        if next_index and frame.first_index != next_index:
            reading.faults.append(f"index {frame.first_index} follows {next_index - 1}")
        next_index = frame.first_index + frame.count
        if frame.type == FrameType.OPENING:
            reading.terms.append((frame.term, frame.first_index))
        if frame.type != FrameType.BATCH:
            continue
        batch = decode_rows(frame.batch, nulled=bool(frame.flags & FLAG_REENCODED))
        history = by_writer.get(frame.origin)
        story = history.stories.get(batch.number) if history else None
        name = f"batch {batch.number} of {frame.origin.hex()[:8]} at index {frame.first_index}"
        if story is None:
            reading.faults.append(f"{name}: nobody sent it")
        elif not _same(frame, batch, story):
            reading.faults.append(f"{name}: not as it was sent")
        else:
            reading.places.setdefault((frame.origin, batch.number), []).append(frame.first_index)
            if (frame.origin, batch.number) not in reading.batches:
                reading.batches[frame.origin, batch.number] = _apply(reading, frame, story.batch.ops, name)
    return reading


def _same(frame: Frame, batch: RowBatch, story: Story) -> bool:
    """The received bytes verbatim, or with nothing but the records of refused operations taken out."""
    if not frame.flags & FLAG_REENCODED:
        return frame.batch == story.message[-len(frame.batch) :] and len(batch.rows) == len(story.batch.ops)
    refused = {position for position, op in enumerate(story.batch.ops) if _refused_before(op)}
    ops = [
        Op(verb, index, term, epoch, seq, argument, batch.record(position))
        for position, (index, epoch, seq, term, verb, argument, _, _) in enumerate(batch.rows)
    ]
    wanted = [op._replace(record=None) if p in refused else op for p, op in enumerate(story.batch.ops)]
    return ops == wanted and batch.mark == story.batch.mark and frame.count == len(ops)


def _refused_before(op: Op) -> int:
    """The code that an operation gets whatever the state is; 0 for most."""
    if op.verb == Verb.NEW and op.argument not in KINDS:
        return Code.UNKNOWN_KIND
    return Code.TOO_LARGE if op.record is not None and len(op.record) > RECORD_BYTES_MAX else Code.OK


def _apply(reading: Reading, frame: Frame, ops: Sequence[Op], name: str) -> Logged:
    """Let the first copy decide: the model's state, and the verdict due to each operation."""
    codes: list[int] = []
    rest: dict[Id, int] = {}  # what the remaining operations of a group get
    for position, op in enumerate(ops):
        code = _refused_before(op)
        if op.verb == Verb.NEW:
            if not code:
                records = [] if op.record is None else [op.record]
                reading.sessions[frame.term, frame.first_index + position] = Session(frame.origin, op.argument, records)
            codes.append(code)
            continue
        id = op.term, op.index
        session = reading.sessions.get(id)
        if session is None or session.writer != frame.origin:
            reading.faults.append(f"{name}: operation {position} on session {id}, which is not there for it")
            codes.append(Code.OK)
            continue
        if op.seq != session.seq + 1:
            reading.faults.append(f"{name}: session {id} has seq {op.seq} after {session.seq}")
        session.seq = op.seq
        if id in rest:
            codes.append(rest[id])
            if rest[id] == Code.FENCED:
                rest[id] = Code.AFTER_REFUSAL
            continue
        if session.gone or session.stored:
            reading.faults.append(f"{name}: operation {position} on session {id} after its end")
        codes.append(code)
        if code:
            rest[id] = Code.AFTER_REFUSAL
        elif op.verb == Verb.APPEND:
            session.records.append(op.record or b"")
        elif op.verb == Verb.REPLACE:
            session.records = [op.record or b""]
        elif op.verb == Verb.DELETE:
            session.gone = True
            rest[id] = Code.GONE
        elif op.verb == Verb.STORE:
            session.stored = True
            rest[id] = Code.FENCED
    return Logged(frame.first_index, frame.term, tuple(codes))


def check_answers(reading: Reading, histories: Sequence[History]) -> list[str]:
    """Every acknowledged batch is in the log, and every answer to it, first or late, is the one it had to get."""
    faults: list[str] = []
    for history in histories:
        for number, story in history.stories.items():
            name = f"batch {number} of {history.writer.hex()[:8]}"
            logged = reading.batches.get((history.writer, number))
            if logged is None:
                if story.acks:
                    faults.append(f"{name}: acknowledged, and not in the log")
                continue
            for place, (_, ack) in enumerate(story.acks):
                if ack.first_index not in reading.places[history.writer, number]:
                    faults.append(f"{name}: answered for index {ack.first_index}, where it does not stand")
                found = _answer_faults(reading, ack, story, logged, late=place > 0)
                faults.extend(f"{name}: {fault}" for fault in found)
    return faults


def _answer_faults(reading: Reading, ack: Ack, story: Story, logged: Logged, *, late: bool) -> list[str]:
    if ack.code or not ack.durable:
        return [f"answered with code {ack.code}, durable {ack.durable}"]
    results = {result.position: result for result in ack.results}
    faults: list[str] = []
    for position, (op, due) in enumerate(zip(story.batch.ops, logged.codes, strict=True)):
        result = results.get(position)
        code = result.code if result else Code.OK
        if code != due and not (late and code in _due_to_copies(reading, op)):
            faults.append(f"operation {position} was answered {code}, due was {due}")
        if op.verb == Verb.NEW and code == Code.OK:
            made = (result.term, result.index) if result else (ack.term, ack.first_index + position)
            if made != (logged.term, logged.first_index + position):
                faults.append(f"operation {position} was told session {made}, which is another one")
    return faults


def _due_to_copies(reading: Reading, op: Op) -> tuple[int, ...]:
    """What a copy sent after the answer may get instead of its original verdict, as its session went on."""
    if op.verb == Verb.NEW:
        return (Code.STALE_COPY,)
    if reading.sessions[op.term, op.index].gone:
        # "OK up to and including its Delete, GONE after it": also for a group that was refused when it counted.
        return (Code.STALE_COPY, Code.FENCED, Code.OK, Code.GONE)
    return (Code.STALE_COPY, Code.FENCED)


def check_state(reading: Reading, found: Mapping[Id, Session], fenced: frozenset[bytes]) -> list[str]:
    """The sessions as read from the pipe are those of the log, record for record.

    The writers in `fenced` were lost for good: their open sessions may have been stored by now.
    """
    live = reading.live()
    faults = [f"session {id}: finished or never made, and there" for id in found.keys() - live.keys()]
    for id, session in live.items():
        there = found.get(id)
        if there is None:
            faults.append(f"session {id}: not finished, and not there")
        elif there.records != session.records:
            faults.append(f"session {id}: {len(there.records)} records, {len(session.records)} are due, or others")
        elif (there.kind, there.seq) != (session.kind, session.seq):
            faults.append(f"session {id}: kind {there.kind}, seq {there.seq}; due {session.kind}, {session.seq}")
        elif there.stored != session.stored and session.writer not in fenced:
            faults.append(f"session {id}: stored {there.stored}, due is {session.stored}")
    return faults


def refused_copies(reading: Reading, histories: Sequence[History]) -> int:
    """Operations of copies that were answered with a refusal which their first answer was not."""
    count = 0
    for history in histories:
        for number, story in history.stories.items():
            logged = reading.batches.get((history.writer, number))
            for _, ack in story.acks[1:]:
                assert logged is not None
                count += sum(1 for result in ack.results if result.code not in (Code.OK, logged.codes[result.position]))
    return count
