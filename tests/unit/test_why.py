"""Nobody guesses: a session's reason in a sentence with what to do, as a filter, and for a whole kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mpy6a.errors import Code
from mpy6a.messages import KindCredit, SidecarHello
from mpy6a.model import Op, SessionId, Verb
from mpy6a.policy import KindPolicy, policy_of
from mpy6a.reasons import REASONS, sentence
from tests.fakes.core import World
from tests.unit.test_admin import A, Desk, S

WHY = Path(__file__).parents[2] / "mpy6a" / "why.py"
LATER = ("SCHEMA", "BEHIND", "SOLO", "APP_UNHEALTHY")  # of semantics; no policy has them yet


def stored(world: World, kind: int = 1, after_ms: int = 0) -> SessionId:
    """A session of a kind that waits for its time."""
    request = world.pipe.state.next_index
    ack = world.batch(A, [Op(Verb.NEW, request, argument=kind)], mark=request)
    [result] = ack.results or [None]
    index, term = (ack.first_index, ack.term) if result is None else (result.index, result.term)
    world.batch(A, [Op(Verb.STORE, index, term, 1, 1, argument=after_ms)])
    return SessionId(1, term, index)


def test_every_reason_that_can_be_given_has_its_words_and_no_other() -> None:
    """In the order of semantics, "Why is this session not running?"."""
    given = set(re.findall(r'return "([A-Z_]+)"', WHY.read_text(encoding="utf-8")))
    assert given == set(REASONS)
    assert not given & set(LATER)


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_is_one_sentence_and_what_to_do(reason: str) -> None:
    facts = {"id": "1.3.48213", "kind": "user-create", "why": reason, "detail": "none of users is connected"}
    said, todo = sentence(facts)
    assert said.startswith("1.3.48213 (user-create) ")
    assert said.endswith(".")
    assert todo.endswith(".")
    assert "{" not in said + todo
    empty, _ = sentence(facts | {"detail": ""})
    assert not re.search(r"[ :]\.$", empty)


def test_a_reason_of_a_newer_pipe_is_told_as_it_is() -> None:
    said, todo = sentence({"id": "1.3.5", "kind": "k", "why": "SOLO", "detail": "its handler died twice"})
    assert said == "1.3.5 (k) waits: SOLO: its handler died twice."
    assert "sessions show 1.3.5" in todo


def test_braces_in_what_somebody_typed_are_text() -> None:
    said, _ = sentence({"id": "1.3.5", "kind": "{id}", "why": "PARKED", "detail": "{kind} {0} {nobody}"})
    assert said == "1.3.5 ({id}) is parked: {kind} {0} {nobody}."


def test_a_list_is_filtered_by_reason_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks at so many sessions only; `after` takes the next ones, also when none was found."""
    monkeypatch.setattr("mpy6a.admin.WHY_MAX", 2)
    desk = Desk()
    waits = [stored(desk.world, after_ms=3_600_000) for _ in range(3)]
    due = stored(desk.world)
    desk.world.pass_time(10)

    def listed(why: str) -> list[str]:
        found: list[str] = []
        arguments: dict[str, Any] = {"why": why}
        for _ in range(10):
            page = desk.ask("sessions.list", **arguments)
            found += [one["id"] for one in page["sessions"]]
            assert {one["why"] for one in page["sessions"]} <= {why.upper()}
            if not page["more"]:
                return found
            arguments["after"] = page["after"]
        raise AssertionError("a list without an end")

    assert listed("TIMER") == [str(one) for one in waits]
    assert listed("no_sidecar") == [str(due)]
    assert listed("PARKED") == []


def test_a_reason_that_is_none_is_refused_with_those_that_are() -> None:
    reply = Desk().reply("sessions.list", json.dumps({"why": "TIRED"}))
    assert reply.code == Code.BAD_REQUEST
    assert "'TIRED'" in reply.message
    assert all(reason in reply.message for reason in REASONS)


def test_a_kind_says_what_its_due_sessions_wait_for_and_how_long() -> None:
    """Of the kind, not of one session: found without a look at them."""
    world = World(policy=policy_of([KindPolicy(1, "one", ("users",)), KindPolicy(2, "two", ("users",))]))
    desk = Desk(world)
    stored(world, kind=1)
    stored(world, kind=2, after_ms=3_600_000)
    world.pass_time(2_000)

    def waits() -> list[tuple[str, bool]]:
        return [(one["why"], one["oldest_due_ms"] is None) for one in desk.ask("kinds.list")["kinds"]]

    one, two = desk.ask("kinds.list")["kinds"]
    assert (one["why"], one["detail"]) == ("NO_SIDECAR", "none of users is connected")
    assert 1_900 <= one["oldest_due_ms"] <= 2_000
    assert (two["why"], two["oldest_due_ms"]) == ("", None)
    desk.ask("kinds.pause", kind="one", reason="looking")
    assert waits() == [("KIND_PAUSED", False), ("", True)]
    desk.ask("kinds.resume", kind="one")
    world.pusher.probed(S, world.now_ms)
    world.work()
    greeting: Any = world.pushed[-1][1]
    world.tell(S, SidecarHello(greeting.dial, greeting.term, "users", (), (KindCredit(1, 0, 0),)))
    assert waits() == [("NO_CREDIT", False), ("", True)]
    world.pipe.disk_level = 2
    assert waits() == [("DISK", False), ("", True)]
    world.pipe.disk_level = 0
    world.accept(S, greeting.dial, 0)
    assert waits() == [("", True), ("", True)]
