"""Make a `State` of a checkpoint: what the pipe knew at its index, from where the log is replayed."""

from __future__ import annotations

from mpy6a.checkpoint.damage import DamagedRow
from mpy6a.checkpoint.reading import CheckpointReads
from mpy6a.entries import decode_policy
from mpy6a.errors import FormatVersion, Malformed
from mpy6a.state import LEVEL, State


def load_state(file: CheckpointReads, pipe: int, log: bytes = b"") -> State:
    """The state as of the file's index; a new one if no checkpoint was written yet.

    OPEN and REPEATING sessions come into memory, all others stay in the file, which becomes `sessions.source`.
    Raises DamagedLog (also for the checkpoint of another pipe, or of another `log` if one is named), FormatVersion.
    """
    state = State(pipe)
    header = file.header()
    if header is None:
        return state
    if header.pipe != pipe:
        raise DamagedRow(file.path, "checkpoint", 1, f"it is that of pipe {header.pipe}, not of pipe {pipe}")
    if log and header.log != log:
        raise DamagedRow(file.path, "checkpoint", 1, f"it belongs to another log ({header.log.hex()})")
    if header.level > LEVEL:
        raise FormatVersion(
            f"{file.path} has apply level {header.level} (release {header.release}), this release knows {LEVEL}: use"
            " a release that knows it"
        )
    terms, pauses, clients = file.terms(), file.pauses(), list(file.clients())
    for table, rows, said in (
        ("terms", len(terms), header.terms),
        ("pauses", len(pauses), header.pauses),
        ("clients", len(clients), header.clients),
    ):
        if rows != said:
            raise DamagedRow(file.path, table, None, f"{rows} rows, {said} were written")
    sessions = state.sessions
    sessions.term = header.term
    try:
        sessions.policy = decode_policy(header.policy)
    except Malformed as error:
        raise DamagedRow(file.path, "checkpoint", 1, f"its policy cannot be read: {error}") from None
    sessions.counts = file.counts()
    sessions.filed = file.filter()
    if sum(sessions.counts.values()) != len(sessions.filed):
        raise DamagedRow(file.path, "counts", None, "they are not as many as the filter names")
    sessions.source = file
    sessions.filed_below = header.position
    for session in file.held():
        if session.index not in sessions.filed:
            raise DamagedRow(file.path, "filter", session.index >> 16, f"it does not name row {session.index}")
        sessions.take_in(session)
    state.requests.restore(clients)
    state.restore(
        next_index=header.next_index,
        log_ms=header.log_ms,
        terms=terms,
        paused_kinds=pauses,
        clock_accepted_ms=header.clock_accepted_ms,
    )
    return state
