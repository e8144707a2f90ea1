"""One client at one door: hello, welcome, kinds, which pipe, and what happens when the link or the hop changes."""

from __future__ import annotations

import os

import pytest

from mpy6a import errors, limits, wire
from mpy6a.client.connection import Connection
from mpy6a.client.exchange import Completion
from mpy6a.errors import Code
from mpy6a.messages import (
    AnyMessage,
    Error,
    Hello,
    Kind,
    MessageType,
    Notice,
    PipeInfo,
    Pong,
    Role,
    Serve,
)
from mpy6a.model import BY_POLICY, Extra, SessionId, Verb
from tests.fakes.hop import FakePipe


class Desk:
    """A connection and the pipes behind its door, without a socket between them."""

    def __init__(self, *pipes: FakePipe, timeout_ms: int | None = None) -> None:
        self.pipes = {pipe.number: pipe for pipe in pipes or (FakePipe(),)}
        self.hop = next(iter(self.pipes.values()))
        self.incarnation = os.urandom(16)
        self.connection: Connection[str] = Connection(
            self.incarnation, door="ipc://door", name="test", pid=7, token=b"t", timeout_ms=timeout_ms
        )
        self.now_ms = 5_000
        self.answers: dict[str, object] = {}

    def up(self) -> None:
        self.connection.link_up(self.now_ms)
        self.turn()

    def turn(self) -> None:
        """Everything that is due goes to its pipe and its answer comes back, until nothing is sent."""
        while payloads := self.connection.outgoing(self.now_ms):
            for payload in payloads:
                for message in wire.unpack(payload):
                    pipe = self.pipes[message.pipe] if message.pipe else self.hop
                    for answer in pipe.receive(message):
                        self.take(self.connection.receive(answer, self.now_ms))

    def take(self, done: list[Completion[str]]) -> None:
        self.answers.update(done)

    def tell(self, message: AnyMessage, pipe: int = 0) -> None:
        payload = wire.encode(message, incarnation=self.incarnation, pipe=pipe)
        self.take(self.connection.receive(payload, self.now_ms))

    def new(self, token: str, kind: str | int = "user-create", extra: Extra | None = None) -> None:
        self.connection.new(kind, None, extra, token, self.now_ms)

    def pass_ms(self, ms: int) -> None:
        self.now_ms += ms
        self.take(self.connection.expire(self.now_ms))
        self.turn()


def test_it_says_hello_and_nothing_else_before_the_welcome() -> None:
    """Operations that are called before wait, and leave with the first welcome."""
    desk = Desk()
    desk.new("a")
    assert desk.connection.outgoing(desk.now_ms) == []
    desk.up()
    assert desk.answers == {"a": SessionId(1, 3, 100)}
    assert desk.hop.named(Hello) == [Hello(pid=7, name="test", token=b"t")]


def test_a_hello_without_a_welcome_is_said_again() -> None:
    """Less and less often, as with batches."""
    desk = Desk()
    desk.connection.link_up(desk.now_ms)
    assert len(desk.connection.outgoing(desk.now_ms)) == 1
    assert desk.connection.deadline() == desk.now_ms + limits.RESEND_MS
    assert desk.connection.outgoing(desk.now_ms + limits.RESEND_MS - 1) == []
    assert len(desk.connection.outgoing(desk.now_ms + limits.RESEND_MS)) == 1


def test_names_of_kinds_are_those_of_the_door() -> None:
    """A name is looked up in the table, a number goes as it is, an unknown name gets the nearest."""
    desk = Desk()
    desk.new("early", "user-crate")
    desk.up()
    assert isinstance(desk.answers["early"], errors.UnknownKind)
    with pytest.raises(errors.UnknownKind, match="did you mean 'user-create'"):
        desk.new("a", "user-crate")
    with pytest.raises(errors.UnknownKind, match="known: invoice, user-create"):
        desk.new("a", "zzz")
    desk.new("number", 77)
    desk.turn()
    assert desk.answers["number"] == SessionId(1, 3, 100)
    assert desk.hop.sessions[3, 100].kind == 77
    assert desk.connection.kind_name(2) == "invoice"
    assert desk.connection.kind_name(77) == "77"


