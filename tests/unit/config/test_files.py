"""Every file in configs/ is loaded as users load it, and what its comments say about keys and defaults is
true."""

from __future__ import annotations

import ast
import asyncio
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpy6a.config import check, load_pipe, load_routes, load_sidecar
from mpy6a.config.pipe import PipeSection
from mpy6a.config.routes import KindSection, RoutesSection
from mpy6a.config.section import Section
from mpy6a.config.sidecar import SidecarSection
from mpy6a.disk import DiskSettings
from mpy6a.policy import KindPolicy, Policy
from mpy6a.resources import config

FOLDER = config("pipe.yaml").parent
INIT = FOLDER / "init"


def test_every_file_is_fine() -> None:
    """`mpy6a config check` finds nothing in what we ship; the demo's own included."""
    files = sorted(FOLDER.rglob("*.yaml"))
    assert {"pipe.yaml", "routes.yaml", "sidecar.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}
    assert check(files) == []


def _keys(section: type[Section]) -> set[str]:
    """Names of all keys of a section and those inside it."""
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys |= _keys(field.annotation)
    return keys


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("pipe.yaml", [PipeSection]),
        ("routes.yaml", [RoutesSection, KindSection]),
        ("sidecar.yaml", [SidecarSection]),
    ],
)
def test_every_key_stands_in_the_commented_file(name: str, sections: list[type[Section]]) -> None:
    """A key that no file shows is a key that nobody finds; each has a comment on its line."""
    lines = (FOLDER / name).read_text().splitlines()
    for key in set().union(*map(_keys, sections)):
        shown = [line for line in lines if re.match(rf"[ #]*{key}:( |$)", line)]
        assert shown, key
        assert any(line.count("#") > line.lstrip().startswith("#") for line in shown), key


def test_the_defaults_in_the_comments_are_the_defaults() -> None:
    """`default 10m` in a comment holds if the key is left out: the files are loaded without them and
    compared."""
    pipe = load_pipe(FOLDER / "pipe.yaml")
    assert pipe.policy == Policy(pipe.policy.kinds)
    assert pipe.disk == DiskSettings()
    text = (FOLDER / "routes.yaml").read_text()
    told = dict(re.findall(r"^ +(\w+): .*# default ([^:\s]+):", text, flags=re.MULTILINE))
    assert told.keys() == {
        "delay", "jitter", "backoff", "idle", "silence", "timeout", "concurrency", "barren_limit",
        "charge_limit", "breaker",
    }  # fmt: skip
    repeat = ", ".join(f"{key}: {default}" for key, default in told.items())
    kind = KindSection.model_validate({"id": 1, "sidecars": ["a"], "handler": {"attached": True}})
    spelled = {key: int(value) if value.isdigit() else value for key, value in told.items()}
    assert kind.repeat.model_validate(spelled) == kind.repeat, repeat


def test_the_commented_alternatives_can_be_taken(tmp_path: Path) -> None:
    """Each handler that routes.yaml shows as a comment loads once it is uncommented."""
    text = (FOLDER / "routes.yaml").read_text()
    python = re.search(r"^ +python: .*\n", text, flags=re.MULTILINE)
    assert python is not None
    others = re.findall(r"^ +# ((?:http|exec|attached): .*)\n", text, flags=re.MULTILINE)
    assert len(others) == 3
    for other in others:
        path = tmp_path / "routes.yaml"
        path.write_text(text.replace(python.group(), f"      {other}\n"))
        kind = load_routes(path).kinds["user-create"]
        assert kind.policy.handler == other.partition(":")[0]


def test_the_limits_that_stand_there_as_comments_can_be_taken(tmp_path: Path) -> None:
    """`rate`, `burst` and `concurrency_total` of routes.yaml load once they are uncommented."""
    shown = (FOLDER / "routes.yaml").read_text()
    text, found = re.subn(r"^( +)# (rate|burst|concurrency_total): ", r"\1\2: ", shown, flags=re.MULTILINE)
    assert found == 3
    (tmp_path / "routes.yaml").write_text(text)
    policy = load_routes(tmp_path / "routes.yaml").kinds["user-create"].policy
    assert (policy.rate, policy.rate_ms, policy.burst, policy.concurrency_total) == (100, 1_000, 200, 100)


def test_the_group_of_a_sidecar_can_be_taken(tmp_path: Path) -> None:
    """The one key of sidecar.yaml that stands there as a comment loads once it is uncommented."""
    text = (FOLDER / "sidecar.yaml").read_text().replace("# group:", "group:")
    (tmp_path / "sidecar.yaml").write_text(text)
    (tmp_path / "routes.yaml").write_text((FOLDER / "routes.yaml").read_text())
    assert load_sidecar(tmp_path / "sidecar.yaml").socket_mode == 0o660


def test_what_init_writes_fits_together() -> None:
    """The sidecar dials where the pipe listens, the pipe where the sidecar does, and the client finds its
    door."""
    pipe, sidecar = load_pipe(INIT / "pipe.yaml"), load_sidecar(INIT / "sidecar.yaml")
    assert pipe.sidecars == {sidecar.name: sidecar.push}
    assert sidecar.pipes == pipe.listen
    assert sidecar.listen == f"ipc://{INIT}/.mpy6a/sidecar.sock"
    assert list(sidecar.kinds) == ["greeting"]
    assert pipe.policy.kinds[1] == KindPolicy(1, "greeting", ("app",), handler="python")


def test_what_init_writes_names_a_function_that_is_there() -> None:
    """`handlers:finish_greeting` of routes.yaml is a function of handlers.py, and marked with the kind."""
    route = load_routes(INIT / "routes.yaml").kinds["greeting"]
    module, function = route.handler.target.split(":")  # type: ignore[union-attr]  # it is a python handler
    tree = ast.parse((INIT / f"{module}.py").read_text())
    found = next(n for n in tree.body if isinstance(n, ast.AsyncFunctionDef) and n.name == function)
    assert [ast.unparse(decorator) for decorator in found.decorator_list] == ["mpy6a.handler('greeting')"]


class FakeSession:
    """Says what the handler did to it."""

    id = "1.1.7"

    def __init__(self) -> None:
        self.done: list[str] = []

    async def delete(self) -> None:
        self.done.append("delete")


@pytest.mark.parametrize(("records", "said"), [(["Ada"], "Hello Ada!"), ([], "")])
def test_the_handler_that_init_writes_finishes_its_session(
    records: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It greets whom the record names and deletes the session; with no record nothing was begun."""
    finish: Any = runpy.run_path(str(INIT / "handlers.py"))["finish_greeting"]
    session = FakeSession()
    data = [SimpleNamespace(json=lambda name=name: {"name": name}) for name in records]
    asyncio.run(finish(SimpleNamespace(session=session, records=data, repeats=1)))
    assert session.done == ["delete"]
    assert capsys.readouterr().out.startswith(said)
