"""What the process that reads a pipe's files tells the pipe, part by part: the pipe builds little of it at once.

Plain values; they travel by pickle from a process that the pipe has started itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from mpy6a.changes import Setup
from mpy6a.disk import DiskSettings
from mpy6a.policy import KindPolicy, Policy


class Known(NamedTuple):
    """What the reading process is told of the pipe."""

    path: str
    pipe: int
    term: int
    log_ms: int
    hop: bytes


@dataclass(frozen=True, slots=True)
class Kinds:
    """Some of the kinds, ascending."""

    kinds: tuple[KindPolicy, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """The rest of a setup, last: `policy` are the fields beside the kinds, `policy_body` is the frame's with them, and
    `welcome_body` the message's. `places`: file and line of keys of pipe.yaml."""

    policy: Mapping[str, Any]
    sidecars: Mapping[str, str]
    values: Mapping[str, str]
    fixed: Mapping[str, str]
    disk: DiskSettings
    places: Mapping[str, str]
    policy_body: bytes = field(repr=False)
    welcome_body: bytes = field(repr=False)

    @classmethod
    def of(cls, setup: Setup, places: Mapping[str, str], policy_body: bytes, welcome_body: bytes) -> Whole:
        """What is left of a setup without its kinds."""
        names = [one.name for one in fields(Policy) if one.init and one.name != "kinds"]
        policy = {name: getattr(setup.policy, name) for name in names}
        return cls(
            policy, dict(setup.sidecars), setup.values, setup.fixed, setup.disk, places, policy_body, welcome_body
        )

    def setup(self, kinds: Mapping[int, KindPolicy]) -> Setup:
        """The setup with these kinds."""
        return Setup(Policy(kinds, **self.policy), self.sidecars, self.values, self.fixed, self.disk)


@dataclass(frozen=True, slots=True)
class Bad:
    """The files cannot be taken: problems as values, each with its sentence as `text`; or the reading failed."""

    problems: tuple[Mapping[str, object], ...]


Part = Kinds | Whole | Bad
