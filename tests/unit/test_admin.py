"""The operators' door without sockets: what each verb tells, does and refuses, and that no request is too much."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mpy6a import limits, wire
from mpy6a.admin import LIST_MAX, AdminDoor
from mpy6a.errors import Code
from mpy6a.messages import Accepted, AdminReply, AdminRequest, AnyMessage, Greeting, KindCredit, SidecarHello
from mpy6a.model import Op, SessionId, SessionState, Verb
from mpy6a.policy import KindPolicy, policy_of
from tests.fakes.core import KIND, World

A, B, OPERATOR, S = b"A" * 16, b"B" * 16, b"O" * 16, b"S" * 16
FACTS = {"process": {"pid": 4711}, "log": {"syncs": 7}}


class Desk:
    """An admin door on a world, and an operator at it."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.door = AdminDoor(self.world.pipe, self.world.pusher, self.world.log.read, lambda: dict(FACTS))

    def answers(self, verb: str, arguments: str) -> list[AnyMessage]:
        """What comes back for a request once everything was committed."""
        request = AdminRequest(7, verb, arguments)
        message = wire.unpack(wire.encode(request, incarnation=OPERATOR))[0]
        self.door.receive("operator", message, request, self.world.now_ms)
        return self.world.work()

    def reply(self, verb: str, arguments: str = "{}") -> AdminReply:
        [reply] = self.answers(verb, arguments)
        assert isinstance(reply, AdminReply)
        assert reply.number == 7
        return reply

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        reply = self.reply(verb, json.dumps(arguments))
        assert reply.code == Code.OK, reply
        body: dict[str, Any] = json.loads(reply.body)
        return body


def repeating(world: World) -> SessionId:
    """A session at sidecar S."""
    world.sidecar(S, sessions=1)
    id = world.new(A, b"\x00first")
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1)])
    world.pass_time(10)
    return id


# ---------------------------------------------------------------------- status


def test_status_is_the_pipe_at_a_glance() -> None:
    """Term, log, live sessions by kind and state, sidecars, what was dropped, and what only the driver knows."""
    desk = Desk()
    world = desk.world
    repeating(world)
    world.new(A)
    world.pipe.count_dropped("malformed")
    status = desk.ask("status")
    assert (status["pipe"], status["term"], status["live"]) == (1, 1, 2)
    assert status["kinds"] == [
        {
            "kind": 1, "name": "user-create", "open": 1, "stored": 0, "repeating": 1, "parked": 0, "ready": 0,
            "oldest_due_ms": None, "why": "", "detail": "", "paused": None, "breaker": "closed", "at_a_time": None,
            "rate": None,
        }
    ]  # fmt: skip
    [sidecar] = status["sidecars"]
    assert (sidecar["name"], sidecar["connected"], sidecar["held"], sidecar["credit"]) == ("users", True, 1, {"1": 0})
    assert status["dropped"] == {"malformed": 1}
    assert (status["durable"], status["clock_held"], status["disk_level"]) == (True, False, 0)
    assert {name: status[name] for name in FACTS} == FACTS


def test_status_names_kinds_that_left_the_routes() -> None:
    """Sessions of a kind that no route names any more are shown under its number."""
    world = World()
    world.new(A)
    again = World(log=world.log.restarted(), policy=policy_of([KindPolicy(2, "two", ("users",))]))
    kinds = Desk(again).ask("status")["kinds"]
    assert [(kind["kind"], kind["name"], kind["open"]) for kind in kinds] == [(1, "", 1), (2, "two", 0)]


def test_status_answers_whatever_credit_a_sidecar_grants() -> None:
    """Credit for kinds that no route names is not kept: it would fill the status until it fits in no message."""
    desk = Desk()
    world = desk.world
    dial = world.sidecar(S)
    for first in range(1, 5_000, 500):
        credit = tuple(KindCredit(first + number, 1, 1) for number in range(500))
        world.tell(S, Accepted(dial, 1, 0, credit))
    assert set(desk.ask("status")["sidecars"][0]["credit"]) == {"1"}


# ---------------------------------------------------------------------- list, show


