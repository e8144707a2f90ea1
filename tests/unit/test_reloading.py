"""Reload without files and sockets: whole or not at all, in slices, answered once it is durable and never before."""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from mpy6a import limits, wire
from mpy6a.changes import Setup
from mpy6a.disk import Amount, DiskSettings
from mpy6a.entries import decode_policy, encode_policy
from mpy6a.errors import BadRequest, Busy
from mpy6a.messages import Hello, Push, Stop, Welcome
from mpy6a.model import Op, SessionState, Verb
from mpy6a.policy import KindPolicy, Policy, policy_of
from mpy6a.readings import Bad, Kinds, Part, Whole
from mpy6a.reloading import PAGE_BYTES, Reloading
from mpy6a.welcome import welcome
from tests.fakes.core import KIND, World

A, S = b"A" * 16, b"S" * 16
OTHER = KindPolicy(2, "user-erase", ("users",))
START = Setup(policy_of([KIND, OTHER]), {"users": "tcp://a:1"}, {"disk.low": "5%"}, {"data": "/data"})


class Files:
    """A reader: what stands in the files, part by part."""

    def __init__(self) -> None:
        self.says: Setup | Bad | None = START
        self.readings = 0
        self._parts: deque[Part] = deque()

    def ask(self, pipe: int, term: int, log_ms: int, hop: bytes) -> None:
        self.readings += 1
        if isinstance(self.says, Bad):
            self._parts.append(self.says)
        elif self.says is not None:
            policy = self.says.policy
            kinds = list(policy.kinds.values())
            for start in range(0, len(kinds), limits.RELOAD_KINDS):
                self._parts.append(Kinds(tuple(kinds[start : start + limits.RELOAD_KINDS])))
            [message] = wire.unpack(wire.encode(welcome(policy, pipe, term, log_ms, hop), incarnation=hop))
            places = {"data": "pipe.yaml:2"}
            self._parts.append(Whole.of(self.says, places, encode_policy(policy), bytes(message.body)))

    def receive(self) -> Part | None:
        return self._parts.popleft() if self._parts else None

    def close(self) -> None:
        self._parts.clear()


class Desk:
    """A pipe that can be reloaded, in a world without sockets."""

    def __init__(self, start: Setup = START) -> None:
        self.world = World(policy=start.policy, sidecars=list(start.sidecars))
        self.world.pusher.reroute(start.sidecars)
        self.files = Files()
        self.did: list[str] = []
        self.reloading = Reloading(self.world.pipe, self.world.pusher, start, self.files, self)
        self.sent: list[Any] = []

    def dial(self, address: str) -> None:
        self.did.append(f"dial {address}")

    def hang_up(self, address: str) -> None:
        self.did.append(f"hang up {address}")

    def watch_disk(self, settings: DiskSettings) -> None:
        self.did.append(f"disk {settings.low.permille}")

    def turn(self) -> None:
        """As the server's loop does it."""
        if self.reloading.turn(self.world.now_ms):
            self.sent += self.world.work()
            self.reloading.logged(self.world.now_ms)
        self.sent += self.world.work()

    def settle(self) -> None:
        for _ in range(4_000):
            due_ms = self.reloading.deadline(self.world.now_ms)
            if due_ms is None or (self.did and due_ms - self.world.now_ms > limits.REDIAL_REST_MS):
                return  # nothing is left but to look whether who was dialed has answered
            self.world.now_ms = max(self.world.now_ms, due_ms)
            self.turn()
        raise AssertionError("it does not come to an end")

    def reload(self, says: Setup | Bad | None = None) -> dict[str, Any]:
        """What one reload is answered."""
        self.files.says = says or self.files.says
        answers: list[dict[str, Any]] = []
        self.reloading.ask(answers.append)
        self.settle()
        [answer] = answers
        return answer


def kinds(*some: KindPolicy, **more: Any) -> Setup:
    return replace(START, policy=Policy({kind.id: kind for kind in some}, **more))


