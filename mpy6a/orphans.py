"""Parks sessions whose kind is in no route, where the routes say `orphans: park`. In slices; without sockets.

Only what is STORED: a handler that runs may finish, a writer may go on writing, and both are found here when they have
not. What an operator has paused stays as it is. Source: semantics, "Failure matrix", "kind leaves the routes".
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Final

from mpy6a import limits
from mpy6a.model import Cause, Proposal, ProposalVerb
from mpy6a.pipe import Pipe
from mpy6a.session import STORED, Session

_START: Final = (-1, -1)
_EVER_MS: Final = 1 << 62


class Orphans:
    """One pipe's. Call `turn` after every turn of the loop."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._look_ms = 0  # when the next pass may begin
        self._shards: deque[int] | None = None  # of memory, still to be looked at; None: no pass
        self._at_hand: array[int] = array("Q")
        self._filed: deque[int] = deque()  # kinds still to be looked for in the checkpoint's file
        self._after = _START

    def turn(self, now_ms: int) -> None:
        """Propose some parks; after a pass over everything the next one comes in ORPHANS_LOOK_MS, if any is left."""
        pipe = self._pipe
        if pipe.is_opening:
            return  # what the last term's policy said no longer counts
        if pipe.state.policy.orphans != "park" or pipe.disk_spent or pipe.behind:
            self._shards = None
            return
        if self._shards is None:
            if now_ms < self._look_ms:
                return
            self._look_ms = now_ms + limits.ORPHANS_LOOK_MS
            waiting = self.stored()
            if not waiting:
                return
            self._shards = deque(sorted(pipe.state.sessions.shards))
            self._filed = deque(waiting if pipe.state.sessions.source is not None else ())
            self._after = _START
        found = self._in_memory(self._shards) if self._shards or self._at_hand else self._in_file()
        proposals = [proposal for session in found if (proposal := self._park(session)) is not None]
        if proposals:
            pipe.propose(proposals, now_ms)
        if not (self._shards or self._at_hand or self._filed):
            self._shards = None
            self._look_ms = now_ms + limits.ORPHANS_LOOK_MS

    def deadline(self, now_ms: int) -> int | None:
        """When `turn` has to be called next, whatever comes in before."""
        if self._pipe.state.policy.orphans != "park" or self._pipe.disk_spent or self._pipe.behind:
            return None
        return now_ms if self._shards is not None else max(now_ms, self._look_ms)

    def stored(self) -> list[int]:
        """Numbers of kinds that are in no route and have STORED sessions."""
        state = self._pipe.state
        counts, kinds = state.sessions.counts, state.policy.kinds
        return sorted(n >> 3 for n, live in counts.items() if live and n & 7 == STORED and n >> 3 not in kinds)

    def _in_memory(self, shards: deque[int]) -> list[Session]:
        sessions, kinds = self._pipe.state.sessions, self._pipe.state.policy.kinds
        if not self._at_hand:
            self._at_hand = array("Q", sessions.shards.get(shards.popleft(), ()))
        some, self._at_hand = self._at_hand[: limits.ORPHANS_LOOKED], self._at_hand[limits.ORPHANS_LOOKED :]
        return [session for session in map(sessions.at, some) if session is not None and session.kind not in kinds]

    def _in_file(self) -> list[Session]:
        """The next ones of a kind in its order of dispatch: they come into memory, where their change is to be."""
        sessions = self._pipe.state.sessions
        if not self._filed or sessions.source is None:
            self._filed.clear()
            return []
        kind = self._filed[0]
        rows = [] if kind in self._pipe.state.policy.kinds else sessions.source.due(
            kind, self._after, _EVER_MS, limits.ORPHANS_FILED
        )
        if len(rows) < limits.ORPHANS_FILED:
            self._filed.popleft()
            self._after = _START
        else:
            self._after = (rows[-1].due_ms, rows[-1].stored_index)
        found = [session for session in rows if session.index in sessions.filed]
        for session in found:
            sessions.take_in(session)
            sessions.loaded.append(session)
        return found

    def _park(self, session: Session) -> Proposal | None:
        delivery = session.delivery
        if session.state != STORED or session.index in self._pipe.due.proposed:
            return None
        if delivery is not None and delivery.paused:
            return None
        reason = f"kind {session.kind} is in no route any more"
        decided_on = session.term, session.index, session.epoch, session.change
        return Proposal(ProposalVerb.PARK, *decided_on, Cause.ORPHAN_KIND, reason=reason)
