"""Tests that run beside each other on one machine do not take each other's ports and paths."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from tests.ports import FreePorts, short_directory


def test_a_port_is_given_once_and_can_be_bound(free_port: FreePorts) -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", ports[0])):
        pass


def test_a_port_that_somebody_listens_on_is_not_given() -> None:
    taken = FreePorts(seed=1)()
    with socket.create_server(("127.0.0.1", taken)):
        assert FreePorts(seed=1)() != taken


def test_workers_of_one_run_are_given_different_ports() -> None:
    """Also when neither has bound its own yet."""
    first, second = (FreePorts(seed=1, worker=worker, workers=2) for worker in range(2))
    assert max(first() for _ in range(50)) < 26_000 <= min(second() for _ in range(50))


def test_ports_end() -> None:
    """Used up is an error and no endless loop."""
    ports = FreePorts()
    ports._given.update(range(20_000, 32_000))
    with pytest.raises(RuntimeError, match="no free TCP port"):
        ports()


def test_a_short_directory_is_short_whatever_the_temporary_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with short_directory() as path:
        assert len(os.fsencode(path)) <= 60
        (path / "socket").touch()
    assert not path.exists()