def test_the_answer_comes_when_the_policy_is_in_the_log() -> None:
    """And not a turn earlier."""
    desk = Desk()
    answers: list[dict[str, Any]] = []
    desk.files.says = kinds(replace(KIND, concurrency=8), OTHER)
    desk.reloading.ask(answers.append)
    index = desk.world.state.next_index
    while not desk.reloading.turn(desk.world.now_ms):
        assert desk.world.state.policy == START.policy
        assert desk.world.state.next_index == index
    assert answers == []
    desk.world.work()
    assert desk.world.state.policy == desk.files.says.policy
    assert answers == []
    desk.reloading.logged(desk.world.now_ms)
    desk.settle()
    assert answers == [{"taken": True, "changes": ["concurrency of user-create 64 -> 8"], "more": False}]
    assert desk.reloading.deadline(desk.world.now_ms) is None


def test_no_change_is_said_and_not_logged() -> None:
    desk = Desk()
    index = desk.world.state.next_index
    assert desk.reload() == {"taken": True, "changes": [], "more": False}
    assert (desk.world.state.next_index, desk.did) == (index, [])


def test_bad_files_change_nothing() -> None:
    desk = Desk()
    problem = {"file": "routes.yaml", "line": 3, "key": "kinds.x.id", "text": "routes.yaml:3: kinds.x.id: found ..."}
    index = desk.world.state.next_index
    assert desk.reload(Bad((problem,))) == {"taken": False, "problems": [problem]}
    assert (desk.world.state.next_index, desk.reloading.setup, desk.did) == (index, START, [])
    assert desk.reload(kinds(KIND))["taken"]


def test_what_is_refused_changes_nothing() -> None:
    """All of it: the kind that would be fine too."""
    desk = Desk()
    desk.world.new(A, b"", kind=2)
    more = KindPolicy(3, "more", ("users",))
    answer = desk.reload(replace(kinds(KIND, more), sidecars={"users": "tcp://a:2"}, fixed={"data": "/x"}))
    assert not answer["taken"]
    data, kind = answer["refused"]
    assert data == "pipe.yaml:2: data: /x needs a restart; the pipe runs with /data"
    assert kind.startswith("kind user-erase (2) would leave the routes with 1 open session:")
    assert (desk.world.state.policy, desk.did) == (START.policy, [])


def test_a_full_disk_refuses() -> None:
    desk = Desk()
    desk.world.pipe.disk_reserve = True
    assert "make room" in desk.reload(kinds(KIND))["refused"][0]


def test_a_reading_that_does_not_end_is_given_up() -> None:
    desk = Desk()
    desk.files.says = None
    answer = desk.reload()
    assert "took more than 30 s" in answer["problems"][0]["text"]
    assert desk.reload(kinds(KIND))["taken"]


def test_who_asks_while_files_are_read_waits_for_the_next_reading() -> None:
    """What was read before he asked may be older than what he has written."""
    desk = Desk()
    answers: list[str] = []
    desk.reloading.ask(lambda body: answers.append("first"))
    desk.turn()
    for _ in range(2):
        desk.reloading.ask(lambda body: answers.append("second"))
    desk.settle()
    assert answers == ["first", "second", "second"]
    assert desk.files.readings == 2
    for _ in range(limits.RELOADS_MAX):
        desk.reloading.ask(lambda body: None)
    with pytest.raises(Busy):
        desk.reloading.ask(lambda body: None)
    desk.reloading.ask()  # a signal needs no place


def test_a_pipe_without_files_says_so() -> None:
    world = World()
    with pytest.raises(BadRequest, match="without files"):
        Reloading(world.pipe, world.pusher, START, None, Desk()).ask()


def test_clients_are_told_of_new_kinds() -> None:
    """Whoever had said hello gets a welcome: else it would refuse the new kind itself."""
    desk = Desk()
    for who in (A, S):
        desk.world.tell(who, Hello())
    desk.reload(kinds(KIND, OTHER, KindPolicy(3, "more", ("users",))))
    desk.turn()
    welcomes = [message for message in desk.sent if isinstance(message, Welcome)]
    assert [[kind.name for kind in one.kinds] for one in welcomes] == [["user-create", "user-erase", "more"]] * 2
    assert welcomes[0].hop == desk.world.pipe.incarnation