def test_a_new_link_sends_everything_unanswered_again() -> None:
    """While the link is down nothing is sent; after the welcome on the new one all of it is."""
    desk = Desk()
    desk.up()
    desk.hop.ignore_batches = 1
    desk.new("a")
    desk.turn()
    desk.connection.link_down()
    desk.new("b")
    assert desk.connection.outgoing(desk.now_ms) == []
    assert desk.connection.links == 1
    desk.up()
    assert desk.answers == {"a": SessionId(1, 3, 100), "b": SessionId(1, 3, 101)}
    assert desk.connection.links == 2
    assert not desk.hop.violations


def test_another_process_behind_the_same_link_is_noticed() -> None:
    """A welcome with another hop incarnation means that what was sent before may be lost."""
    desk = Desk()
    desk.up()
    desk.hop.ignore_batches = 1
    desk.new("a")
    desk.turn()
    desk.hop.hop = os.urandom(16)
    desk.tell(desk.hop.welcome())
    desk.turn()
    assert desk.answers == {"a": SessionId(1, 3, 100)}
    assert desk.connection.links == 2


def test_a_welcome_that_says_nothing_new_resends_nothing() -> None:
    """The door repeats its welcome when the table changes; what is in flight is not disturbed by it."""
    desk = Desk()
    desk.up()
    desk.hop.ignore_batches = 1
    desk.new("a")
    desk.turn()
    desk.hop.kinds = (Kind(9, "other"),)
    desk.tell(desk.hop.welcome())
    desk.turn()
    assert len(desk.hop.batches) == 1
    desk.new("b", "other")
    with pytest.raises(errors.UnknownKind):
        desk.new("c", "user-create")


def test_a_pipe_that_comes_back_behind_its_sidecar_gets_everything_again() -> None:
    """The sidecar tells that the pipe lives again, or has another term: unanswered batches follow at once."""
    pipe = FakePipe(role=Role.SIDECAR)
    desk = Desk(pipe)
    desk.up()
    pipe.ignore_batches = 1
    desk.new("a")
    desk.turn()
    pipe.pipes = (PipeInfo(1, 3, False, pipe.log_ms),)
    desk.tell(pipe.welcome())
    pipe.ignore_batches = 0
    pipe.pipes = (PipeInfo(1, 4, True, pipe.log_ms),)
    desk.tell(pipe.welcome())
    desk.turn()
    assert desk.answers == {"a": SessionId(1, 3, 100)}


def test_a_new_waits_until_its_sidecar_has_heard_a_pipe() -> None:
    """A sidecar that knows no pipe, or only dead ones, is not sent a New; nor is its kind judged unknown."""
    pipe = FakePipe(role=Role.SIDECAR)
    kinds, pipe.kinds, pipe.pipes = pipe.kinds, (), ()
    desk = Desk(pipe)
    desk.new("a")
    desk.up()
    assert desk.answers == {}
    pipe.kinds, pipe.pipes = kinds, (PipeInfo(1, 3, False, 0),)
    desk.tell(pipe.welcome())
    desk.turn()
    assert desk.answers == {}
    pipe.pipes = None
    desk.tell(pipe.welcome())
    desk.turn()
    assert desk.answers == {"a": SessionId(1, 3, 100)}


def test_a_new_that_finds_nobody_says_so() -> None:
    """Its timeout names the door, and nothing is done later."""
    desk = Desk(timeout_ms=1_000)
    desk.new("a")
    assert desk.connection.deadline() == desk.now_ms + 1_000
    desk.pass_ms(1_000)
    assert isinstance(desk.answers["a"], errors.NoPipe)
    assert "nobody answers at ipc://door" in str(desk.answers["a"])
    desk.up()
    assert desk.hop.batches == []


