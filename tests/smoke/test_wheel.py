"""The wheel that is built holds all that it needs: installed by itself, outside the checkout, it works."""

from __future__ import annotations

import email.parser
import json
import os
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

# Building and installing goes on inside the first test's time.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class Installed:
    """A fresh virtual environment with nothing but the wheel and what it depends on."""

    wheel: Path
    bin: Path
    outside: Path  # an empty directory to stand in

    def run(self, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment as a user's shell would; never raises for its exit code."""
        ours = ("PYTHON", "VIRTUAL_ENV", "TOX")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        return subprocess.run(
            argv,
            cwd=self.outside,
            env=inherited | {"PATH": f"{self.bin}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def python(self, source: str) -> str:
        """What a few lines print there."""
        done = self.run(self.bin / "python", "-W", "error", "-c", source)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """By way of the source distribution: what that lacks, the wheel lacks."""
    root = tmp_path_factory.mktemp("wheel")
    _must([sys.executable, "-m", "build", "--outdir", root / "dist", CHECKOUT], cwd=root)
    (wheel,) = (root / "dist").glob("*.whl")
    venv.create(root / "venv", with_pip=True)
    _must([root / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", wheel], cwd=root)
    (root / "outside").mkdir()
    return Installed(wheel, root / "venv" / "bin", root / "outside")


def _must(argv: list[str | Path], cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_holds_the_two_packages_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"mpy6a", "sidecar"}
    assert {"mpy6a/py.typed", "sidecar/py.typed"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize("folder", ["schemas", "configs"])
def test_what_stands_beside_the_code_is_inside_byte_for_byte(installed: Installed, folder: str) -> None:
    beside = {p.relative_to(CHECKOUT / folder): p for p in (CHECKOUT / folder).rglob("*") if p.is_file()}
    assert beside
    with zipfile.ZipFile(installed.wheel) as wheel:
        for name, path in beside.items():
            assert wheel.read(f"mpy6a/_{folder}/{name}") == path.read_bytes()


def test_every_file_of_the_packages_is_inside(installed: Installed) -> None:
    """Data too: the demo's input, the format's text."""
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
    for package in ("mpy6a", "sidecar"):
        for path in (CHECKOUT / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert str(path.relative_to(CHECKOUT)) in names


def test_its_metadata_says_what_an_index_shows(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(wheel.read(name))
    assert metadata["Name"] == "mpy6a"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "demo" in metadata.get_all("Provides-Extra", [])
    assert metadata.get_payload()


def test_it_is_imported_from_where_it_was_installed(installed: Installed) -> None:
    """With every warning an error: a user's test suite may run so."""
    where = installed.python("import mpy6a, sidecar; print(mpy6a.__file__); print(sidecar.__file__)")
    for path in where.splitlines():
        assert Path(path).is_relative_to(installed.bin.parent)


def test_every_schema_loads(installed: Installed) -> None:
    names = [path.name for path in (CHECKOUT / "schemas").glob("*.capnp")]
    assert "wire.capnp" in names
    source = f"""
import capnp, json, mpy6a.resources
capnp.remove_import_hook()
print(json.dumps([hex(capnp.load(str(mpy6a.resources.schema(n))).schema.node.id) for n in {names!r}]))
"""
    ids = json.loads(installed.python(source))
    for name, number in zip(names, ids, strict=True):
        assert f"@{number};" in (CHECKOUT / "schemas" / name).read_text(encoding="utf-8")


def test_the_command_says_its_version(installed: Installed) -> None:
    version = installed.python("from importlib.metadata import version; print(version('mpy6a'))")
    assert installed.python("import mpy6a; print(mpy6a.__version__)") == version
    for argv in (["mpy6a", "version"], ["python", "-m", "mpy6a", "version"]):
        done = installed.run(installed.bin / argv[0], *argv[1:])
        assert done.returncode == 0, done.stderr
        assert version in done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize("command", ["mpy6a", "mpy6a-sidecar"])
def test_both_commands_explain_themselves(installed: Installed, command: str) -> None:
    done = installed.run(installed.bin / command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
