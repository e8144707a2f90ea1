"""The conversation with one pipe: order, groups, batches, resends, refusals and timeouts."""

from __future__ import annotations

import pytest

from mpy6a import errors, limits, wire
from mpy6a.client.writer import Decision
from mpy6a.errors import Code
from mpy6a.messages import Ack, Batch, Error, MessageType
from mpy6a.model import BY_POLICY, Extra, Op, SessionId, Verb
from tests.unit.client.talk import Talk


def test_a_lifecycle_is_done_in_order_and_durable() -> None:
    """New, appends and a delete are applied as called; the New completes with the session's id."""
    talk = Talk()
    writer = talk.open(first=b"first")
    assert talk.answers["new"] == SessionId(1, 3, 100)
    for number in range(3):
        talk.call(writer, Verb.APPEND, f"append {number}", b"%d" % number)
    talk.call(writer, Verb.DELETE, "delete")
    talk.turn()
    assert talk.done("append 0", "append 1", "append 2", "delete")
    session = talk.pipe.sessions[3, 100]
    assert session.records == [b"first", b"0", b"1", b"2"]
    assert session.state == "GONE"
    assert talk.exchange.unanswered == talk.exchange.unanswered_bytes == 0
    assert not talk.pipe.violations


def test_what_waits_is_one_batch() -> None:
    """Operations of many sessions that are called before a send leave in one message."""
    talk = Talk()
    writers = [talk.open(f"new {number}") for number in range(20)]
    before = len(talk.pipe.batches)
    for number, writer in enumerate(writers):
        talk.call(writer, Verb.APPEND, f"append {number}", b"x")
    talk.exchange.submit_new(2, None, "one more", talk.now_ms)
    talk.turn()
    assert len(talk.pipe.batches) == before + 1
    assert len(talk.pipe.batches[-1][1].ops) == 21


def test_a_batch_has_at_most_its_operations_and_its_bytes() -> None:
    """More than a message takes leaves in several, none over a limit, all in flight at once."""
    talk = Talk()
    writers = [talk.open(f"new {number}") for number in range(9)]
    for number in range(limits.BATCH_OPERATIONS + 1):
        talk.exchange.submit_new(1, None, f"small {number}", talk.now_ms)
    for number, writer in enumerate(writers):
        talk.call(writer, Verb.APPEND, f"big {number}", bytes(limits.RECORD_BYTES_MAX))
    answers = talk.send()
    assert [len(batch.ops) for _, batch in talk.pipe.batches[9:]] == [3, 3, 3 + limits.BATCH_OPERATIONS - 3, 4]
    assert max(map(len, talk.sent)) <= limits.MESSAGE_BYTES_MAX
    talk.deliver(answers)
    assert talk.done(*(f"big {number}" for number in range(9)))
    assert not talk.pipe.violations


def test_one_group_of_a_session_is_in_flight() -> None:
    """What is called while a group is in flight waits for its answer, and then leaves as the next group."""
    talk = Talk()
    writer = talk.open()
    talk.call(writer, Verb.APPEND, "a", b"a")
    first = talk.send()
    talk.call(writer, Verb.APPEND, "b", b"b")
    talk.call(writer, Verb.APPEND, "c", b"c")
    assert talk.send() == []
    talk.deliver(first)
    talk.turn()
    assert talk.done("a", "b", "c")
    assert [(op.seq, op.record) for op in talk.pipe.batches[-1][1].ops] == [(2, b"b"), (3, b"c")]
    assert talk.pipe.sessions[3, 100].records == [b"a", b"b", b"c"]


def test_an_unanswered_batch_is_resent_as_it_was() -> None:
    """A resend has the same bytes, whatever was called meanwhile, and is answered once."""
    talk = Talk()
    writer = talk.open()
    talk.call(writer, Verb.APPEND, "a", b"a")
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    talk.pipe.lose_acks = 1
    talk.turn()
    talk.call(writer, Verb.APPEND, "b", b"b")
    assert talk.exchange.deadline() == talk.now_ms + limits.RESEND_MS
    talk.pass_ms(limits.RESEND_MS - 1)
    assert "a" not in talk.answers
    talk.pass_ms(1)
    assert talk.done("a", "b")
    assert talk.answers["n"] == SessionId(1, 3, 102)
    assert talk.sent[-2] == talk.sent[-3]
    assert talk.pipe.sessions[3, 100].records == [b"a", b"b"]
    assert len(talk.pipe.sessions) == 2
    assert not talk.pipe.violations