def test_several_pipes_take_turns_and_a_key_has_its_own() -> None:
    """A New without a key goes to any live pipe, one with a key always to the same, each in its own numbering."""
    first, second = FakePipe(1, role=Role.SIDECAR), FakePipe(2, role=Role.SIDECAR)
    first.pipes = tuple(PipeInfo(pipe.number, pipe.term, True, pipe.log_ms) for pipe in (first, second))
    desk = Desk(first, second)
    desk.up()
    for number in range(6):
        desk.new(f"{number}")
    desk.turn()
    assert len(first.sessions) == len(second.sessions) == 3
    for number in range(4):
        desk.new(f"key {number}", extra=Extra(0, "the key"))
    desk.turn()
    assert sorted([len(first.sessions), len(second.sessions)]) == [3, 7]
    ids = {answer for answer in desk.answers.values() if isinstance(answer, SessionId)}
    assert {each.pipe for each in ids} == {1, 2}


def test_operations_go_to_the_pipe_of_their_session() -> None:
    """Also while that pipe is not behind the door: then they wait."""
    desk = Desk(FakePipe(2))
    writer = desk.connection.open(SessionId(1, 3, 50))
    desk.up()
    desk.connection.submit(writer, Verb.TOUCH, "a", desk.now_ms)
    desk.turn()
    assert desk.hop.batches == []
    assert desk.connection.unanswered == 1


def test_a_session_nobody_waits_for_is_stored() -> None:
    """A New whose caller left before the answer is handed to its handler by the kind's delay."""
    desk = Desk()
    desk.up()
    desk.new("a")
    desk.turn()
    desk.connection.give_up(SessionId(1, 3, 100), "store", desk.now_ms)
    desk.turn()
    assert desk.hop.sessions[3, 100].store_after_ms == BY_POLICY


def test_an_idle_client_asks_for_the_log_time_before_it_sends() -> None:
    """After a long silence the first batch names a log time heard anew, not the old one."""
    desk = Desk()
    desk.up()
    desk.hop.log_ms += 2 * 3_600_000
    desk.now_ms += 2 * 3_600_000
    desk.new("a")
    desk.turn()
    assert desk.answers == {"a": SessionId(1, 3, 100)}
    assert len(desk.hop.named(Hello)) == 2


def test_no_common_version_ends_the_connection() -> None:
    """Everything that waits gets the error, and later calls raise it."""
    desk = Desk()
    desk.new("waits")
    desk.connection.link_up(desk.now_ms)
    desk.tell(Error(Code.VERSION, "speaks 2 and up", MessageType.HELLO))
    assert isinstance(desk.answers["waits"], errors.VersionMismatch)
    with pytest.raises(errors.VersionMismatch, match="speaks 2 and up"):
        desk.new("later")
    assert desk.connection.outgoing(desk.now_ms) == []


def test_what_is_not_for_this_client_is_dropped_and_counted() -> None:
    """Garbage, other incarnations, acks of unknown pipes and bodies that are none change nothing."""
    desk = Desk()
    desk.up()
    stranger = wire.encode(Pong(1), incarnation=os.urandom(16))
    for payload in (b"", b"garbage", bytes(4096), stranger):
        assert desk.connection.receive(payload, desk.now_ms) == []
    for type_, pipe in ((MessageType.ACK, 9), (MessageType.WELCOME, 1), (99, 1)):
        body = wire.pack(type_, b"\xff" * 16, incarnation=desk.incarnation, pipe=pipe)
        assert desk.connection.receive(body, desk.now_ms) == []
    assert desk.connection.dropped == 7


def test_what_the_sidecar_tells_is_kept_for_the_service() -> None:
    """Pushes, stops, notices and refused serves come out in their order, with their pipe."""
    desk = Desk()
    desk.up()
    notice, error = Notice(3, 100, 1, 60_000), Error(Code.UNKNOWN_KIND, "not here", MessageType.SERVE)
    desk.tell(notice, pipe=1)
    desk.tell(error)
    assert desk.connection.has_events
    assert desk.connection.events() == [(1, notice), (0, error)]
    assert not desk.connection.has_events


def test_what_a_service_says_follows_the_hello() -> None:
    """A Serve that was told before the link is there arrives once, behind the hello."""
    desk = Desk()
    desk.connection.tell(Serve((1,), 4))
    desk.up()
    assert [type(message) for _, message in desk.hop.got] == [Hello, Serve]
    desk.turn()
    assert len(desk.hop.got) == 2