def test_list_filters_by_state_and_kind_and_goes_on_after_an_index() -> None:
    """Pages in the order of the index; names and numbers of kinds; each session with the one reason."""
    desk = Desk(World(policy=policy_of([KIND, KindPolicy(2, "two", ("users",))])))
    world = desk.world
    ids = [world.new(A, kind=kind) for kind in (1, 2, 1, 1)]
    world.batch(A, [Op(Verb.STORE, ids[2].index, ids[2].term, 1, 1, argument=60_000)])

    def listed(**arguments: Any) -> list[str]:
        return [session["id"] for session in desk.ask("sessions.list", **arguments)["sessions"]]

    assert listed() == list(map(str, ids))
    assert listed(kind="user-create") == listed(kind=1) == listed(kind="1") == [str(ids[n]) for n in (0, 2, 3)]
    assert listed(state="stored") == [str(ids[2])]
    assert listed(state="OPEN", kind="two") == [str(ids[1])]
    page = desk.ask("sessions.list", limit=3)
    assert (len(page["sessions"]), page["more"], page["live"]) == (3, True, 4)
    page = desk.ask("sessions.list", limit=3, after=ids[2].index)
    assert ([session["id"] for session in page["sessions"]], page["more"]) == ([str(ids[3])], False)
    reasons = [(session["state"], session["why"]) for session in desk.ask("sessions.list")["sessions"]]
    assert reasons == [("open", "OPEN_BY"), ("open", "OPEN_BY"), ("stored", "TIMER"), ("open", "OPEN_BY")]


def test_a_page_is_bounded_by_count() -> None:
    """Whatever limit is asked for: LIST_MAX, and `more`."""
    desk = Desk()
    for start in range(0, LIST_MAX + 10, 505):
        desk.world.batch(A, [Op(Verb.NEW, start + n + 1, argument=1) for n in range(505)])
    page = desk.ask("sessions.list", limit=10**9)
    assert (len(page["sessions"]), page["more"]) == (LIST_MAX, True)


def test_a_page_of_long_reasons_is_bounded_by_bytes_and_says_that_there_is_more() -> None:
    """A client can park sessions with reasons that JSON makes six times as long: the door still answers."""
    desk = Desk()
    world = desk.world
    world.sidecar(S, sessions=1_000)
    first = world.batch(A, [Op(Verb.NEW, n + 1, argument=1) for n in range(1_000)]).first_index
    world.batch(A, [Op(Verb.STORE, first + n, 1, 1, 1) for n in range(1_000)], mark=1_001)
    world.pass_time(10)
    reason = b"\x01" * limits.TEXT_BYTES_MAX
    world.batch(S, [Op(Verb.PARK, first + n, 1, 2, record=reason) for n in range(1_000)])
    seen: list[str] = []
    after = 0
    while True:
        page = desk.ask("sessions.list", limit=1_000, after=after)
        assert page["sessions"]
        seen += [session["id"] for session in page["sessions"]]
        after = SessionId.parse(seen[-1]).index
        if not page["more"]:
            break
    assert len(seen) == len(set(seen)) == 1_000
    assert all(session["detail"] == reason.decode() for session in page["sessions"])


def test_show_tells_all_of_one_session_and_its_records_when_asked() -> None:
    """State, why, fence, attempts; records in base64 only on demand."""
    desk = Desk()
    world = desk.world
    id = repeating(world)
    shown = desk.ask("sessions.show", id=str(id))
    assert (shown["id"], shown["state"]) == (str(id), "repeating")
    assert (shown["why"], shown["detail"]) == ("REPEATING_AT", "users")
    assert (shown["epoch"], shown["fence"], shown["repeats"], shown["record_bytes"]) == (2, str(1 << 32 | 2), 1, [6])
    assert "records_base64" not in shown
    world.batch(S, [Op(Verb.FAIL, id.index, id.term, 2, record=b"no luck")])
    shown = desk.ask("sessions.show", id=str(id), records=True)
    assert list(map(base64.b64decode, shown["records_base64"])) == [b"\x00first"]
    [attempt] = shown["attempts"]
    assert (attempt["outcome"], attempt["charged"], attempt["message"]) == ("fail", True, "no luck")