def test_resends_come_less_and_less_often() -> None:
    """The time between two resends doubles up to a bound."""
    talk = Talk()
    talk.pipe.ignore_batches = 99
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    talk.turn()
    waits: list[int] = []
    for _ in range(6):
        due = talk.exchange.deadline()
        assert due is not None
        waits.append(due - talk.now_ms)
        talk.pass_ms(due - talk.now_ms)
    assert waits == [2_000, 2_000, 4_000, 8_000, 15_000, 15_000]
    assert len(talk.pipe.batches) == 7


def test_a_new_connection_resends_at_once() -> None:
    """After a reconnect everything unanswered is sent again, in its order."""
    talk = Talk()
    talk.pipe.ignore_batches = 2
    talk.exchange.submit_new(1, None, "a", talk.now_ms)
    talk.turn()
    talk.exchange.submit_new(1, None, "b", talk.now_ms)
    talk.turn()
    talk.exchange.resend(talk.now_ms)
    talk.turn()
    assert [batch.number for _, batch in talk.pipe.batches] == [1, 2, 1, 2]
    assert {"a", "b"} <= talk.answers.keys()


def test_the_answer_to_a_copy_changes_nothing() -> None:
    """Two acks of one batch complete its operations once."""
    talk = Talk()
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    early = talk.send()
    talk.exchange.resend(talk.now_ms)
    late = talk.send()
    talk.deliver(late + early)
    assert talk.order == ["n"]
    assert talk.exchange.late_acks == 1
    assert talk.answers["n"] == SessionId(1, 3, 100)  # from the resent New's result, not by position


def test_requests_rise_and_the_mark_is_the_lowest_unanswered() -> None:
    """Every batch names the lowest request number that has no answer, also when later ones are answered."""
    talk = Talk()
    talk.exchange.submit_new(1, None, "a", talk.now_ms)
    talk.exchange.submit_new(1, None, "b", talk.now_ms)
    first = talk.send()
    talk.exchange.submit_new(1, None, "c", talk.now_ms)
    talk.turn()
    talk.exchange.submit_new(1, None, "d", talk.now_ms)
    talk.turn()
    talk.deliver(first)
    talk.exchange.submit_new(1, None, "e", talk.now_ms)
    talk.turn()
    requests = [[op.index for op in batch.ops] for _, batch in talk.pipe.batches]
    assert requests == [[1, 2], [3], [4], [5]]
    assert [batch.mark for _, batch in talk.pipe.batches] == [1, 1, 1, 5]


def test_first_sending_is_the_log_time_heard_then() -> None:
    """A batch names the log time that was heard when it was packed; its resends do not renew it."""
    talk = Talk()
    heard = talk.exchange.log_ms
    talk.pipe.ignore_batches = 1
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    talk.turn()
    talk.pipe.log_ms += 5_000
    talk.pass_ms(limits.RESEND_MS)
    assert [batch.first_sent_ms for _, batch in talk.pipe.batches] == [heard, heard]
    assert talk.exchange.log_ms == talk.pipe.log_ms
    talk.open("later")
    assert talk.pipe.batches[-1][1].first_sent_ms == heard + 5_001  # the ack's own frame moved it by one


def test_a_writer_that_heard_long_ago_names_that_time() -> None:
    """Somebody else may have finished its session since, more than a day ago, and the trace of that be gone: the pipe
    must not take a group of such a writer for one sent just now, and answer OK for what was never applied. Found by the
    simulator. A New keeps the time of its own sending, and goes by itself."""
    talk = Talk()
    writer = talk.open("opened")
    talk.call(writer, Verb.APPEND, "before", b"x")
    talk.turn()
    heard = talk.exchange.log_ms
    talk.pipe.log_ms += limits.FINISHED_TRACE_MS
    talk.pass_ms(1)
    talk.call(writer, Verb.DELETE, "after the night")
    talk.exchange.submit_new(1, None, "new", talk.now_ms)
    talk.turn()
    (_, late), (_, fresh) = talk.pipe.batches[-2:]
    assert (late.first_sent_ms, [op.verb for op in late.ops]) == (heard, [Verb.DELETE])
    assert (fresh.first_sent_ms, [op.verb for op in fresh.ops]) == (heard + limits.FINISHED_TRACE_MS, [Verb.NEW])


