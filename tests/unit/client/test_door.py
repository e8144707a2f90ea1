"""Which door a client takes, and what is said about an address that cannot be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpy6a import errors
from mpy6a.client import door


def test_the_argument_comes_before_the_variable() -> None:
    """Argument > $MPY6A_SIDECAR."""
    environ = {"MPY6A_SIDECAR": "/run/b.sock"}
    assert door.find("/run/a.sock", environ=environ) == "ipc:///run/a.sock"
    assert door.find(environ=environ) == "ipc:///run/b.sock"


def test_the_local_door_comes_before_the_systems(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./.mpy6a/sidecar.sock where there is a ./.mpy6a, also before the sidecar runs; else /run/mpy6a/sidecar.sock."""
    monkeypatch.chdir(short_tmp)
    assert door.find(environ={}) == "ipc:///run/mpy6a/sidecar.sock"
    (short_tmp / ".mpy6a").mkdir()
    assert door.find(environ={}) == f"ipc://{short_tmp.resolve()}/.mpy6a/sidecar.sock"


def test_paths_become_absolute(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later chdir does not move the door; where the absolute path is too long the relative one stays."""
    monkeypatch.chdir(short_tmp)
    assert door.address("ipc://./a.sock") == f"ipc://{short_tmp.resolve()}/a.sock"
    long = short_tmp / ("d" * 90)
    long.mkdir()
    monkeypatch.chdir(long)
    assert door.address("a.sock") == "ipc://a.sock"


def test_a_path_that_is_too_long_is_refused_with_a_proposal() -> None:
    """The kernel would refuse it later, and say less."""
    with pytest.raises(errors.BadRequest, match=r"has 202 bytes.*at most 100.*/run/mpy6a/sidecar.sock"):
        door.address("/" + "d" * 200 + "/")


def test_tcp_addresses_stay_as_they_are() -> None:
    assert door.address("tcp://127.0.0.1:7400") == "tcp://127.0.0.1:7400"
    assert door.address("tcp://[::1]:7400") == "tcp://[::1]:7400"


@pytest.mark.parametrize(
    "text",
    ["tcp://host", "tcp://:7400", "tcp://host:0", "tcp://host:99999", "inproc://x", "http://a:1", "ipc://", "@a"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The sentence shows what one looks like, or which forms there are."""
    with pytest.raises(errors.BadRequest):
        door.address(text)
