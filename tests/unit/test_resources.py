"""The files that ship beside the code are found, in a checkout as in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpy6a import resources


def _package(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    package = root / "mpy6a"
    package.mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return package


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_schemas_that_ship_are_found() -> None:
    """Whatever way mpy6a was installed, its schemas are real files."""
    assert "@0x" in resources.schema("wire.capnp").read_text(encoding="utf-8")


def test_a_checkout_has_them_at_its_top(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _package(monkeypatch, tmp_path)
    wire = _write(tmp_path / "schemas" / "wire.capnp")
    pipe = _write(tmp_path / "configs" / "demo" / "pipe.yaml")
    assert resources.schema("wire.capnp") == wire
    assert resources.config("demo/pipe.yaml") == pipe


def test_a_wheel_has_them_inside_and_those_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An unrelated folder `schemas` beside an installed package is never taken for ours."""
    package = _package(monkeypatch, tmp_path)
    _write(tmp_path / "schemas" / "wire.capnp")
    _write(tmp_path / "configs" / "pipe.yaml")
    wire = _write(package / "_schemas" / "wire.capnp")
    pipe = _write(package / "_configs" / "pipe.yaml")
    assert resources.schema("wire.capnp") == wire
    assert resources.config("pipe.yaml") == pipe


def test_a_missing_file_says_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _package(monkeypatch, tmp_path)
    _write(tmp_path / "schemas" / "log.capnp")
    with pytest.raises(FileNotFoundError, match=r"wire\.capnp is missing; there is log\.capnp beside it"):
        resources.schema("wire.capnp")
    with pytest.raises(FileNotFoundError, match="there is nothing beside it"):
        resources.config("pipe.yaml")