def test_a_writer_that_heard_long_ago_ages_nobody_beside_it() -> None:
    """A session of a second ago whose Delete stood in one batch with it would be answered OUTCOME_UNKNOWN when its ack
    is lost. Of a pushed epoch the pipe does not ask how old it is: it shares its batch with all."""
    talk = Talk()
    old = [talk.open("old"), talk.open("older")]
    pushed = talk.exchange.open(talk.session("old"), 2)
    heard = talk.exchange.log_ms
    talk.pipe.log_ms += limits.FINISHED_TRACE_MS
    talk.pass_ms(1)
    fresh = talk.open("fresh")
    for number, writer in enumerate([old[0], fresh, old[1]]):
        talk.call(writer, Verb.TOUCH, f"touch {number}")
    writers = {writer.index: number for number, writer in enumerate([old[0], fresh, old[1]])}
    before = len(talk.pipe.batches)
    talk.turn()
    sent = [([writers[op.index] for op in batch.ops], batch.first_sent_ms) for _, batch in talk.pipe.batches[before:]]
    assert [who for who, _ in sent] == [[0], [1], [2]]
    assert sent[0][1] <= heard
    assert sent[1][1] > heard
    assert sent[2][1] <= heard
    talk.call(pushed, Verb.TOUCH, "pushed")
    talk.call(fresh, Verb.TOUCH, "beside it")
    talk.turn()
    assert talk.pipe.batches[-1][1].first_sent_ms > heard
    assert len(talk.pipe.batches[-1][1].ops) == 2


def test_a_writer_that_heard_just_now_shares_its_batch_with_news() -> None:
    """The earliest time at which one of them heard counts for all."""
    talk = Talk()
    writer = talk.open("opened")
    heard = talk.exchange.log_ms
    talk.pipe.log_ms += limits.LOG_TIME_FRESH_MS
    talk.pass_ms(1)
    talk.call(writer, Verb.APPEND, "soon after", b"x")
    talk.exchange.submit_new(1, None, "new", talk.now_ms)
    talk.turn()
    _, last = talk.pipe.batches[-1]
    assert (last.first_sent_ms, len(last.ops)) == (heard, 2)


def test_an_old_log_time_is_heard_anew_before_it_is_named() -> None:
    """A client that slept does not name a first sending of long ago: nothing is packed until it has asked."""
    talk = Talk()
    talk.now_ms += limits.LOG_TIME_FRESH_MS + 1
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    assert talk.send() == []
    assert talk.exchange.wants_log_time(talk.now_ms)
    talk.exchange.heard(talk.pipe.log_ms, talk.now_ms)
    assert not talk.exchange.wants_log_time(talk.now_ms)
    talk.turn()
    assert talk.answers["n"] == SessionId(1, 3, 100)


def test_after_a_refusal_nothing_called_before_it_was_known_is_applied() -> None:
    """The rest of the group comes back from the pipe, what waits fails here, and what is called later is sent."""
    talk = Talk()
    writer = talk.open()
    talk.pipe.refuse = lambda op: Code.DISK_LOW if op.record == b"no" else 0
    talk.call(writer, Verb.APPEND, "a", b"a")
    talk.call(writer, Verb.APPEND, "refused", b"no")
    talk.call(writer, Verb.APPEND, "in the group", b"b")
    answers = talk.send()
    talk.call(writer, Verb.APPEND, "waits", b"c")
    talk.call(writer, Verb.DELETE, "decision")
    talk.deliver(answers)
    talk.turn()
    assert talk.done("a")
    assert isinstance(talk.answers["refused"], errors.DiskLow)
    for token in ("in the group", "waits", "decision"):
        answer = talk.answers[token]
        assert isinstance(answer, errors.AfterRefusal), token
        assert answer.__cause__ is talk.answers["refused"]
    assert talk.exchange.unanswered == talk.exchange.unanswered_bytes == 0
    assert writer.decision is Decision.NONE
    assert writer.refusal == ("refused", talk.answers["refused"])
    talk.call(writer, Verb.DELETE, "delete")
    talk.turn()
    assert talk.done("delete")
    assert talk.pipe.sessions[3, 100].records == [b"a"]
    assert len(talk.pipe.batches) == 3


