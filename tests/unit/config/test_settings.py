"""What is loaded is complete and absolute: the processes that take it never look at YAML again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mpy6a import limits
from mpy6a.config import (
    Attached,
    ExecHandler,
    HttpAddress,
    HttpHandler,
    LogSettings,
    PythonHandler,
    load_pipe,
    load_routes,
    load_sidecar,
)
from mpy6a.config.problems import Findings
from mpy6a.config.yamlfile import read
from mpy6a.disk import Amount, DiskSettings
from mpy6a.policy import KindPolicy, Policy

ROUTES = """
kinds:
  create:
    id: 1
    sidecars: [users, search]
    handler: {python: "handlers:create"}
    repeat: {delay: 500ms, jitter: 1s, backoff: 200ms..2s, idle: 1m, silence: 2m, timeout: 3s,
             concurrency: 4, barren_limit: 5, charge_limit: 6, rate: 600/m, concurrency_total: 8, breaker: 3}
  mail: {id: 3, sidecars: [users], handler: {http: "http://127.0.0.1:1/a/b"}, records: json, health: /up}
  page: {id: 4, sidecars: [users], handler: {http: "http://127.0.0.1:1/a"}}
  run: {id: 5, sidecars: [other], handler: {exec: [/bin/true, "1"]}, records: text}
  own: {id: 2, sidecars: [search], handler: {attached: true}}
