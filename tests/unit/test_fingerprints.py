"""Failed runs of one cause have one fingerprint, whatever ids and numbers their messages hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpy6a.commands.operators import _by_error
from mpy6a.fingerprints import LENGTH, error_class, fingerprint
from mpy6a.model import Op, SessionId, Verb
from tests.fakes.core import World
from tests.unit.test_admin import A, Desk, S, repeating


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: no user 7", "ValueError: no user 48213"),
        ("ConnectError: http://10.0.0.7:8001/users: refused", "ConnectError: http://10.0.0.12:9001/users: refused"),
        ("KeyError: 'ada'", "KeyError: 'grace'"),
        ('status 500: "out of cheese"', 'status 500: "out of time"'),
        (
            "no row 6ba7b810-9dad-11d1-80b4-00c04fd430c8 in t",
            "no row 12345678-9dad-11d1-80b4-00c04fd430ff in t",
        ),
        ("object at 0x7f12ab", "object at 0xdeadbeef12"),
        ("hash 9f86d081884c7d65 differs", "hash 2c26b46b68ffc68f differs"),
        ("took 1.25 s\nand more", "took 30 s and  more"),
        ("x" * LENGTH + "one tail", "x" * LENGTH + "another"),
    ],
)
def test_what_changes_from_run_to_run_does_not_count(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: no user 7", "KeyError: no user 7"),
        ("status: refused", "status: timed out"),
        ("facade is broken", "decade is broken"),  # words of hex letters are words
    ],
)
def test_another_cause_is_another_fingerprint(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("ValueError: no user 7", "ValueError"),
        ("httpx.ReadTimeout", "httpx.ReadTimeout"),
        ("ReadTimeout('slow')", "ReadTimeout"),
        ("no outcome within 30000 ms", ""),
        ("500 Internal Server Error", ""),
        ("", ""),
    ],
)
def test_the_class_is_what_an_error_begins_with(message: str, name: str) -> None:
    assert error_class(message) == name


@given(st.text(max_size=600))
def test_any_text_has_one_and_it_is_short(message: str) -> None:
    found = fingerprint(message)
    assert found == fingerprint(message)
    assert len(found) == (8 if message else 0)
    assert len(error_class(message)) <= len(message)


# ---------------------------------------------------------------------- as operators see it


def failed(world: World, message: str) -> SessionId:
    """A session whose handler failed with that message."""
    id = repeating(world)
    world.batch(S, [Op(Verb.FAIL, id.index, id.term, 2, record=message.encode())])
    return id


def test_show_tells_class_and_fingerprint_of_every_attempt() -> None:
    desk = Desk()
    id = failed(desk.world, "ValueError: no user 7")
    [attempt] = desk.ask("sessions.show", id=str(id))["attempts"]
    assert (attempt["error"], attempt["fingerprint"]) == ("ValueError", fingerprint("ValueError: no user 8"))
    assert (attempt["outcome"], attempt["charged"], attempt["message"]) == ("fail", True, "ValueError: no user 7")


def test_a_list_of_those_whose_last_run_failed_is_counted_by_error() -> None:
    """By kind and fingerprint, the most first, each with an example; who never ran is not in it."""
    desk = Desk()
    first = failed(desk.world, "ValueError: no user 7")
    other = failed(desk.world, "KeyError: 'ada'")
    again = failed(desk.world, "ValueError: no user 8")
    desk.world.new(A)
    page = desk.ask("sessions.list", failed=True)
    assert [one["id"] for one in page["sessions"]] == [str(first), str(other), str(again)]
    groups = _by_error(page["sessions"])
    assert [(one["error"], one["sessions"], one["example"]) for one in groups] == [
        ("ValueError", 2, str(first)), ("KeyError", 1, str(other)),
    ]  # fmt: skip
    assert groups[0]["message"] == "ValueError: no user 7"
    assert groups[0]["fingerprint"] != groups[1]["fingerprint"]
