"""One process opens a session and later handles it: two epochs of one session, each with a writer of its own."""

from __future__ import annotations

from mpy6a.model import SessionId, Verb
from mpy6a.wire import decode_rows, unpack
from tests.unit.client.talk import Talk


def test_two_epochs_of_a_session_never_share_a_batch() -> None:
    """A batch holds one group of a session (PROTOCOL.md, "What a batch may hold"). Found by the simulator, seed 4: with
    two of them the pipe called the whole batch MALFORMED, and everything in it waited for ever."""
    talk = Talk()
    session = SessionId(1, 3, 100)
    opened, handled = talk.exchange.open(session, 1), talk.exchange.open(session, 2)
    other = talk.exchange.open(SessionId(1, 3, 200), 2)
    talk.exchange.submit(opened, Verb.APPEND, "by its opener", talk.now_ms, b"late")
    talk.exchange.submit(other, Verb.APPEND, "another session", talk.now_ms, b"x")
    talk.exchange.submit(handled, Verb.APPEND, "by its handler", talk.now_ms, b"right")
    talk.exchange.submit(handled, Verb.DELETE, "done", talk.now_ms)
    messages = [message for payload in talk.exchange.outgoing(talk.now_ms) for message in unpack(payload)]
    batches = [decode_rows(message.body) for message in messages]  # raises Malformed for a batch that is none
    assert [batch.groups.get((3, 100)) for batch in batches] == [(1, 1, 1), (2, 1, 2)]
    assert sum(len(batch.rows) for batch in batches) == 4
