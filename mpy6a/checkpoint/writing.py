"""Write into a checkpoint what a `State` changed since the last one, and let it forget what the file holds now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.entries import encode_policy
from mpy6a.limits import FINISHED_TRACE_MS, OUTCOME_KEPT_MS
from mpy6a.liveset import SHARD_BITS, LiveSet
from mpy6a.session import PARKED, STORED, Session
from mpy6a.state import PLAIN_LEVEL, State
from mpy6a.version import __version__


class Written(NamedTuple):
    """What one checkpoint came to. It is durable."""

    next_index: int
    put: int  # sessions
    deleted: int
    dropped: int  # sessions that left memory
    settled: bool  # SQLite's journal is empty; else a reader or a full disk stood in the way


class CheckpointWriter:
    """Keeps a file in step with a state. Own both from one thread; apply frames to the state between two writes."""

    def __init__(
        self,
        file: CheckpointFile,
        state: State,
        records: Callable[[Session], list[bytes]],
        log: bytes,
    ) -> None:
        """`state` is as `load_state` made it of `file`; `records` reads the bytes behind a session's references; `log`
        is the uuid of the log that the state comes from."""
        self._file = file
        self._state = state
        self._records = records
        self._log = log
        header = file.header()
        self._next_index = header.next_index if header else 0  # of the last checkpoint: what changed since is put
        self._log_ms = header.log_ms if header else 0
        sessions = state.sessions
        sessions.rows = file.filter()
        sessions.source = file

    @property
    def next_index(self) -> int:
        """Everything below it is in the file."""
        return self._next_index

    def write(self, position: int, wall_ms: int, room_bytes: int = 1 << 62) -> Written:
        """One checkpoint, as of the state's index; `position` in the log is that behind the last frame applied, and
        `room_bytes` what the disk has free.

        Durable when it returns. Then STORED and PARKED sessions and the traces have left the state's memory. Raises
        DiskFull with file and state as they were: try again later. After any other error both are to be dropped.
        """
        state, sessions, file = self._state, self._state.sessions, self._file
        rows = sessions.rows
        assert rows is not None, "the writer set it"
        gone = sessions.gone[:]
        changed = [session for session in sessions.in_memory() if session.change >= self._next_index]
        added = [session.index for session in changed if session.index not in rows]
        for index in added:
            rows.add(index)
        try:
            with file.transaction():
                file.delete_sessions(gone)
                file.put_sessions((session, self._records(session)) for session in changed)
                self._put_the_rest(rows, {index >> SHARD_BITS for index in (*gone, *added)}, position, wall_ms)
                file.shrink(room_bytes)
        except BaseException:
            for index in added:
                rows.discard(index)
            raise
        self._next_index, self._log_ms = state.next_index, state.log_ms
        dropped = self._forget(position)
        return Written(self._next_index, len(changed), len(gone), dropped, file.settle())

    def _put_the_rest(self, rows: LiveSet, shards: set[int], position: int, wall_ms: int) -> None:
        state, sessions, file = self._state, self._state.sessions, self._file
        file.put_filter((shard, rows.bitmap(shard)) for shard in sorted(shards))
        file.put_counts(sessions.counts)
        file.put_clients(state.requests.heard_since(self._log_ms))
        file.forget_clients(state.log_ms - OUTCOME_KEPT_MS)
        file.put_traces(self._new_traces())
        file.forget_traces(state.log_ms - FINISHED_TRACE_MS)
        file.put_terms(state.terms())
        file.put_pauses(state.paused_kinds)
        file.put_kinds({number: kind.name for number, kind in sessions.policy.kinds.items()})
        file.put_header(
            CheckpointHeader(
                pipe=state.pipe,
                next_index=state.next_index,
                segment=position >> 32,
                offset=position & 0xFFFFFFFF,
                term=state.term,
                log_ms=state.log_ms,
                wall_ms=wall_ms,
                level=PLAIN_LEVEL,
                clock_accepted_ms=state.clock_accepted_ms,
                terms=file.count("terms"),
                pauses=file.count("pauses"),
                clients=file.count("clients"),
                log=self._log,
                policy=encode_policy(sessions.policy),
                release=__version__,
            )
        )

    def _new_traces(self) -> Iterator[tuple[int, int, int, int]]:
        for term, index, epoch, log_ms, change in self._state.sessions.traces():
            if change >= self._next_index:
                yield term, index, epoch, log_ms

    def _forget(self, position: int) -> int:
        """What the file holds now leaves memory: sessions that wait, and traces."""
        sessions = self._state.sessions
        waiting = [session for session in sessions.in_memory() if session.state in (STORED, PARKED)]
        for session in waiting:
            sessions.drop(session)
        sessions.gone.clear()
        sessions.loaded.clear()
        sessions.drop_traces(self._next_index)
        sessions.filed_below = position
        return len(waiting)