def test_sidecars_come_and_go() -> None:
    """Gone: told to stop, released, and only then hung up. New: dialed. At another address: both, in that order."""
    start = replace(START, sidecars={"users": "tcp://a:1", "search": "tcp://b:1", "more": "tcp://c:1"})
    desk = Desk(start)
    world = desk.world
    world.sidecar(S)
    id = world.new(A, b"")
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=1)])
    world.pass_time(10)
    assert any(isinstance(message, Push) for _, message in world.pushed)
    after = replace(start, sidecars={"search": "tcp://c:1", "more": "tcp://b:1", "new": "tcp://d:1"})
    assert desk.reload(after)["changes"] == [
        "sidecar users removed: what it holds is released",
        "address of sidecar search tcp://b:1 -> tcp://c:1",
        "address of sidecar more tcp://c:1 -> tcp://b:1",
        "sidecar new added",
    ]
    assert desk.did == [
        "hang up tcp://b:1", "hang up tcp://c:1", "hang up tcp://a:1", "dial tcp://c:1", "dial tcp://b:1",
        "dial tcp://d:1",
    ]  # fmt: skip
    session = world.session(id)
    assert session is not None
    assert session.state == SessionState.STORED
    assert any(isinstance(message, Stop) for _, message in world.pushed)


def test_a_sidecar_that_comes_back_before_it_is_gone_is_dialed_anew() -> None:
    """Its old dial is given up with the connection, or no greeting would come."""
    desk = Desk()
    desk.world.sidecar(S)
    desk.reloading._leaving[S] = "tcp://a:1"
    desk.settle()
    assert desk.did == ["hang up tcp://a:1", "dial tcp://a:1"]


def test_who_does_not_say_hello_is_dialed_again() -> None:
    """ZeroMQ may have dropped the connection without a word; who answers is left alone."""
    desk = Desk()
    desk.reload(replace(START, sidecars={"users": "tcp://a:2"}))
    for _ in range(3):
        desk.world.now_ms = desk.reloading.deadline(desk.world.now_ms) or 0
        desk.turn()
        desk.settle()
    assert desk.did == ["hang up tcp://a:1", *(["dial tcp://a:2", "hang up tcp://a:2"] * 3), "dial tcp://a:2"]
    desk.world.sidecar(S)
    desk.world.now_ms = desk.reloading.deadline(desk.world.now_ms) or 0
    desk.turn()
    assert desk.reloading.deadline(desk.world.now_ms) is None


def test_the_disks_thresholds_change() -> None:
    desk = Desk()
    disk = DiskSettings(low=Amount(100))
    assert desk.reload(replace(START, values={"disk.low": "10%"}, disk=disk))["changes"] == ["disk.low 5% -> 10%"]
    assert desk.did == ["disk 100"]


def test_a_kind_comes_back_under_its_own_name_only() -> None:
    desk = Desk()
    desk.world.new(A, b"", kind=2)
    assert desk.reload(kinds(KIND, orphans="hold"))["taken"]
    assert desk.reloading.show(0)["left"] == {"2": "user-erase"}
    assert "would be called" in desk.reload(kinds(KIND, replace(OTHER, name="other")))["refused"][0]
    assert desk.reload()["taken"] is False
    assert desk.reload(START)["taken"]
    assert desk.reloading.show(0)["left"] == {}


def test_thousands_of_kinds_are_taken_in_slices() -> None:
    """And shown in pages, whole."""
    many = kinds(*(KindPolicy(number, f"kind-{number}", ("users",)) for number in range(1, limits.KINDS_MAX + 1)))
    desk = Desk(replace(many, policy=replace(many.policy)))
    answer = desk.reload(kinds(*(replace(kind, concurrency=7) for kind in many.policy.kinds.values())))
    assert (len(answer["changes"]), answer["more"]) == (limits.CHANGES_SHOWN, True)
    body = b""
    first = desk.reloading.show(0)
    while len(body) < first["bytes"]:
        page = desk.reloading.show(len(body))
        assert len(page["base64"]) <= PAGE_BYTES * 4 // 3 + 4
        body += base64.b64decode(page["base64"])
    assert decode_policy(body) == desk.world.state.policy == desk.reloading.setup.policy
    assert first["fixed"] == {"data": "/data"}
