"""The bytes of every message and of every body of the log are frozen: they stand in logs and in other releases.

A new sample is frozen once by `python -m tests.golden.wire.test_frozen_bytes`, which never overwrites a file. If a test
here fails, the change breaks a peer or a log: mend the change. Only before the first release may a file be made anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mpy6a import entries, wire
from tests.wire_samples import ADMIN, BODIES, INCARNATION, MESSAGES, OPENING, POLICY, PROPOSALS

HERE = Path(__file__).parent


def _encoded(name: str) -> bytes:
    if name in BODIES:
        return BODIES[name]
    return wire.encode(MESSAGES[name], incarnation=INCARNATION, pipe=3, principal=1001)


def _lines(data: bytes) -> str:
    """A word a line, so that a difference shows the field."""
    return "".join(data[at : at + 8].hex(" ") + "\n" for at in range(0, len(data), 8))


def _frozen(name: str) -> bytes:
    return bytes.fromhex((HERE / f"{name}.hex").read_text())


NAMES = [*MESSAGES, *BODIES]
# What an earlier release wrote and this one reads: a struct got fields at its end.
OLD = {"log_policy_1": "Policy before rates and breakers"}


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_as_they_were(name: str) -> None:
    """This release writes byte for byte what the first one wrote."""
    assert _lines(_encoded(name)) == _lines(_frozen(name))


@pytest.mark.parametrize("name", MESSAGES)
def test_old_messages_are_read(name: str) -> None:
    """This release reads what the first one wrote."""
    (message,) = wire.unpack(_frozen(name))
    assert wire.decode(message) == MESSAGES[name]


def test_old_log_bodies_are_read() -> None:
    """This release reads the log of the first one."""
    assert entries.decode_opening(_frozen("log_opening")) == OPENING
    assert entries.decode_policy(_frozen("log_policy")) == POLICY
    kinds = {
        number: dataclasses.replace(kind, rate=0, rate_ms=0, burst=0, concurrency_total=0, breaker=0)
        for number, kind in POLICY.kinds.items()
    }
    assert entries.decode_policy(_frozen("log_policy_1")) == dataclasses.replace(POLICY, kinds=kinds)
    assert entries.decode_proposals(_frozen("log_proposals")) == PROPOSALS
    assert entries.decode_admin(_frozen("log_admin")) == ADMIN


def test_nothing_frozen_is_forgotten() -> None:
    """Every file has its sample and every sample its file."""
    assert {path.stem for path in HERE.glob("*.hex")} == {*NAMES, *OLD}


if __name__ == "__main__":
    for fresh in NAMES:
        path = HERE / f"{fresh}.hex"
        if not path.exists():
            path.write_text(_lines(_encoded(fresh)))
            print(path)
