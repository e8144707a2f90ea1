"""Policy: plain values that travel in the log, with the defaults that the user reads in configs/."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from mpy6a import limits, policy
from mpy6a.policy import KindPolicy, Policy, nearest, policy_of

CREATE = KindPolicy(7, "user-create", ("users", "search"))
DELETE = KindPolicy(2, "user-delete", ("users",), handler="http", delay_ms=5)


def test_a_kind_is_found_by_number_and_by_name() -> None:
    """The wire speaks of numbers, people of names: both lead to the same kind."""
    both = policy_of([CREATE, DELETE])
    assert both.kinds[7] is both.kind_named("user-create") is CREATE
    assert both.kind_named("user-update") is None
    assert 3 not in both.kinds


def test_kinds_are_ascending_by_number_however_they_were_given() -> None:
    """The Policy frame lists kinds by number, so the same routes are the same bytes."""
    assert list(policy_of([CREATE, DELETE]).kinds) == [2, 7]
    assert policy_of([CREATE, DELETE]) == policy_of([DELETE, CREATE])
    assert policy_of([CREATE]) != policy_of([DELETE])


def test_an_unknown_name_brings_the_nearest_ones() -> None:
    """UNKNOWN_KIND says what may have been meant, the best guess first."""
    both = policy_of([CREATE, DELETE, KindPolicy(1, "report", ())])
    assert both.nearest("user-craete")[0] == "user-create"
    assert both.nearest("zzz") == ()
    assert nearest("user-create" * 100_000, ["user-create"]) == ()


def test_a_policy_cannot_be_changed() -> None:
    """It is in force until the next Policy frame: nobody changes it in between."""
    one = policy_of([CREATE])
    with pytest.raises(TypeError):
        one.kinds[9] = DELETE  # type: ignore[index]  # that it cannot be assigned is what is shown
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.lease_ms = 1  # type: ignore[misc]  # the same
    with pytest.raises(dataclasses.FrozenInstanceError):
        CREATE.id = 1  # type: ignore[misc]  # the same


def test_later_changes_of_the_mapping_it_was_made_of_do_not_reach_it() -> None:
    """A policy owns its kinds."""
    given = {7: CREATE}
    made = Policy(given)
    given[2] = DELETE
    assert list(made.kinds) == [7]


def test_a_kind_holds_only_what_the_log_can_carry() -> None:
    """Ints, a bool, strings and a tuple of strings: schemas/log.capnp has a field for each, and no other."""
    schema = (Path(__file__).parents[2] / "schemas" / "log.capnp").read_text()
    carried = schema.split("struct KindPolicy {")[1].split("}")[0]
    names = {line.split("@")[0].strip() for line in carried.splitlines() if "@" in line}
    fields = dataclasses.fields(KindPolicy)
    camel = {field.name: field.name.title().replace("_", "") for field in fields}
    assert {name[0].lower() + name[1:] for name in camel.values()} == names
    assert {field.type for field in fields} <= {"bool", "int", "str", "tuple[str, ...]"}


def test_defaults_are_those_of_the_semantics() -> None:
    """ "Repeat policy of a kind": back-off 1 s to 10 min, idle and silence 5 min, limits 200 and 1,000."""
    kind = KindPolicy(1, "a", ("b",))
    assert (kind.backoff_base_ms, kind.backoff_cap_ms) == (1_000, 600_000)
    assert (kind.delay_ms, kind.jitter_ms, kind.idle_ms, kind.silence_ms) == (1_000, 0, 300_000, 300_000)
    assert (kind.timeout_ms, kind.concurrency, kind.barren_limit, kind.charge_limit) == (
        30_000,
        64,
        200,
        1_000,
    )
    empty = Policy()
    assert (empty.lease_ms, empty.orphans, dict(empty.kinds)) == (15_000, policy.ORPHANS, {})
    assert empty.record_bytes_max == limits.RECORD_BYTES_MAX
    assert (empty.session_bytes_max, empty.session_records_max) == (16 * limits.MIB, 4_096)


def test_two_kinds_never_share_a_number_or_name() -> None:
    """Config refuses both with a line; a policy that has them is a bug of ours."""
    with pytest.raises(AssertionError):
        Policy({1: CREATE})
    with pytest.raises(AssertionError):
        policy_of([CREATE, dataclasses.replace(CREATE, id=8)])


def test_a_kind_survives_being_copied_between_processes() -> None:
    """A child process of the sidecar gets its kinds by pickle."""
    assert pickle.loads(pickle.dumps(CREATE)) == CREATE
