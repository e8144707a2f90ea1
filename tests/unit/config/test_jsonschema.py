"""The JSON Schema that editors get accepts every valid file, and refuses what an editor can know to be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from mpy6a.commands.files import FILE_TYPES, config
from mpy6a.config import check
from mpy6a.config.checking import FileType
from mpy6a.config.jsonschema import DIALECT, SECTIONS, schema_of
from mpy6a.config.problems import Findings
from mpy6a.config.yamlfile import read
from mpy6a.errors import CannotStart
from mpy6a.resources import config as config_file
from tests.unit.config.test_problems import _cases
from tests.unit.config.test_settings import PIPE, ROUTES, SIDECAR

FOLDER = config_file("pipe.yaml").parent
VALIDATORS = {file: Draft202012Validator(schema_of(file)) for file in FILE_TYPES}
KIND = "a: {id: 1, sidecars: [app], handler: {http: 'http://h/'}"


def values_of(text: str, path: Path) -> dict[str, Any]:
    """As an editor has them: the values of YAML 1.2's core schema."""
    path.write_text(text)
    document = read(path, Findings())
    assert document is not None
    return document.values


def errors(file: FileType, values: object) -> list[str]:
    """Where the schema refuses, dotted."""
    found = VALIDATORS[file].iter_errors(values)
    return sorted({".".join(map(str, error.absolute_path)) for error in found})


def test_the_schemas_are_schemas() -> None:
    """Draft 2020-12, and every reference in them leads somewhere."""
    for file in FILE_TYPES:
        schema = schema_of(file)
        assert schema["$schema"] == DIALECT == Draft202012Validator.META_SCHEMA["$id"]
        Draft202012Validator.check_schema(schema)
        for target in re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(schema)):
            assert target in schema["$defs"]


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_file_that_is_shipped_is_valid(path: Path, tmp_path: Path) -> None:
    """Those of configs/, and those that `mpy6a init` writes."""
    file: Any = path.stem
    assert errors(file, values_of(path.read_text(), tmp_path / path.name)) == []


@pytest.mark.parametrize(("file", "text"), [("pipe", PIPE), ("routes", ROUTES), ("sidecar", SIDECAR)])
def test_files_with_every_key_are_valid(file: FileType, text: str, tmp_path: Path) -> None:
    """The tests' own, in which every key stands."""
    assert errors(file, values_of(text, tmp_path / "any.yaml")) == []


def test_routes_may_stand_inside(tmp_path: Path) -> None:
    """A mapping instead of the path, with the same keys."""
    inside = yaml.safe_load(ROUTES)
    for file, text in (("pipe", PIPE), ("sidecar", SIDECAR)):
        values = yaml.safe_load(text) | {"routes": inside}
        assert errors(file, values) == []  # type: ignore[arg-type]  # one of the three
        assert errors(file, values | {"routes": {"kinds": {}, "kindz": {}}}) == ["routes"]  # type: ignore[arg-type]


# What the schema does not know: a range, what keys and files have to do with each other, and what JSON does not show.
BEYOND = {
    "a record that no session can hold",
    "a duplicate key",
    "values out of range",
    "two kinds with one id",
    "a sidecar that has no address",
    "routes that are missing",
    "one address for two sidecars",
    "socket paths that the kernel would cut",
    "a sidecar that is pushed and has no address for it",
    "a disk that is very low before it is low",
    "only comments",
    "two documents",
    "keys without a value",
    "tags, anchors, aliases and odd keys",
}


@pytest.mark.parametrize("case", [case for case in _cases() if case.name not in BEYOND], ids=lambda case: case.name)
def test_files_that_are_refused_are_not_valid(case: Any, tmp_path: Path) -> None:
    """Of each wrong set of files in problems.txt, except for what only the checks know, a file is marked."""
    found = []
    for name, text in case.files:
        path = tmp_path / name
        path.write_text(text)
        document = read(path, Findings())
        file: Any = path.stem
        found += ["no YAML"] if document is None or file not in FILE_TYPES else errors(file, document.values)
    assert found


