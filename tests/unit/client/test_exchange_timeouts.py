"""What the exchange bounds: how long a caller waits, how large a record is, how much waits at all."""

from __future__ import annotations

import pytest

from mpy6a import errors, limits
from mpy6a.errors import Code
from mpy6a.messages import Ack
from mpy6a.model import SessionId, Verb
from tests.unit.client.talk import Talk


def test_a_timed_out_operation_keeps_its_place() -> None:
    """The caller hears OutcomeUnknown, once; the operation is still resent, and later ones come behind it."""
    talk = Talk(timeout_ms=1_500)
    writer = talk.open()
    talk.pipe.lose_acks = 1
    talk.call(writer, Verb.APPEND, "a", b"a")
    talk.turn()
    talk.now_ms += 1_000
    talk.call(writer, Verb.APPEND, "b", b"b")
    talk.pass_ms(499)
    assert "a" not in talk.answers
    talk.pass_ms(1)
    assert isinstance(talk.answers["a"], errors.OutcomeUnknown)
    assert "b" not in talk.answers
    talk.pass_ms(500)
    assert talk.done("a", "b")
    assert talk.pipe.sessions[3, 100].records == [b"a", b"b"]
    assert talk.exchange.timeout_deadline > talk.now_ms + 10**9


def test_a_waiting_operation_times_out_too_and_once() -> None:
    """An operation that waits behind an unanswered group is told OutcomeUnknown, and done later all the same."""
    talk = Talk(timeout_ms=100)
    writer = talk.open()
    talk.pipe.ignore_batches = 1
    talk.call(writer, Verb.APPEND, "a", b"a")
    talk.turn()
    talk.call(writer, Verb.APPEND, "b", b"b")
    talk.pass_ms(100)
    assert isinstance(talk.answers["b"], errors.OutcomeUnknown)
    assert talk.exchange.expire(talk.now_ms + 10_000) == []
    talk.pass_ms(limits.RESEND_MS)
    assert talk.done("a", "b")


def test_a_new_that_was_never_sent_is_withdrawn() -> None:
    """Its timeout says that nothing was done, and nothing is."""
    talk = Talk(timeout_ms=100)
    talk.pipe.answer_with.append(Ack(0, code=Code.BUSY, retry_after_ms=5_000))
    talk.exchange.submit_new(1, None, "sent", talk.now_ms)
    talk.turn()
    talk.exchange.submit_new(1, b"x", "held", talk.now_ms)
    talk.pass_ms(100)
    assert isinstance(talk.answers["sent"], errors.OutcomeUnknown)
    assert isinstance(talk.answers["held"], errors.NoPipe)
    talk.pass_ms(5_000)
    assert talk.session("sent") == SessionId(1, 3, 100)
    assert list(talk.pipe.sessions) == [(3, 100)]
    assert talk.exchange.unanswered == talk.exchange.unanswered_bytes == 0


def test_too_large_is_checked_before_anything_is_sent() -> None:
    """The session is untouched and can still be deleted."""
    talk = Talk()
    writer = talk.open()
    with pytest.raises(errors.TooLarge, match="1048577 bytes; at most 1048576"):
        talk.call(writer, Verb.APPEND, "a", bytes(limits.RECORD_BYTES_MAX + 1))
    with pytest.raises(errors.TooLarge):
        talk.exchange.submit_new(1, bytes(limits.RECORD_BYTES_MAX + 1), "n", talk.now_ms)
    talk.call(writer, Verb.DELETE, "delete")
    talk.turn()
    assert talk.done("delete")


def test_the_pipes_limits_hold_where_they_are_smaller() -> None:
    """Limits told in a welcome bound records and batches; absurd ones do not stop the exchange."""
    talk = Talk()
    talk.exchange.configure(talk.pipe.limits._replace(record_bytes=10, message_operations=2))
    writer = talk.open()
    with pytest.raises(errors.TooLarge):
        talk.call(writer, Verb.APPEND, "a", bytes(11))
    for number in range(5):
        talk.call(writer, Verb.APPEND, f"{number}", b"x")
    talk.turn()
    assert [len(batch.ops) for _, batch in talk.pipe.batches[1:]] == [2, 2, 1]
    talk.exchange.configure(talk.pipe.limits._replace(message_bytes=0, message_operations=0))
    talk.call(writer, Verb.APPEND, "last", b"x")
    talk.turn()
    assert talk.done("last")


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound of operations or bytes calls raise Busy; what ends sessions is still taken."""
    monkeypatch.setattr("mpy6a.client.exchange._OPERATIONS_MAX", 2)
    talk = Talk()
    writer = talk.open()
    talk.call(writer, Verb.TOUCH, "a")
    talk.call(writer, Verb.TOUCH, "b")
    with pytest.raises(errors.Busy):
        talk.call(writer, Verb.TOUCH, "c")
    with pytest.raises(errors.Busy):
        talk.exchange.submit_new(1, None, "n", talk.now_ms)
    talk.call(writer, Verb.DELETE, "delete")
    talk.turn()
    assert talk.done("a", "b", "delete")
    monkeypatch.setattr("mpy6a.client.exchange._BYTES_MAX", 10)
    with pytest.raises(errors.Busy):
        talk.exchange.submit_new(1, bytes(11), "n", talk.now_ms)


def test_an_end_of_the_conversation_completes_everything() -> None:
    """Whatever waits or is in flight gets the error, and nothing is counted as waiting any more."""
    talk = Talk()
    writer, other = talk.open("n1"), talk.open("n2")
    talk.call(writer, Verb.APPEND, "in flight", b"a")
    talk.exchange.submit_new(1, None, "new in flight", talk.now_ms)
    talk.send()
    talk.call(writer, Verb.APPEND, "behind", b"b")
    talk.call(other, Verb.APPEND, "ready", b"c")
    talk.exchange.submit_new(1, None, "new", talk.now_ms)
    talk.exchange.submit_ending(SessionId(1, 3, 100), 1, Verb.FAIL, "ending", talk.now_ms)
    error = errors.VersionMismatch("no common version")
    done = dict(talk.exchange.fail_all(error))
    assert done.keys() == {"in flight", "new in flight", "behind", "ready", "new", "ending"}
    assert isinstance(done["behind"], errors.AfterRefusal)
    assert talk.exchange.unanswered == talk.exchange.unanswered_bytes == 0
    assert talk.exchange.deadline() is None