@pytest.mark.parametrize("code", [Code.FENCED, Code.GONE, Code.SEQ_GAP, Code.STALE_COPY, Code.LOST])
def test_a_final_verdict_ends_the_writer(code: Code) -> None:
    """After FENCED and its like nothing is sent for the session any more; every later call raises the verdict."""
    talk = Talk()
    writer = talk.open()
    talk.pipe.refuse = lambda op: code
    talk.call(writer, Verb.APPEND, "a", b"a")
    talk.turn()
    error = errors.BY_CODE[code]
    assert isinstance(talk.answers["a"], error)
    assert "session 1.3.100" in str(talk.answers["a"])
    with pytest.raises(error):
        talk.call(writer, Verb.STORE, "b", argument=0)
    assert talk.send() == []


def test_a_decided_session_is_closed() -> None:
    """After Delete or Store was called the session takes nothing more from this caller."""
    talk = Talk()
    writer = talk.open()
    talk.call(writer, Verb.STORE, "store", argument=BY_POLICY)
    with pytest.raises(errors.SessionClosed):
        talk.call(writer, Verb.APPEND, "a", b"a")
    talk.turn()
    assert writer.decision is Decision.DONE
    with pytest.raises(errors.SessionClosed):
        talk.call(writer, Verb.DELETE, "delete")
    assert talk.pipe.sessions[3, 100].store_after_ms == BY_POLICY


def test_busy_is_obeyed() -> None:
    """After BUSY nothing is sent until the pipe's time has passed; then the same batch, then what waits."""
    talk = Talk()
    talk.pipe.answer_with.append(Ack(0, code=Code.BUSY, retry_after_ms=700))
    talk.exchange.submit_new(1, None, "a", talk.now_ms)
    talk.turn()
    talk.exchange.submit_new(1, None, "b", talk.now_ms)
    talk.pass_ms(699)
    assert len(talk.pipe.batches) == 1
    assert talk.exchange.deadline() == talk.now_ms + 1
    talk.pass_ms(1)
    assert [batch.number for _, batch in talk.pipe.batches] == [1, 1, 2]
    assert talk.answers["a"] == SessionId(1, 3, 100)
    assert talk.answers["b"] == SessionId(1, 3, 101)


@pytest.mark.parametrize("code", [Code.NOT_LEADER, Code.SHUTTING_DOWN])
def test_a_pipe_that_cannot_take_it_is_asked_again(code: Code) -> None:
    """The same batch is sent again after a back-off that doubles."""
    talk = Talk()
    talk.pipe.answer_with.extend([Ack(0, code=code)] * 3)
    talk.exchange.submit_new(1, None, "a", talk.now_ms)
    talk.turn()
    talk.pass_ms(limits.BACKOFF_MS)
    talk.pass_ms(2 * limits.BACKOFF_MS)
    assert len(talk.pipe.batches) == 3
    talk.pass_ms(4 * limits.BACKOFF_MS)
    assert talk.answers["a"] == SessionId(1, 3, 100)
    assert not talk.pipe.violations


def test_a_batch_that_is_refused_whole_ends_its_writers() -> None:
    """An earlier copy may have been applied, so its seqs are not used for other operations."""
    talk = Talk()
    writer = talk.open()
    talk.pipe.answer_with.append(Ack(0, code=Code.DENIED, message="not yours"))
    talk.call(writer, Verb.APPEND, "a", b"a")
    answers = talk.send()
    talk.call(writer, Verb.APPEND, "b", b"b")
    talk.deliver(answers)
    assert isinstance(talk.answers["a"], errors.Denied)
    assert "not yours" in str(talk.answers["a"])
    assert isinstance(talk.answers["b"], errors.AfterRefusal)
    with pytest.raises(errors.Denied):
        talk.call(writer, Verb.APPEND, "c", b"c")
    assert talk.exchange.unanswered == talk.exchange.unanswered_bytes == 0