def test_show_of_a_big_session_fits_in_a_message() -> None:
    """Records beyond the page are left out; their sizes are still told."""
    desk = Desk()
    world = desk.world
    id = world.new(A)
    for seq in range(1, 4):
        world.batch(A, [Op(Verb.APPEND, id.index, id.term, 1, seq, record=b"x" * 300_000)])
    shown = desk.ask("sessions.show", id=str(id), records=True)
    assert shown["record_bytes"] == [300_000] * 3
    assert len(shown["records_base64"]) == 1


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("word", "state"), [("kick", "STORED"), ("cancel", "STORED"), ("park", "PARKED"), ("delete", "")]
)
def test_a_word_is_logged_before_it_is_answered(word: str, state: str) -> None:
    """Who and why stand in the log; the answer comes when it is committed."""
    desk = Desk()
    world = desk.world
    id = world.new(A)
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=60_000)])
    request = AdminRequest(7, f"sessions.{word}", json.dumps({"id": str(id), "who": "ada", "reason": "why not"}))
    message = wire.unpack(wire.encode(request, incarnation=OPERATOR))[0]
    desk.door.receive("operator", message, request, world.now_ms)
    assert world.pipe.outbox == []
    [reply] = world.work()
    assert isinstance(reply, AdminReply)
    assert json.loads(reply.body) == {"id": str(id), word: True}
    found = world.session(id)
    assert (SessionState(found.state).name if found else "") == state
    assert any(b"ada" in frame.batch and b"why not" in frame.batch for frame in world.log.restarted().replay())


def test_a_word_that_does_not_fit_the_state_is_refused() -> None:
    """A kick of an open session: BAD_REQUEST, which names word and state."""
    desk = Desk()
    id = desk.world.new(A)
    reply = desk.reply("sessions.kick", json.dumps({"id": str(id)}))
    assert reply.code == Code.BAD_REQUEST
    assert "kick" in reply.message
    assert "OPEN" in reply.message


def test_two_words_at_once_are_both_answered() -> None:
    """Two operators delete the same session in one group: one did, the other is told that there is none."""
    desk = Desk()
    world = desk.world
    id = world.new(A)
    for number in (1, 2):
        request = AdminRequest(number, "sessions.delete", json.dumps({"id": str(id)}))
        message = wire.unpack(wire.encode(request, incarnation=OPERATOR))[0]
        desk.door.receive("operator", message, request, world.now_ms)
    first, second = world.work()
    assert isinstance(first, AdminReply)
    assert isinstance(second, AdminReply)
    assert (first.code, second.code) == (Code.OK, Code.NO_SUCH_SESSION)


# ---------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("id", ["1.1.999", "2.1.3", "1.9.3"])
def test_a_session_that_is_not_there(id: str) -> None:
    """Finished, never made, another pipe's: NO_SUCH_SESSION, for every verb on one session."""
    desk = Desk()
    desk.world.new(A)
    for verb in ("show", "kick", "delete", "park", "cancel"):
        assert desk.reply(f"sessions.{verb}", json.dumps({"id": id})).code == Code.NO_SUCH_SESSION


