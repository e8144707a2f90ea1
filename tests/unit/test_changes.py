"""What a reload would change, in words, and what it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from mpy6a.changes import Counts, Setup, changes, refusals
from mpy6a.policy import KindPolicy, Policy, policy_of

CREATE = KindPolicy(1, "user-create", ("users",), concurrency=32)
ERASE = KindPolicy(2, "user-erase", ("users",))
BEFORE = Setup(
    policy_of([CREATE, ERASE]), {"users": "tcp://a:1", "search": "tcp://b:1"}, {"disk.low": "5%"}, {"data": "/data"}
)
LIVE = {2: Counts(0, 1_204, 0, 3)}


def counted(live: dict[int, Counts] | None) -> Callable[[int], Counts]:
    return lambda number: (LIVE if live is None else live).get(number, Counts())


def told(after: Setup, live: dict[int, Counts] | None = None) -> list[str]:
    return list(changes(BEFORE, after, counted(live)))


def refused(after: Setup, live: dict[int, Counts] | None = None, left: dict[int, str] | None = None) -> list[str]:
    return list(refusals(BEFORE, after, counted(live), left or {}))


def kinds(*some: KindPolicy, **more: Any) -> Setup:
    return replace(BEFORE, policy=replace(Policy({kind.id: kind for kind in some}), **more))


def test_nothing_changes() -> None:
    assert told(BEFORE) == refused(BEFORE) == []


def test_a_kind_that_leaves_with_sessions_is_refused_unless_the_file_says_what_becomes_of_them() -> None:
    assert refused(kinds(CREATE)) == [
        "kind user-erase (2) would leave the routes with 1,204 stored and 3 parked sessions: finish them, or say"
        " `orphans: hold` or `orphans: park` there"
    ]
    assert refused(kinds(CREATE), {}) == []
    hold, park = kinds(CREATE, orphans="hold"), kinds(CREATE, orphans="park")
    assert refused(hold) == refused(park) == []
    assert told(hold) == [
        "kind user-erase removed: 1,204 stored and 3 parked sessions would wait as ORPHAN_KIND",
        "orphans refuse -> hold",
    ]
    assert told(park)[0] == (
        "kind user-erase removed: 1,204 stored and 3 parked sessions of it; what is stored would be parked"
    )
    assert told(hold, {})[0] == "kind user-erase removed"


@pytest.mark.parametrize("orphans", ["refuse", "hold", "park"])
def test_a_number_and_a_name_stay_together_while_sessions_live(orphans: str) -> None:
    """Whatever `orphans` says: a session must not come to another kind's handler."""
    [other_number] = refused(kinds(CREATE, replace(ERASE, id=7), orphans=orphans))
    assert other_number.startswith("kind user-erase would be number 7 instead of 2, with 1,204 stored and 3 parked")
    [other_name] = refused(kinds(CREATE, replace(ERASE, name="user-drop"), orphans=orphans))
    assert other_name.startswith("kind user-erase (2) would be called user-drop, with 1,204 stored and 3 parked")
    assert refused(kinds(CREATE, replace(ERASE, name="user-drop"), orphans=orphans), {}) == []


def test_two_kinds_do_not_change_places() -> None:
    swapped = kinds(replace(CREATE, id=2), replace(ERASE, id=1))
    assert len(refused(swapped)) == 1
    assert len(refused(swapped, {1: Counts(1), 2: Counts(0, 1)})) == 2
    assert refused(swapped, {}) == []


def test_a_kind_that_comes_back_has_its_name() -> None:
    after = kinds(CREATE, ERASE, KindPolicy(3, "user-move", ("users",)))
    live = {3: Counts(0, 1)}
    assert refused(after, live, {3: "user-move"}) == refused(after, live) == []
    assert told(after, live) == ["kind user-move (3) added: 1 stored session of it go on"]
    [why] = refused(after, live, {3: "user-drop"})
    assert why.startswith("kind user-drop (3) would be called user-move, with 1 stored session:")


def test_every_field_of_a_kind_is_compared() -> None:
    """Also those that come later: by the dataclass, not by a list here."""
    assert told(kinds(replace(CREATE, concurrency=8, delay_ms=1_500, sidecars=("users", "search")), ERASE)) == [
        "sidecars of user-create users -> users, search",
        "delay of user-create 1s -> 1s500ms",
        "concurrency of user-create 32 -> 8",
    ]
    for one in fields(KindPolicy):
        value = getattr(CREATE, one.name)
        other = value + 7 if isinstance(value, int) else (*value, "x") if isinstance(value, tuple) else f"{value}x"
        if isinstance(value, int | str | tuple):
            more: dict[str, Any] = {one.name: other}
            [line] = told(kinds(replace(CREATE, **more), ERASE), {})[-1:]
            assert one.name.removesuffix("_ms") in line or one.name in ("id", "name")


def test_values_of_the_pipe() -> None:
    assert told(replace(BEFORE, values={"disk.low": "10%"})) == ["disk.low 5% -> 10%"]
    assert told(replace(BEFORE, sidecars={"users": "tcp://a:2", "more": "tcp://c:1"})) == [
        "address of sidecar users tcp://a:1 -> tcp://a:2",
        "sidecar search removed: what it holds is released",
        "sidecar more added",
    ]
    assert told(kinds(CREATE, ERASE, lease_ms=60_000, record_bytes_max=1 << 19)) == [
        "lease 15s -> 1m", "limits.record 1MiB -> 512KiB",
    ]  # fmt: skip


def test_what_needs_a_restart_is_named() -> None:
    assert refused(replace(BEFORE, fixed={"data": "/other"})) == [
        "data: /other needs a restart; the pipe runs with /data"
    ]
    [placed] = refusals(BEFORE, replace(BEFORE, fixed={"data": "/other"}), counted({}), {}, {"data": "pipe.yaml:2"})
    assert placed.startswith("pipe.yaml:2: data: /other")
    [lease] = refused(kinds(CREATE, ERASE, lease_ms=1_000))
    assert lease.startswith("lease: 1s is less than 15s")


def test_counts_in_words() -> None:
    assert str(Counts()) == "no sessions"
    assert str(Counts(1)) == "1 open session"
    assert str(Counts(1, 2, 3, 4)) == "1 open, 2 stored, 3 repeating and 4 parked sessions"
