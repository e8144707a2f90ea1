"""Under any loss, copy and reordering each operation is answered once, and the pipe holds what was answered OK."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpy6a import errors, limits, wire
from mpy6a.client.writer import Writer
from mpy6a.errors import Code
from mpy6a.messages import Ack, Batch
from mpy6a.model import Op, SessionId, Verb
from tests.unit.client.talk import Talk

_PLANTED = {b"no": Code.TOO_LARGE, b"fenced": Code.FENCED}


def _refuse(op: Op) -> int:
    return _PLANTED.get(op.record or b"", Code.OK)


class Network(RuleBasedStateMachine):
    """Callers, an exchange, a network that loses, copies and reorders both ways, and the honest pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = Talk()
        self.talk.pipe.refuse = _refuse
        self.requests: list[bytes] = []  # on their way to the pipe
        self.answers: list[bytes] = []  # on their way back
        self.count = 0
        self.called: dict[str, tuple[Writer[str] | None, bytes]] = {}  # token -> who and which record
        self.writers: list[Writer[str]] = []
        self.in_flight: dict[tuple[int, int], int] = {}  # session -> the batch that has its group

    def token(self) -> str:
        self.count += 1
        return f"{self.count}"

    # ---- callers

    @rule(first=st.sampled_from([None, b"first", b"no"]))
    def new(self, first: bytes | None) -> None:
        token = self.token()
        self.talk.exchange.submit_new(1, first, token, self.talk.now_ms)
        self.called[token] = (None, b"")

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), record=st.sampled_from([b"a", b"b", b"a", b"b", b"no", b"fenced"]), times=st.integers(1, 4))
    def append(self, data: st.DataObject, record: bytes, times: int) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        for _ in range(times):
            self.call(writer, Verb.APPEND, record if record in _PLANTED else record + b"%d" % self.count)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), verb=st.sampled_from([Verb.DELETE, Verb.STORE]))
    def decide(self, data: st.DataObject, verb: Verb) -> None:
        self.call(data.draw(st.sampled_from(self.writers)), verb, None)

    def call(self, writer: Writer[str], verb: Verb, record: bytes | None) -> None:
        token = self.token()
        try:
            self.talk.call(writer, verb, token, record)
        except (errors.SessionClosed, errors.Fenced, errors.Gone):
            assert writer.decision or writer.final
        else:
            self.called[token] = (writer, record or b"")

    # ---- the network

    @rule()
    def send(self) -> None:
        self.pack()

    def pack(self) -> None:
        for payload in self.talk.exchange.outgoing(self.talk.now_ms):
            self.requests.append(payload)
            batch = wire.decode(wire.unpack(payload)[0])
            assert isinstance(batch, Batch)
            for op in batch.ops:
                if op.seq:
                    assert self.in_flight.setdefault((op.term, op.index), batch.number) == batch.number

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), fate=st.sampled_from(["arrive", "arrive", "arrive", "copy", "lose", "busy"]))
    def carry(self, data: st.DataObject, fate: str) -> None:
        place = data.draw(st.integers(0, len(self.requests) - 1))
        payload = self.requests[place] if fate == "copy" else self.requests.pop(place)
        if fate == "busy":
            self.talk.pipe.answer_with.append(Ack(0, code=Code.BUSY, retry_after_ms=30))
        if fate != "lose":
            for message in wire.unpack(payload):
                self.answers += self.talk.pipe.receive(message)

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), lost=st.booleans())
    def answer(self, data: st.DataObject, lost: bool) -> None:
        payload = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
        if not lost:
            self.take(payload)

    def take(self, payload: bytes) -> None:
        before = len(self.talk.order)
        ack = wire.decode(wire.unpack(payload)[0])
        assert isinstance(ack, Ack)
        if ack.code == Code.OK:
            self.in_flight = {key: number for key, number in self.in_flight.items() if number != ack.number}
        self.talk.deliver([payload])
        for token in self.talk.order[before:]:
            answer = self.talk.answers[token]
            if isinstance(answer, SessionId):
                self.writers.append(self.talk.exchange.open(answer))

    @rule(ms=st.integers(1, 2 * limits.RESEND_MS))
    def wait(self, ms: int) -> None:
        self.talk.now_ms += ms
        self.talk.exchange.heard(self.talk.pipe.log_ms, self.talk.now_ms)

    @rule()
    def reconnect(self) -> None:
        self.talk.exchange.resend(self.talk.now_ms)

    # ---- what holds

    @invariant()
    def the_client_keeps_the_rules(self) -> None:
        assert self.talk.pipe.violations == []

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        assert all(count == 1 for count in Counter(self.talk.order).values())

    @invariant()
    def what_is_not_answered_is_counted(self) -> None:
        assert self.talk.exchange.unanswered == len(self.called) - len(self.talk.order)

    def teardown(self) -> None:
        """The network heals: everything gets its answer, and the pipe holds exactly what was answered OK, in order."""
        for _ in range(20):
            self.pack()
            while self.requests:
                for message in wire.unpack(self.requests.pop(0)):
                    self.answers += self.talk.pipe.receive(message)
            while self.answers:
                self.take(self.answers.pop(0))
            self.wait(limits.RESEND_MAX_MS)
        assert len(self.talk.order) == len(self.called)
        assert self.talk.exchange.unanswered_bytes == 0
        made = [answer for answer in self.talk.answers.values() if isinstance(answer, SessionId)]
        assert sorted((each.term, each.index) for each in made) == sorted(self.talk.pipe.sessions)
        for writer in self.writers:
            done = [
                record
                for token, (caller, record) in self.called.items()
                if caller is writer and record and self.talk.answers[token] is None
            ]
            held = self.talk.pipe.sessions[writer.term, writer.index].records
            assert [record for record in held if record != b"first"] == done


TestNetwork = Network.TestCase
