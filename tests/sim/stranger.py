"""Somebody who writes batches by hand: wrong writers, late copies, gaps, ids that never were. All well-formed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from mpy6a import wire
from mpy6a.messages import MessageType
from mpy6a.model import BY_POLICY, Extra, Op, Verb

from .network import Line
from .oracle.model import PARKED, REPEATING, STORED, Session

if TYPE_CHECKING:
    from .world import World

NUMBER: Final = 1
INCARNATION: Final = b"a stranger......"
HOUR_MS: Final = 3_600_000
_WRITES: Final = (Verb.APPEND, Verb.REPLACE, Verb.TOUCH)


class _Nowhere:
    """Answers are not waited for: the oracle sees what leaves the pipe."""

    reachable = False

    def arrived(self, line: Line, payload: bytes) -> None:
        """Not read."""

    def came_up(self, line: Line) -> None:
        """Never."""

    def went_down(self, line: Line) -> None:
        """Never."""


class Stranger:
    """One batch at a time, made from what the oracle knows."""

    def __init__(self, world: World, chance: Random) -> None:
        self._world = world
        self._chance = chance
        self._model = world.oracle.model
        self._ops: list[Op] = []
        self._extras: list[Extra] = []
        self._sessions: set[tuple[int, int]] = set()
        self._mark = 1

    def send(self) -> None:
        """Make a batch and have it arrive."""
        world, chance, model = self._world, self._chance, self._model
        if not world.pipe.alive:
            return
        mine = [session for session in model.sessions.values() if session.writer == INCARNATION]
        others = [session for session in model.sessions.values() if session.writer != INCARNATION]
        for session in chance.sample(mine, min(len(mine), 9)):
            self._group(session)
        for session in mine:
            if session.state == REPEATING:
                self._group(session)
        for session in chance.sample(others, min(len(others), chance.randrange(5))):
            if chance.random() < 0.3:
                self._ending(session.term, session.index, session.epoch)
            if session.state == REPEATING and not session.writer and chance.random() < 0.75:
                continue  # it would be let in
            self._group(session)
        running = [session for session in others if session.state == REPEATING]
        for session in chance.sample(running, min(len(running), chance.randrange(4))):
            self._ending(session.term, session.index, session.epoch)
            if session.id not in self._sessions and chance.random() < 0.4:
                self._sessions.add(session.id)
                self._writes(session.id, session.epoch + 1, 1, 2, odd=True)
            elif chance.random() < 0.5:
                self._group(session)
        for session in others:
            if session.state in (STORED, PARKED) and session.id not in self._sessions and chance.random() < 0.05:
                self._sessions.add(session.id)
                self._writes(session.id, session.epoch + chance.randrange(2), 1, 2, odd=True)
        for _ in range(chance.randrange(8)):
            self._gone()
        for _ in range(chance.randrange(6)):
            self._no_such_id()
        self._news()
        sent_ms = model.log_ms
        old = chance.random()
        if old < 0.12:
            sent_ms -= chance.choice((HOUR_MS - 5_000, HOUR_MS, 24 * HOUR_MS + 1))
        if not self._ops:
            return
        world.stranger_batches += 1
        body = wire.encode_batch_body(world.stranger_batches, self._mark, max(0, sent_ms), self._ops, self._extras)
        principal = 667 if chance.random() < 0.3 else 0
        payload = wire.pack(
            MessageType.BATCH, body, incarnation=INCARNATION, pipe=NUMBER, principal=principal
        )
        line = Line(world.network, "stranger", _Nowhere(), world.pipe, queues=False)
        world.network.lines.remove(line)
        world.pipe.arrived(line, payload)
        if chance.random() < 0.4:
            world.copies.append(payload)
        if chance.random() < 0.3:
            world.agenda.at(world.agenda.now_ms + chance.choice((1, 60)), world.pipe.arrived, line, payload)

    def _group(self, session: Session) -> None:
        """A group on a live session: right, late, early, or of another epoch."""
        chance = self._chance
        key = session.id
        if key in self._sessions:
            return
        self._sessions.add(key)
        epoch, seq = session.epoch, session.seq
        odd = chance.random()
        if session.state == REPEATING and session.writer == INCARNATION:
            odd = max(odd, chance.random())  # it is here for a moment only: make something of it
        if odd < 0.1:
            epoch += 1
        elif odd < 0.2:
            epoch = max(1, epoch - 1)
        if odd < 0.55:
            first = seq + 1
        elif odd < 0.65 and session.last is not None:
            first = session.last[2]
        else:
            first = max(1, seq + chance.choice((0, 0, 2, 5, -3)))
        self._writes(key, epoch, first, chance.choice((1, 2, 3)), odd=first != seq + 1)

    def _writes(self, key: tuple[int, int], epoch: int, first: int, count: int, *, odd: bool = False) -> None:
        """A group's operations; `odd`: they will not be applied, so any verb will do."""
        chance = self._chance
        for place in range(count):
            verb = chance.choice(_WRITES)
            if chance.random() < (0.5 if odd else 0.15):
                verb = chance.choice((Verb.DELETE, Verb.STORE))
            record = None
            if verb in (Verb.APPEND, Verb.REPLACE):
                record = self._world.record(chance) if chance.random() < 0.9 else b"x" * 1_300
            argument = chance.choice((0, 400, BY_POLICY)) if verb is Verb.STORE else 0
            self._ops.append(Op(verb, key[1], key[0], epoch, first + place, argument, record))

    def _ending(self, term: int, index: int, epoch: int) -> None:
        chance = self._chance
        verb = chance.choice((Verb.FAIL, Verb.RELEASE, Verb.PARK))
        epoch = max(1, epoch + chance.choice((0, 0, 0, 1, -1)))
        argument = chance.choice((0, BY_POLICY)) if verb is Verb.RELEASE else 0
        self._ops.append(Op(verb, index, term, epoch, 0, argument, b"says a stranger"))

    def _gone(self) -> None:
        """A session that is finished, or an index between."""
        chance, model = self._chance, self._model
        traces = list(model.traces)
        if traces and chance.random() < 0.6:
            key = chance.choice(traces[-40:])
            epoch = max(1, model.traces[key][0] + chance.choice((0, 0, -1, 1)))
        else:
            term = chance.choice(list(model.first_of_term) or [1])
            later = [first for other, first in model.first_of_term.items() if other > term]
            after = min(later, default=model.next_index)
            key = (term, chance.randrange(model.first_of_term.get(term, 1), after)) if after > 1 else (1, 1)
            epoch = chance.choice((1, 1, 1, 2))
        if key in self._sessions or key in model.sessions:
            return
        self._sessions.add(key)
        if chance.random() < 0.7:
            self._writes(key, epoch, chance.choice((1, 2, 7)), chance.choice((1, 2, 4)), odd=True)
        else:
            self._ending(*key, epoch)

    def _no_such_id(self) -> None:
        chance, model = self._chance, self._model
        key = chance.choice(
            (
                (model.term, model.next_index + 100_000),
                (model.term + 1, max(1, model.next_index - 1)),
                (model.term + 40, 3),
                (max(1, model.term - 1), model.next_index + 5),
                (1_000_000, 9),
            )
        )
        if key in self._sessions:
            return
        self._sessions.add(key)
        if chance.random() < 0.6:
            self._writes(key, chance.choice((1, 2)), 1, 1, odd=True)
        else:
            self._ending(*key, 1)

    def _news(self) -> None:
        chance, world, model = self._chance, self._world, self._model
        client = model.clients.get(INCARNATION)
        highest = world.stranger_requests
        self._mark = max(1, highest - chance.choice((0, 0, 2, 6)))
        request = max(self._mark, highest + chance.choice((1, 1, 1, 0, -1, -3)))
        if client is not None and chance.random() < 0.3:
            self._mark = max(1, client.mark - 4)
            request = max(self._mark, client.mark - chance.randrange(1, 5))
        for _ in range(chance.randrange(4)):
            kind = chance.choice((1, 2, 2, 3, 4, 77))
            record = world.record(chance) if chance.random() < 0.9 else b"y" * 1_300
            if chance.random() < 0.3:
                self._extras.append(Extra(len(self._ops), key=f"key {chance.randrange(6)}"))
            self._ops.append(Op(Verb.NEW, request, argument=kind, record=record))
            world.stranger_requests = max(world.stranger_requests, request)
            request += 1


__all__ = ["INCARNATION", "Stranger"]
