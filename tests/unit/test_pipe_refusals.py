"""A client that is refused too often is answered BUSY before the log; nobody else notices, and nothing is lost."""

from __future__ import annotations

import pytest

from mpy6a import limits, wire
from mpy6a.errors import Code
from mpy6a.messages import Ack, AnyMessage, Error, Goodbye, Message, MessageType
from mpy6a.model import Extra, Op, SessionId, Verb
from mpy6a.refusals import Refusals
from tests.fakes.core import World

A, B = b"A" * 16, b"B" * 16
MANY = limits.MESSAGE_OPERATIONS_MAX


def touches(session: SessionId, count: int = MANY) -> list[Op]:
    """A group of a session that is gone, or another's: each operation is refused."""
    return [Op(Verb.TOUCH, session.index, session.term, 1, seq) for seq in range(1, count + 1)]


class Counted(Refusals):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[bytes, int]] = []

    def count(self, client: bytes, refused: int, now_ms: int) -> None:
        self.told.append((client, refused))


def emptied(world: World, client: bytes = A) -> SessionId:
    """Has the client refused until its bucket is overdrawn by one batch; a session of B's that it is fenced from."""
    session = world.new(B)
    for _ in range(limits.REFUSALS_BURST // MANY + 1):
        ack = world.batch(client, touches(session), mark=1)
        assert (ack.code, len(ack.results)) == (Code.OK, MANY)
    return session


def sent(world: World, body: bytes, client: bytes = A) -> AnyMessage:
    """What a body that may be anything is answered with."""
    assert world.pipe.receive("door", Message(MessageType.BATCH, 1, client, 0, body), world.now_ms) is None
    [answer] = world.work()
    return answer


def test_an_empty_bucket_is_busy_and_nothing_is_logged() -> None:
    """The whole batch, good operations too, may be sent again as it is; then it is taken."""
    world = World()
    emptied(world)
    before = world.state.next_index, world.state.sessions.live()
    held = world.batch(A, [Op(Verb.NEW, 1, argument=1)], number=900)
    assert (held.code, held.number, held.results) == (Code.BUSY, 900, ())
    assert limits.REFUSALS_WAIT_MIN_MS <= held.retry_after_ms <= 1_000 * MANY // limits.REFUSALS_PER_S
    assert "refused" in held.message
    assert (world.state.next_index, world.state.sessions.live()) == before
    assert world.pipe.dropped == {"refusals": 1}
    world.pass_time(held.retry_after_ms)
    again = world.batch(A, [Op(Verb.NEW, 1, argument=1)], number=900)
    assert (again.code, again.results) == (Code.OK, ())
    assert world.state.sessions.live() == before[1] + 1


def test_nobody_beside_is_held() -> None:
    """Neither another client nor one of the same connection; the bucket is the incarnation's."""
    world = World()
    session = emptied(world)
    assert world.batch(A, touches(session, 1)).code == Code.BUSY
    assert world.batch(B, touches(session)).results == ()


def test_good_operations_and_repeated_answers_are_no_refusals() -> None:
    """A resent New has a result that is OK; it is not counted, and neither is anything else that was taken."""
    world = World()
    news = [Op(Verb.NEW, request, argument=1) for request in range(1, MANY + 1)]
    for _ in range(3):
        world.batch(A, news)
    assert world.state.sessions.live() == MANY
    assert len(world.pipe.refusals) == 0


@pytest.mark.parametrize("code", [Code.UNKNOWN_KIND, Code.TOO_LARGE, Code.FENCED, Code.STALE_COPY, Code.KEY_LIVE])
def test_whatever_refuses_is_counted(code: Code) -> None:
    """Decided before the log or by it: every refused operation takes a token, those behind it in its group too."""
    world = World()
    session = world.new(A, b"record")
    world.batch(A, [Op(Verb.APPEND, session.index, session.term, 1, 1, record=b"x")])
    of = (session.index, session.term, 1)
    big = b"x" * (limits.RECORD_BYTES_MAX + 1)
    keyed = [Extra(0, key="k")]
    world.batch(B, [Op(Verb.NEW, 7, argument=1)], extras=keyed)
    client, ops, extras = {
        Code.UNKNOWN_KIND: (A, [Op(Verb.NEW, 9, argument=9)], []),
        Code.TOO_LARGE: (A, [Op(Verb.APPEND, *of, 2, record=big), Op(Verb.TOUCH, *of, 3)], []),
        Code.FENCED: (B, [Op(Verb.TOUCH, *of, 2)], []),
        Code.STALE_COPY: (A, [Op(Verb.TOUCH, *of, 1), Op(Verb.TOUCH, *of, 2)], []),
        Code.KEY_LIVE: (A, [Op(Verb.NEW, 9, argument=1)], keyed),
    }[code]
    counted = world.pipe.refusals = Counted()
    ack = world.batch(client, ops, extras=extras)
    assert ack.results[0].code == code
    assert counted.told == [(client, len(ops))]


def test_a_kept_verdict_is_told_when_the_time_has_passed() -> None:
    """The ack of a New was lost, then its client was held: it hears BUSY, and then of its one session."""
    world = World()
    new = [Op(Verb.NEW, 1, argument=1, record=b"r")]
    first = world.batch(A, new, number=900)
    emptied(world)
    held = world.batch(A, new, number=900)
    assert held.code == Code.BUSY
    world.pass_time(held.retry_after_ms)
    again = world.batch(A, new, number=900)
    assert [(r.code, r.index, r.term) for r in again.results] == [(Code.OK, first.first_index, first.term)]


def test_whoever_obeys_gets_every_verdict_at_the_rate_of_the_limit() -> None:
    """Twelve batches at a time, all refused, all sent again until answered: none starves, none is answered twice."""
    world = World()
    session = emptied(world)
    begin_ms = world.now_ms
    waiting = list(range(1_000, 1_036))
    refused = 0
    while waiting:
        wait_ms = 0
        for number in waiting[:12]:
            body = wire.encode_batch_body(number, 1, world.log_ms, touches(session))
            world.pipe.receive("door", Message(MessageType.BATCH, 1, A, 0, body), world.now_ms)
        for ack in world.work():
            assert isinstance(ack, Ack)
            if ack.code == Code.BUSY:
                wait_ms = max(wait_ms, ack.retry_after_ms)
            else:
                waiting.remove(ack.number)
                refused += len(ack.results)
        world.pass_time(wait_ms)
    assert refused == 36 * MANY
    rate = (refused - 12 * MANY) * 1_000 / (world.now_ms - begin_ms)  # the last dozen is not paid for yet
    assert limits.REFUSALS_PER_S * 0.8 <= rate <= limits.REFUSALS_PER_S


def test_a_goodbye_does_not_fill_the_bucket() -> None:
    """Going and coming back is no way around it."""
    world = World()
    session = emptied(world)
    world.tell(A, Goodbye())
    assert world.batch(A, touches(session, 1)).code == Code.BUSY


def test_a_held_client_is_alive() -> None:
    """Its batches count as a sign of life though they are not taken: its sessions stay its own."""
    world = World()
    emptied(world)
    assert world.batch(A, [Op(Verb.NEW, 1, argument=1)]).code == Code.BUSY
    assert world.pipe.is_heard(A)


def test_what_a_held_client_sends_is_not_read_whole() -> None:
    """BUSY names the number whatever the operations are; what has no number is malformed as ever."""
    world = World()
    session = emptied(world)
    body = wire.encode_batch_body(77, 1, world.log_ms, touches(session, 2))
    for one in (body, body[:64] + b"\xff" * (len(body) - 64)):
        answer = sent(world, one)
        assert isinstance(answer, Ack)
        assert (answer.code, answer.number) == (Code.BUSY, 77)
    for garbage in (b"\xff" * 64, b""):
        answer = sent(world, garbage)
        assert isinstance(answer, Error)
        assert answer.code == Code.MALFORMED