BAD: list[tuple[FileType, str, str]] = [
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlitsen: []\n", ""),
    ("pipe", "pipe: 1\ndata: d\n", ""),
    ("pipe", "pipe: '1'\ndata: d\nroutes: r\n", "pipe"),
    ("pipe", "pipe: 70000\ndata: d\nroutes: r\n", "pipe"),
    ("pipe", "pipe: 1\ndata: ~/d\nroutes: r\n", "data"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlisten: []\n", "listen"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlisten: ['udp://h:1']\n", "listen.0"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nsidecars: {a: 'tcp://*:1'}\n", "sidecars.a"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nsidecars: {A: 'tcp://h:1'}\n", "sidecars"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nadmin: 'tcp://h:1'\n", "admin"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlease: 15\n", "lease"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlease: 15 s\n", "lease"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlease: 1s1m\n", "lease"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlog: {fsync: never}\n", "log.fsync"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlog: {segment: 64M}\n", "log.segment"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\nlog: {keep: 1}\n", "log.keep"),
    ("pipe", "pipe: 1\ndata: d\nroutes: r\ndisk: {low: 5}\n", "disk.low"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app]}}\n", "kinds.a"),
    ("routes", "kinds: {a: {id: 0, sidecars: [app], handler: {attached: true}}}\n", "kinds.a.id"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app, app], handler: {attached: true}}}\n", "kinds.a.sidecars"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {attached: 'yes'}}}\n", "kinds.a.handler.attached"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {}}}\n", "kinds.a.handler"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {python: f}}}\n", "kinds.a.handler.python"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {exec: run}}}\n", "kinds.a.handler.exec"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {exec: [run, 1]}}}\n", "kinds.a.handler.exec.1"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {http: 'http://a@h/'}}}\n", "kinds.a.handler.http"),
    ("routes", "kinds: {a: {id: 1, sidecars: [app], handler: {attached: true}, health: /x}}\n", "kinds.a.handler"),
    ("routes", f"kinds: {{{KIND}, records: xml}}}}\n", "kinds.a.records"),
    ("routes", f"kinds: {{{KIND}, repeat: {{delai: 1s}}}}}}\n", "kinds.a.repeat"),
    ("routes", f"kinds: {{{KIND}, repeat: {{backoff: 5s}}}}}}\n", "kinds.a.repeat.backoff"),
    ("routes", f"kinds: {{{KIND}, repeat: {{timeout: 0}}}}}}\n", "kinds.a.repeat.timeout"),
    ("routes", f"kinds: {{{KIND}, repeat: {{rate: 100}}}}}}\n", "kinds.a.repeat.rate"),
    ("routes", f"kinds: {{{KIND}, repeat: {{rate: 100/d}}}}}}\n", "kinds.a.repeat.rate"),
    ("routes", f"kinds: {{{KIND}, repeat: {{burst: 5}}}}}}\n", "kinds.a.repeat"),
    ("routes", "kinds: {}\norphans: keep\n", "orphans"),
    ("sidecar", "name: a\nlisten: 'ipc://a'\npipes: 'tcp://h:1'\n", "pipes"),
    ("sidecar", "name: a\nlisten: 'tcp://h:1'\npipes: ['tcp://h:1']\n", "listen"),
    ("sidecar", "name: a\nlisten: 'ipc://a'\npipes: ['tcp://h:1']\ngroup: 33\n", "group"),
    ("sidecar", "name: a\nlisten: 'ipc://a'\npipes: ['tcp://h:1']\ncallback: 'https://h:1'\n", "callback"),
]


@pytest.mark.parametrize(("file", "text", "where"), BAD)
def test_what_is_wrong_is_marked_where_it_stands(file: FileType, text: str, where: str, tmp_path: Path) -> None:
    """And `config check` refuses it too: the schema is never stricter than the checks."""
    path = tmp_path / f"{file}.yaml"
    assert errors(file, values_of(text, path)) == [where]
    assert [problem for problem in check([path]) if "not there" not in problem.found]


def _properties(schema: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every key of a schema, wherever it stands."""
    found = []
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and schema.get("additionalProperties") is False:
            found += list(schema["properties"].items())
        for inner in schema.values():
            found += _properties(inner)
    return found


@pytest.mark.parametrize("file", FILE_TYPES)
def test_every_key_is_described_and_every_default_is_allowed(file: FileType, tmp_path: Path) -> None:
    """An editor shows for each key what its comment in configs/ says; what holds without it is a value it takes."""
    keys = _properties(schema_of(file))
    assert {name for name, _ in keys} > SECTIONS[file].model_fields.keys() - {"kinds"}
    for name, key in keys:
        assert len(key["description"]) > 10, name
        assert "  " not in key["description"], name
        if "default" in key:
            Draft202012Validator(key).validate(key["default"])
            told = re.match(r"default:? ([^,:\s]+)", key["description"])
            if told is not None and isinstance(key["default"], str) and "callback" not in name:
                assert key["default"].startswith(told[1].rstrip(".")), name


# ---------------------------------------------------------------------- the command


@pytest.mark.parametrize("file", FILE_TYPES)
def test_the_command_prints_one(file: FileType) -> None:
    told = CliRunner().invoke(config, ["schema", file])
    assert told.exit_code == 0
    assert json.loads(told.stdout) == schema_of(file)


def test_the_command_writes_them_all(tmp_path: Path) -> None:
    """Named as the line at the top of a file has them."""
    told = CliRunner().invoke(config, ["schema", "--write", str(tmp_path / "there")])
    assert told.exit_code == 0
    assert {path.name for path in (tmp_path / "there").iterdir()} == {f"{file}.schema.json" for file in FILE_TYPES}
    assert json.loads((tmp_path / "there" / "pipe.schema.json").read_text()) == schema_of("pipe")
    assert CliRunner().invoke(config, ["schema", "pipe", "--write", str(tmp_path / "one")]).exit_code == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["pipe.schema.json"]


def test_what_the_command_cannot_do(tmp_path: Path) -> None:
    """Nothing named, a word that is none of the three, and a directory that cannot be."""
    (tmp_path / "file").touch()
    assert "--write" in CliRunner().invoke(config, ["schema"]).stderr
    assert "'pipe', 'routes', 'sidecar'" in CliRunner().invoke(config, ["schema", "paths"]).stderr
    told = CliRunner().invoke(config, ["schema", "--write", str(tmp_path / "file" / "x")])
    assert isinstance(told.exception, CannotStart)
    assert "a directory you may write to" in str(told.exception)
