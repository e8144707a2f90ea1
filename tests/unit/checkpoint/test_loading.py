"""A start from a checkpoint: who writes or is pushed to comes into memory, whose file it is not is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.errors import DamagedLog, FormatVersion
from mpy6a.session import OPEN, REPEATING

from .samples import LOG, PIPE, POLICY, Memory, fill, header, slots, some_rows


@pytest.fixture
def file() -> Iterator[CheckpointFile]:
    """A checkpoint with something in every table."""
    with closing(Memory()) as memory, closing(CheckpointFile.open("", write=True, connect=memory)) as found:
        fill(found, some_rows())
        yield found


def test_a_state_is_what_the_file_says(file: CheckpointFile) -> None:
    """Everything `apply` reads; sessions that wait stay in the file and are counted all the same."""
    rows = some_rows()
    state = load_state(file, PIPE, LOG)
    sessions = state.sessions
    assert (state.pipe, state.term, state.next_index, state.log_ms, state.clock_accepted_ms) == (PIPE, 3, 100, 5_000, 7)
    assert state.policy == POLICY
    assert state.paused_kinds == {2: (0, "operator", "too loud")}
    assert state.terms() == [(1, 1), (3, 10)]
    assert state.requests.kept == 4
    assert [session.state for session in sessions.in_memory()] == [OPEN, REPEATING]
    assert (sessions.owned(b"W" * 16), sessions.held(b"T" * 16)) == ([70], [75])
    assert (sessions.live(), len(sessions.filed)) == (12, 10)
    assert sessions.counts == file.counts()
    assert (sessions.source, sessions.filed_below) == (file, 1 << 32 | 9_000)
    assert [slots(session) for session in sessions.all()] == [slots(session) for session, _ in rows]
    found = sessions.with_key(1, "a")
    assert found is not None
    assert found.index == 25


def test_no_checkpoint_yet_is_a_new_state() -> None:
    """The log is then applied from its first index on."""
    with closing(Memory()) as memory, closing(CheckpointFile.open("", write=True, connect=memory)) as file:
        state = load_state(file, PIPE)
        assert (state.next_index, state.sessions.source, state.sessions.live()) == (1, None, 0)


def test_the_checkpoint_of_another_pipe_or_log_is_refused(file: CheckpointFile) -> None:
    """A file that was copied here does not pass for this pipe's."""
    with pytest.raises(DamagedLog, match="it is that of pipe 7, not of pipe 8"):
        load_state(file, 8)
    with pytest.raises(DamagedLog, match="it belongs to another log"):
        load_state(file, PIPE, bytes(16))


@pytest.mark.parametrize(
    ("facts", "error", "what"),
    [
        ({"level": 3, "release": "9.0"}, FormatVersion, r"has apply level 3 \(release 9.0\), this release knows 2"),
        ({"terms": 3}, DamagedLog, "table terms: 2 rows, 3 were written"),
        ({"pauses": 0}, DamagedLog, "table pauses: 1 rows, 0 were written"),
        ({"clients": 1}, DamagedLog, "table clients: 2 rows, 1 were written"),
        ({"policy": b"no message"}, DamagedLog, "its policy cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(
    file: CheckpointFile, facts: dict[str, Any], error: type[Exception], what: str
) -> None:
    """Meant by a newer release, or not what was written."""
    with file.transaction():
        file.put_header(header(**facts))
    with pytest.raises(error, match=what):
        load_state(file, PIPE)


def test_sessions_that_do_not_add_up_are_refused(file: CheckpointFile) -> None:
    """A filter that names too few would make sessions vanish."""
    with file.transaction():
        file.put_counts({**file.counts(), 99 << 3 | 2: 1})
    with pytest.raises(DamagedLog, match="table counts: they are not as many as the filter names"):
        load_state(file, PIPE)
    with file.transaction():
        file.put_filter([(0, b"")])
        file.put_counts({2 << 3 | 2: 1})
    with pytest.raises(DamagedLog, match="table filter, row 0: it does not name row 70"):
        load_state(file, PIPE)