def test_an_error_of_a_hop_without_a_number_makes_it_sent_again() -> None:
    """A sidecar that reads no bodies cannot say which batch it did not take; all unanswered ones follow in its time."""
    talk = Talk()
    talk.pipe.ignore_batches = 1
    talk.exchange.submit_new(1, None, "a", talk.now_ms)
    talk.turn()
    error = Error(Code.NO_PIPE, "the sidecar has not heard its pipe", MessageType.BATCH, retry_after_ms=100)
    talk.deliver([wire.encode(error, incarnation=talk.incarnation, pipe=1)])
    assert talk.send() == []
    talk.pass_ms(100)
    assert talk.answers["a"] == SessionId(1, 3, 100)


def test_endings_are_sent_until_answered() -> None:
    """FAIL, RELEASE and PARK by the target carry no seq and stand beside groups of the same session."""
    talk = Talk()
    writer = talk.open()
    session = SessionId(1, 3, 100)
    talk.pipe.ignore_batches = 1
    talk.call(writer, Verb.APPEND, "a", b"a")
    talk.exchange.submit_ending(session, 1, Verb.FAIL, "fail", talk.now_ms, message="ü".encode() * 300)
    talk.exchange.submit_ending(session, 1, Verb.RELEASE, "release", talk.now_ms, argument=5)
    talk.turn()
    assert "fail" not in talk.answers
    talk.pass_ms(limits.RESEND_MS)
    assert talk.done("a", "fail", "release")
    assert talk.pipe.sessions[3, 100].endings == [(Verb.FAIL, 0, "ü".encode() * 256), (Verb.RELEASE, 5, b"")]


def test_what_is_rare_rides_beside_its_new() -> None:
    """Key, order key, schema and trace arrive with the operation they belong to."""
    talk = Talk()
    writer = talk.open()
    talk.call(writer, Verb.TOUCH, "touch")
    talk.exchange.submit_new(1, None, "plain", talk.now_ms)
    extra = Extra(0, "key-1", "", "v2", b"00-aa-bb-01")
    talk.exchange.submit_new(1, None, "keyed", talk.now_ms, extra=extra)
    talk.turn()
    assert talk.pipe.batches[-1][1].extras == [extra._replace(position=2)]


def test_a_live_key_names_the_session_that_has_it() -> None:
    """KEY_LIVE is an error with the other session's id and state."""
    talk = Talk()
    talk.pipe.refuse = lambda op: Code.KEY_LIVE
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    talk.turn()
    answer = talk.answers["n"]
    assert isinstance(answer, errors.KeyLive)
    assert answer.session_id == "1.0.0"


def test_positions_beyond_the_batch_are_ignored() -> None:
    """An ack with results for operations that were never sent completes what was sent, and nothing else."""
    talk = Talk()
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    (answer,) = talk.send()
    (message,) = wire.unpack(answer)
    ack = wire.decode(message)
    assert isinstance(ack, Ack)
    results = (talk.pipe.requests[talk.incarnation, 1]._replace(position=7, code=Code.GONE),)
    talk.deliver([wire.encode(ack._replace(results=results), incarnation=talk.incarnation, pipe=1)])
    assert talk.answers == {"n": SessionId(1, 3, 100)}


def test_kind_numbers_are_u32() -> None:
    """A number that fits no kind is refused at once; it would spoil the whole batch."""
    talk = Talk()
    for kind in (-1, 1 << 32):
        with pytest.raises(errors.UnknownKind):
            talk.exchange.submit_new(kind, None, "n", talk.now_ms)


def test_durability_is_told_as_the_ack_says() -> None:
    """`durable` is false only when the pipe says so (`fsync: interval`)."""
    talk = Talk()
    assert talk.exchange.durable
    talk.pipe.answer_with.append(Ack(0, 100, talk.pipe.log_ms, 3, durable=False))
    talk.exchange.submit_new(1, None, "n", talk.now_ms)
    talk.turn()
    assert not talk.exchange.durable


def test_fields_of_a_packed_operation() -> None:
    """A packed operation names session, epoch and seq, as the wire wants them."""
    talk = Talk()
    writer = talk.exchange.open(SessionId(1, 3, 77), epoch=4)
    talk.call(writer, Verb.STORE, "s", argument=1_500)
    talk.exchange.outgoing(talk.now_ms)
    talk.exchange.resend(talk.now_ms)
    (payload,) = talk.exchange.outgoing(talk.now_ms)
    batch = wire.decode(wire.unpack(payload)[0])
    assert isinstance(batch, Batch)
    assert batch.ops == [Op(Verb.STORE, 77, 3, 4, 1, 1_500, None)]