@pytest.mark.parametrize(
    ("verb", "arguments", "named"),
    [
        ("explode", "{}", "sessions.list"),
        ("sessions.", "{}", "sessions.kick"),
        ("status", "", "JSON"),
        ("status", "null", "JSON object"),
        ("status", "[1]", "JSON object"),
        ("status", "[" * 100_000, "nested"),
        ("sessions.show", "{}", "1.3.48213"),
        ("sessions.show", '{"id": ["1.1.3"]}', "1.3.48213"),
        ("sessions.show", '{"id": "01.1.3"}', "1.3.48213"),
        ("sessions.list", '{"limit": "7"}', "limit"),
        ("sessions.list", '{"limit": 1.5}', "limit"),
        ("sessions.list", '{"after": -1}', "after"),
        ("sessions.list", '{"state": "done"}', "parked"),
        ("sessions.list", '{"kind": "user-creat"}', "user-create"),
        ("sessions.list", '{"kind": {"a": 1}}', "user-create"),
    ],
)
def test_what_is_wrong_is_said(verb: str, arguments: str, named: str) -> None:
    """BAD_REQUEST, with what is allowed or meant; never an exception."""
    reply = Desk().reply(verb, arguments)
    assert reply.code == Code.BAD_REQUEST
    if named != "JSON":
        assert named in reply.message
    assert reply.message


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\U0001f600" * 10_000, "x" * 100_000, '"' * 500])
def test_any_text_as_who_why_and_id(text: str) -> None:
    """What UTF-8 cannot say, and what is long, is logged as far as it goes or refused; the pipe lives."""
    desk = Desk()
    id = desk.world.new(A)
    arguments = json.dumps({"id": str(id), "who": text, "reason": text})
    assert desk.reply("sessions.park", arguments).code in (Code.OK, Code.BAD_REQUEST)
    assert desk.reply("sessions.show", json.dumps({"id": text})).code == Code.BAD_REQUEST
    assert desk.reply("sessions.list", json.dumps({"kind": text})).code == Code.BAD_REQUEST
    desk.ask("sessions.list")


# ---------------------------------------------------------------------- why


def test_every_live_session_has_exactly_one_answer_and_it_goes_when_its_cause_goes() -> None:
    """The first that holds of semantics, "Why is this session not running?"; computed, not stored."""
    desk = Desk()
    world = desk.world
    id = world.new(A)

    def why() -> str:
        reason: str = desk.ask("sessions.show", id=str(id))["why"]
        return reason

    assert why() == "OPEN_BY"
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1, argument=60_000)])
    assert why() == "TIMER"
    desk.ask("sessions.kick", id=str(id))
    assert why() == "NO_SIDECAR"
    world.pusher.probed(S, world.now_ms)
    world.work()
    greeting = world.pushed[-1][1]
    assert isinstance(greeting, Greeting)
    world.tell(S, SidecarHello(greeting.dial, greeting.term, "users", (), (KindCredit(1, 0, 0),)))
    assert why() == "NO_CREDIT"
    world.pipe.disk_level = 2
    assert why() == "DISK"
    world.pipe.disk_level = 0
    world.accept(S, greeting.dial, 0)
    assert why() == "REPEATING_AT"
    desk.ask("sessions.park", id=str(id), reason="later")
    assert desk.ask("sessions.show", id=str(id))["detail"] == "later"
    assert why() == "PARKED"


def test_words_that_cannot_be_logged_are_refused_and_what_is_asked_is_answered() -> None:
    """With the disk full to the last byte of the reserve an operator still sees why, and is told what to do."""
    desk = Desk()
    id = desk.world.new(A)
    desk.world.pipe.disk_level, desk.world.pipe.disk_spent = 2, True
    for verb, arguments in (("sessions.delete", {"id": str(id)}), ("clock.accept", {})):
        reply = desk.reply(verb, json.dumps(arguments))
        assert reply.code == Code.DISK_LOW
        assert "make room" in reply.message
    assert desk.ask("status")["disk_level"] == 2
    assert desk.ask("sessions.show", id=str(id))["why"] == "OPEN_BY"


def test_why_of_a_kind_that_left_the_routes_and_of_a_clock_that_leapt() -> None:
    """ORPHAN_KIND before anything that the kind's policy would tell; CLOCK holds all that wait."""
    world = World()
    id = world.new(A)
    world.batch(A, [Op(Verb.STORE, id.index, id.term, 1, 1)])
    orphaned = World(log=world.log.restarted(), policy=policy_of([KindPolicy(2, "two", ("users",))]))
    assert Desk(orphaned).ask("sessions.show", id=str(id))["why"] == "ORPHAN_KIND"
    leapt = World(log=orphaned.log.restarted(), wall_ms=world.log_ms + 30 * 86_400_000)
    assert Desk(leapt).ask("sessions.show", id=str(id))["why"] == "CLOCK"
    assert Desk(leapt).ask("status")["clock_held"] is True
