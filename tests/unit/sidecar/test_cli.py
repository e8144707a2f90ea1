"""`mpy6a-sidecar`: which config it takes, and one sentence with its exit code for what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sidecar
from mpy6a.errors import ConfigError
from mpy6a.exits import EXIT_CANNOT_START, EXIT_USAGE
from sidecar import cli


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mpy6a-sidecar", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_config_is_the_argument_then_the_variable_then_the_file_here(tmp_path: Path) -> None:
    (tmp_path / "sidecar.yaml").touch()
    variable = {cli.VARIABLE: "/etc/other.yaml"}
    assert cli.find_config(Path("/a.yaml"), variable, tmp_path) == Path("/a.yaml")
    assert cli.find_config(None, variable, tmp_path) == Path("/etc/other.yaml")
    assert cli.find_config(None, {}, tmp_path) == tmp_path / "sidecar.yaml"
    with pytest.raises(ConfigError, match="mpy6a init"):
        cli.find_config(None, {}, tmp_path / "empty")


@pytest.mark.parametrize("arguments", [["missing.yaml"], ["--no-such-option"], ["a.yaml", "b.yaml"]])
def test_wrong_usage_and_config_exit_2(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == EXIT_USAGE
    assert capsys.readouterr().err


def test_a_foreign_package_of_the_same_name_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyPI has another top-level `sidecar`: whoever installed both hears which file is not ours."""
    assert sidecar.MPY6A is True
    monkeypatch.delattr(sidecar, "MPY6A")
    assert call(monkeypatch) == EXIT_CANNOT_START
    told = capsys.readouterr().err
    assert "pip uninstall sidecar" in told
    assert str(sidecar.__file__) in told
