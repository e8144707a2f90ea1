"""The figures of a crash test: what the kills hit."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.crash import histories, oracle
from tests.crash.histories import History


@dataclass(slots=True)
class Kill:
    """One end of the pipe, by whom and when (monotonic ns), and what it left."""

    by: str  # "random", "opening", or the fail point
    at_ns: int
    torn_frames: int


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run."""

    kills: int  # at random moments of a pipe that serves, with 256 operations in flight at least
    all_kills: int
    least_in_flight: int
    unanswered: int  # kills after which a writer had to send batches again
    unanswered_batches: int
    durable_unanswered: int  # of these batches, what was in the log already: its verdict had to be the old one
    torn: int
    refused_copies: int
    acknowledged: int
    unacknowledged_there: int  # batches of the lost writer, never answered, that are in the log
    unacknowledged_gone: int
    sessions_live: int
    starts: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.kills} kills at random of {self.all_kills}, {self.least_in_flight} operations in flight at least; "
            f"{self.unanswered} hit unanswered batches ({self.unanswered_batches} sent again, of them "
            f"{self.durable_unanswered} durable); {self.torn} torn tails; {self.refused_copies} refused resends; "
            f"{self.acknowledged} operations acknowledged; of the lost writer's unanswered batches "
            f"{self.unacknowledged_there} there, {self.unacknowledged_gone} not; {self.sessions_live} sessions live; "
            f"{self.starts} starts, {self.seconds:.1f} s"
        )


def count(
    done: list[Kill],
    told: list[History],
    reading: oracle.Reading,
    lost: frozenset[bytes],
    sessions_live: int,
    seconds: float,
) -> Report:
    """The figures of a run, from what the writers wrote down and what the log holds."""
    in_flight: list[int] = []
    unanswered = batches = durable = random_kills = 0
    for number, kill in enumerate(done):
        end_ns = done[number + 1].at_ns if number + 1 < len(done) else time.monotonic_ns()
        # Of the writers that had begun by then and were not lost before.
        flights = [h.in_flight(kill.at_ns) for h in told if _lived(h, kill.at_ns)]
        if kill.by == "random":
            random_kills += 1
            in_flight += flights
        again = [(h.writer, n, h.stories[n]) for h in told for n in h.resent(kill.at_ns, end_ns)]
        unanswered += bool(again)
        batches += len(again)
        for writer, batch_number, story in again:
            logged = reading.batches.get((writer, batch_number))
            # It was logged in a term before the one that answered it.
            durable += bool(logged and story.acks and logged.term < story.acks[0][1].term)
    unacknowledged = [
        (history.writer, number) in reading.batches
        for history in told
        if history.writer in lost
        for number, story in history.stories.items()
        if not story.acks
    ]
    return Report(
        kills=random_kills,
        all_kills=len(done),
        least_in_flight=min(in_flight),
        unanswered=unanswered,
        unanswered_batches=batches,
        durable_unanswered=durable,
        torn=sum(bool(kill.torn_frames) for kill in done),
        refused_copies=oracle.refused_copies(reading, told),
        acknowledged=histories.operations(told),
        unacknowledged_there=sum(unacknowledged),
        unacknowledged_gone=len(unacknowledged) - sum(unacknowledged),
        sessions_live=sessions_live,
        starts=len(reading.terms),
        seconds=seconds,
    )


def _lived(history: History, at_ns: int) -> bool:
    """Whether the writer was at work then: it had answers already, and wrote something down afterwards."""
    times = [at for story in history.stories.values() for at, _ in story.acks]
    return bool(times) and min(times) < at_ns < max(times)
