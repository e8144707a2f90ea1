"""What a reload would change, in words, and what it may not: two setups of a pipe, compared field by field.

Pure. The pipe asks before it takes a reload, `mpy6a config plan` asks the same of a file that nobody has taken yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

from mpy6a.disk import DiskSettings
from mpy6a.policy import KindPolicy, Policy
from mpy6a.units import duration_text, size_text

# Keys of the files whose fields have another name.
_KEYS: Final = {
    "record_bytes_max": "limits.record",
    "session_bytes_max": "limits.session",
    "session_records_max": "limits.session_records",
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What a pipe runs with. `values` and `fixed` are keys of pipe.yaml with their values as text: those that a reload
    takes beside the policy and the sidecars (`disk`), and those that need a restart."""

    policy: Policy
    sidecars: Mapping[str, str]
    values: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    disk: DiskSettings = field(default_factory=DiskSettings)


class Counts(NamedTuple):
    """Live sessions of a kind."""

    open: int = 0
    stored: int = 0
    repeating: int = 0
    parked: int = 0

    def __str__(self) -> str:
        """`1,204 stored and 3 parked sessions`."""
        parts = [f"{count:,} {state}" for state, count in zip(self._fields, self, strict=True) if count]
        text = " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts) or "no"
        return f"{text} session{'' if sum(self) == 1 else 's'}"


Live = Callable[[int], Counts]  # by the kind's number


def refusals(
    before: Setup,
    after: Setup,
    live: Live,
    left: Mapping[int, str],
    places: Mapping[str, str] | None = None,
    changed: Iterable[int] | None = None,
) -> Iterator[str]:
    """Why this may not be taken while the pipe runs; each says what to do. `left`: kinds that are in no route now, and
    the names they had. `places`: file and line of keys; `changed`: kinds that are not equal, where that is known."""
    at = {key: f"{place}: " for key, place in (places or {}).items()}
    for key, value in after.fixed.items():
        if before.fixed.get(key) != value:
            yield f"{at.get(key, '')}{key}: {value} needs a restart; the pipe runs with {before.fixed.get(key)}"
    old, new = before.policy, after.policy
    if new.lease_ms < old.lease_ms:
        shorter, longer = duration_text(new.lease_ms), duration_text(old.lease_ms)
        lower = f"lease: {shorter} is less than {longer}: to lower it needs a restart, of all clients too"
        yield at.get("lease", "") + lower
    for number, kind in _leaving(old, new):
        held = live(number)
        again = new.kind_named(kind.name)
        if not any(held):
            continue
        if again is not None:
            yield (
                f"kind {kind.name} would be number {again.id} instead of {number}, with {held} of the old one: keep the"
                " number, or finish them first"
            )
        elif new.orphans == "refuse":
            yield (
                f"kind {kind.name} ({number}) would leave the routes with {held}: finish them, or say `orphans: hold`"
                " or `orphans: park` there"
            )
    for number, name in _renamed(old, new, left, new.kinds if changed is None else (*changed, *left)):
        held = live(number)
        if any(held):
            yield (
                f"kind {name} ({number}) would be called {new.kinds[number].name}, with {held}: another kind needs a"
                " number of its own; a new name for the same has to wait until they are finished"
            )


def changes(before: Setup, after: Setup, live: Live, changed: Iterable[int] | None = None) -> Iterator[str]:
    """What would be different, each in words. `changed`: the kinds that are not equal, where that is known already."""
    old, new = before.policy, after.policy
    for number, kind in _leaving(old, new):
        held = live(number)
        yield f"kind {kind.name} removed{_become(held, new)}"
    for number, kind in new.kinds.items():
        if number not in old.kinds:
            held = live(number)
            yield f"kind {kind.name} ({number}) added{f': {held} of it go on' if any(held) else ''}"
    if changed is None:
        changed = (number for number, kind in new.kinds.items() if old.kinds.get(number, kind) != kind)
    for number in changed:
        yield from _differences(old.kinds[number], new.kinds[number])
    for name in (one.name for one in fields(Policy) if one.compare and one.name != "kinds"):
        if getattr(old, name) != getattr(new, name):
            yield f"{_key(name)} {_text(name, getattr(old, name))} -> {_text(name, getattr(new, name))}"
    for name, address in before.sidecars.items():
        if name not in after.sidecars:
            yield f"sidecar {name} removed: what it holds is released"
        elif after.sidecars[name] != address:
            yield f"address of sidecar {name} {address} -> {after.sidecars[name]}"
    yield from (f"sidecar {name} added" for name in after.sidecars if name not in before.sidecars)
    for key, value in after.values.items():
        if before.values.get(key) != value:
            yield f"{key} {before.values.get(key)} -> {value}"


def _leaving(old: Policy, new: Policy) -> Iterator[tuple[int, KindPolicy]]:
    return ((number, kind) for number, kind in old.kinds.items() if number not in new.kinds)


def _renamed(
    old: Policy, new: Policy, left: Mapping[int, str], numbers: Iterable[int]
) -> Iterator[tuple[int, str]]:
    for number in numbers:
        kind, before = new.kinds.get(number), old.kinds.get(number)
        if kind is None:
            continue
        name = before.name if before is not None else left.get(number, kind.name)
        if name != kind.name:
            yield number, name


def _become(held: Counts, new: Policy) -> str:
    """What becomes of the sessions of a kind that leaves."""
    if not any(held):
        return ""
    if new.orphans == "park":
        return f": {held} of it; what is stored would be parked"
    return f": {held} would wait as ORPHAN_KIND"


def _differences(old: KindPolicy, new: KindPolicy) -> Iterator[str]:
    for one in fields(KindPolicy):
        before, after = getattr(old, one.name), getattr(new, one.name)
        if before != after:
            yield f"{_key(one.name)} of {old.name} {_text(one.name, before)} -> {_text(one.name, after)}"


def _key(name: str) -> str:
    """A field as the files call it."""
    return _KEYS.get(name, name.removesuffix("_ms"))


def _text(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_ms"):
            return duration_text(value)
        if "_bytes" in name:
            return size_text(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