orphans: park
"""
PIPE = """
pipe: 7
data: ./data
listen: [tcp://0.0.0.0:7400, "tcp://[::1]:0", ipc://./pipe.sock]
routes: routes.yaml
sidecars: {users: tcp://users.example:7401, search: ipc://search.sock, other: ipc:///run/o.sock}
log: {fsync: interval, interval: 25ms, segment: 16MiB, checkpoint: 2MiB}
lease: 3s
limits: {record: 1KiB, session: 2KiB, session_records: 8}
disk: {low: 10GiB, very_low: 0.5%, reserve: 1% max 64MiB}
"""
SIDECAR = """
name: users
listen: ipc://./users.sock
group: www-data
pipes: [tcp://127.0.0.1:7400]
push: tcp://*:7401
routes: routes.yaml
drain: 1m
callback: http://127.0.0.1:7403
path: [., lib, /opt/handlers]
"""


@pytest.fixture
def place(short_tmp: Path) -> Path:
    # Short: the sockets of the data directory are to fit wherever tests keep their files.
    (short_tmp / "routes.yaml").write_text(ROUTES)
    (short_tmp / "pipe.yaml").write_text(PIPE)
    (short_tmp / "sidecar.yaml").write_text(SIDECAR)
    return short_tmp


def test_a_pipe_has_everything_it_was_told(place: Path) -> None:
    """Every key arrives, in ms and bytes, with paths made absolute by the file's directory."""
    pipe = load_pipe(place / "pipe.yaml")
    assert (pipe.pipe, pipe.data) == (7, place / "data")
    assert pipe.listen == ("tcp://0.0.0.0:7400", "tcp://[::1]:0", f"ipc://{place}/pipe.sock")
    assert pipe.admin == f"ipc://{place}/data/admin.sock"
    assert dict(pipe.sidecars) == {
        "users": "tcp://users.example:7401",
        "search": f"ipc://{place}/search.sock",
        "other": "ipc:///run/o.sock",
    }
    assert pipe.log == LogSettings("interval", 25, 16 * limits.MIB, 2 * limits.MIB)
    assert pipe.disk == DiskSettings(Amount(most=10 << 30), Amount(5), Amount(10, 64 << 20))
    assert (pipe.policy.lease_ms, pipe.policy.orphans) == (3_000, "park")
    assert pipe.policy.record_bytes_max == 1024
    assert (pipe.policy.session_bytes_max, pipe.policy.session_records_max) == (2048, 8)
    assert list(pipe.policy.kinds) == [1, 2, 3, 4, 5]
    assert pipe.policy.kinds[1] == KindPolicy(
        id=1, name="create", sidecars=("users", "search"), handler="python", delay_ms=500, jitter_ms=1_000,
        backoff_base_ms=200, backoff_cap_ms=2_000, idle_ms=60_000, silence_ms=120_000, timeout_ms=3_000,
        concurrency=4, barren_limit=5, charge_limit=6, rate=600, rate_ms=60_000, burst=10, concurrency_total=8,
        breaker=3,
    )  # fmt: skip


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    """The shortest configuration there is runs with the defaults of `policy` and `limits`."""
    path = tmp_path / "pipe.yaml"
    path.write_text("{pipe: 1, data: d, routes: {kinds: {a: {id: 1, sidecars: [b], handler: {attached: true}"
                    "}}}, sidecars: {b: 'tcp://b:1'}}")  # fmt: skip
    pipe = load_pipe(path)
    assert pipe.policy == Policy({1: KindPolicy(1, "a", ("b",))})
    assert pipe.listen == ("tcp://127.0.0.1:7400",)
    assert pipe.disk == DiskSettings()
    assert pipe.log == LogSettings("always", 10, limits.SEGMENT_BYTES, limits.CHECKPOINT_BYTES)
    assert pipe.routes.path is None


def test_each_handler_is_a_value_of_its_own(place: Path) -> None:
    """Who runs handlers matches on their type; what a route leaves out has its default."""
    routes = load_routes(place / "routes.yaml")
    assert routes.path == place / "routes.yaml"
    assert {name: route.handler for name, route in routes.kinds.items()} == {
        "create": PythonHandler("handlers:create"),
        "mail": HttpHandler("http://127.0.0.1:1/a/b", "json", "http://127.0.0.1:1/up"),
        "page": HttpHandler("http://127.0.0.1:1/a", "base64", None),
        "run": ExecHandler(("/bin/true", "1"), place, "text"),
        "own": Attached(),
    }
    for name, route in routes.kinds.items():
        assert type(route.handler).__name__.lower().startswith(route.policy.handler), name


def test_a_sidecar_runs_the_handlers_of_the_kinds_that_list_it(place: Path) -> None:
    """The same routes file serves every sidecar: each takes its own kinds."""
    sidecar = load_sidecar(place / "sidecar.yaml")
    assert list(sidecar.kinds) == list(sidecar.handlers) == ["create", "mail", "page"]
    assert sidecar.handlers["create"] == PythonHandler("handlers:create")
    assert (sidecar.name, sidecar.listen) == ("users", f"ipc://{place}/users.sock")
    assert (sidecar.group, sidecar.socket_mode) == ("www-data", 0o660)
    assert (sidecar.pipes, sidecar.push) == (("tcp://127.0.0.1:7400",), "tcp://*:7401")
    assert (sidecar.drain_ms, sidecar.callback) == (60_000, HttpAddress("127.0.0.1", 7403))
    assert sidecar.path == (place, place / "lib", Path("/opt/handlers"))


def test_a_sidecar_without_routes_only_passes_operations_on(tmp_path: Path) -> None:
    """A service that only creates sessions needs no routes and no push address."""
    path = tmp_path / "sidecar.yaml"
    path.write_text("{name: a, listen: 'ipc://a.sock', pipes: ['tcp://h:1']}")
    sidecar = load_sidecar(path)
    assert (sidecar.routes, sidecar.push, dict(sidecar.kinds)) == (None, None, {})
    assert (sidecar.group, sidecar.socket_mode, sidecar.drain_ms) == (None, 0o600, 10_000)
    assert (str(sidecar.callback), sidecar.path) == ("http://127.0.0.1:0", (tmp_path,))


def test_programs_run_in_the_directory_of_the_file_in_which_the_routes_stand(tmp_path: Path) -> None:
    """As every relative path: also where the routes stand in sidecar.yaml itself."""
    inside = "{kinds: {run: {id: 5, sidecars: [other], handler: {exec: [./finish]}}}}"
    (tmp_path / "sidecar.yaml").write_text(
        SIDECAR.replace("name: users", "name: other").replace("routes: routes.yaml", f"routes: {inside}")
    )
    assert load_sidecar(tmp_path / "sidecar.yaml").handlers == {"run": ExecHandler(("./finish",), tmp_path)}


def test_settings_cannot_be_changed(place: Path) -> None:
    """Settings are shared by every room of a process."""
    pipe = load_pipe(place / "pipe.yaml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        pipe.pipe = 8  # type: ignore[misc]  # that it cannot be assigned is what is shown
    with pytest.raises(TypeError):
        pipe.sidecars["x"] = "tcp://h:1"  # type: ignore[index]  # the same


def test_relative_paths_begin_at_the_file_however_it_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative file name and another working directory change nothing."""
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert load_pipe(Path("../pipe.yaml")).data.resolve() == place / "data"
    assert load_pipe(place / "pipe.yaml").data == place / "data"


def test_every_key_and_value_keeps_its_line(tmp_path: Path) -> None:
    """A value on the line after its key is reported where it stands, a missing key where its mapping
    begins."""
    path = tmp_path / "a.yaml"
    path.write_text("# first\na:\n  b:\n    5\n  c: [1,\n      2]\nd: {e: 1}\n")
    document = read(path, Findings())
    assert document is not None
    assert document.values == {"a": {"b": 5, "c": [1, 2]}, "d": {"e": 1}}
    lines = {where: (document.line(where, key=True), document.line(where)) for where in document.lines}
    assert lines == {
        (): (2, 2), ("a",): (2, 3), ("a", "b"): (3, 4), ("a", "c"): (5, 5), ("a", "c", 0): (5, 5),
        ("a", "c", 1): (6, 6), ("d",): (7, 7), ("d", "e"): (7, 7),
    }  # fmt: skip
    assert document.line(("a", "missing", "deep")) == 2
