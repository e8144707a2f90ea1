"""What `mpy6a dev` writes: config files that its processes read, and that keep what an earlier run began."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mpy6a.commands.dev_files import FIRST_PORT, Files, _are_free, merged, routes_yaml
from mpy6a.commands.dev_find import Found
from mpy6a.config import (
    Attached,
    ExecHandler,
    HandlerSpec,
    HttpHandler,
    PythonHandler,
    Route,
    load_pipe,
    load_routes,
    load_sidecar,
)
from mpy6a.errors import CannotStart, ConfigError
from mpy6a.policy import KindPolicy
from tests.ports import FreePorts

GREETING = Found("greeting", "finish_greeting")
INVOICE = Found("invoice", "finish_invoice")


@pytest.fixture
def files(short_tmp: Path) -> Files:
    files = Files(short_tmp / ".mpy6a")
    files.prepare()
    return files


@pytest.fixture
def busy() -> Iterator[socket.socket]:
    with socket.socket() as busy:
        yield busy


def write(files: Files, found: Sequence[Found], port_base: int | None = None) -> bool:
    """As one run does, with a handlers.py beside the directory."""
    handlers = files.directory.parent / "handlers.py"
    changed = files.write_routes(handlers, found)
    files.write_processes(handlers, port_base)
    return changed


def pair(free_port: FreePorts) -> int:
    """A free port with another one behind it."""
    port = free_port()
    while not _are_free((port, port + 1)):
        port = free_port()
    return port


def ids(files: Files) -> dict[str, int]:
    return {name: route.policy.id for name, route in load_routes(files.routes).kinds.items()}


def test_the_three_files_are_read_by_pipe_and_sidecar_and_fit_together(files: Files, free_port: FreePorts) -> None:
    """Addresses agree, the socket is where the library looks, handlers are found beside their file."""
    port = pair(free_port)
    assert write(files, [GREETING], port)
    pipe, sidecar = load_pipe(files.pipe), load_sidecar(files.sidecar)
    assert pipe.listen == sidecar.pipes == (f"tcp://127.0.0.1:{port}",)
    assert pipe.sidecars == {"app": sidecar.push} == {"app": f"tcp://127.0.0.1:{port + 1}"}
    assert sidecar.listen == f"ipc://{files.socket}"
    assert sidecar.path == (files.directory.parent,)
    assert sidecar.handlers == {"greeting": PythonHandler("handlers:finish_greeting")}
    assert pipe.data == files.directory / "data"
    assert (files.directory / ".gitignore").read_text() == "*\n"


def test_ids_stay_when_handlers_come_and_go(files: Files) -> None:
    """A kind keeps its id for ever; one without handler waits, and its id is given to no other."""
    write(files, [GREETING, INVOICE])
    assert ids(files) == {"greeting": 1, "invoice": 2}
    assert write(files, [INVOICE])
    assert load_routes(files.routes).kinds["greeting"].handler == Attached()
    assert load_routes(files.routes).orphans == "hold"
    assert write(files, [Found("order", "finish_order"), INVOICE])
    assert ids(files) == {"greeting": 1, "invoice": 2, "order": 3}
    assert write(files, [GREETING])
    assert ids(files) == {"greeting": 1, "invoice": 2, "order": 3}
    assert load_routes(files.routes).kinds["greeting"].handler == PythonHandler("handlers:finish_greeting")
    assert not write(files, [GREETING])


def test_numbered_kinds_have_their_number(files: Files) -> None:
    """A handler marked with a number serves that kind, whatever its name; two cannot have it."""
    write(files, [Found(1, "first"), GREETING])
    assert ids(files) == {"kind-1": 1, "greeting": 2}
    write(files, [Found(2, "finish"), Found(7, "seventh")])
    assert load_routes(files.routes).kinds["greeting"].handler == PythonHandler("handlers:finish")
    assert ids(files) == {"kind-1": 1, "greeting": 2, "kind-7": 7}


def test_what_the_user_wrote_under_repeat_stays(files: Files) -> None:
    """Every key of `repeat:` comes through a run that changes the file."""
    policy = KindPolicy(
        4, "greeting", ("app",), "python", delay_ms=250, jitter_ms=10, backoff_base_ms=200, backoff_cap_ms=3_000,
        idle_ms=60_000, silence_ms=61_000, timeout_ms=5_000, concurrency=3, barren_limit=4, charge_limit=5,
    )  # fmt: skip
    handlers = Path("handlers.py")
    files.routes.write_text(routes_yaml(handlers, {"greeting": Route(policy, PythonHandler("handlers:old"))}))
    write(files, [GREETING, INVOICE])
    assert load_routes(files.routes).kinds["greeting"].policy == policy
    assert ids(files) == {"greeting": 4, "invoice": 5}


@pytest.mark.parametrize("name", ["http", "exec"])
def test_other_handlers_that_the_user_wrote_stay(files: Files, name: str) -> None:
    """An http or exec kind is not this file's: it goes on as it is."""
    handler: HandlerSpec = HttpHandler("http://127.0.0.1:8000/finish?a=b", "json", "http://127.0.0.1:8000/health")
    if name == "exec":
        handler = ExecHandler(("./finish", 'a "word"', "-v"), files.directory.absolute(), "text")
    policy = KindPolicy(1, "receipt", ("app",), name)
    text = routes_yaml(Path("handlers.py"), {"receipt": Route(policy, handler)})
    files.routes.write_text(text)
    write(files, [GREETING])
    assert load_routes(files.routes).kinds["receipt"] == Route(policy, handler)


@pytest.mark.parametrize("name", ["null", "yes", "123", "1.5", "a.b", "no", "x-y_z"])
def test_any_name_of_a_kind_is_written_so_that_it_is_read(files: Files, name: str) -> None:
    """YAML takes some words for other things than text."""
    write(files, [Found(name, "finish")])
    assert ids(files) == {name: 1}


def test_names_and_numbers_that_routes_cannot_have_are_refused(files: Files) -> None:
    """One sentence that says what a name may be, and nothing is written."""
    wrong: list[tuple[str | int, str]] = [("Hello!", "of a-z"), ("", "of a-z"), (0, "from 1"), (1 << 32, "from 1")]
    for kind, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            write(files, [Found(kind, "finish")])
    assert not files.routes.exists()


def test_a_kind_marked_by_another_number_than_it_has_is_refused() -> None:
    """Ids never change: not by the mark either."""
    before = merged(Path("handlers.py"), [Found("kind-7", "finish")], {})
    with pytest.raises(ConfigError, match="another number"):
        merged(Path("handlers.py"), [Found(7, "finish")], before)


def test_broken_routes_are_named_and_left_alone(files: Files) -> None:
    """What the user broke is shown with its line, never overwritten."""
    files.routes.write_text("kinds:\n  greeting: {id: 1}\n")
    with pytest.raises(ConfigError, match=r"routes\.yaml"):
        write(files, [GREETING])
    assert files.routes.read_text() == "kinds:\n  greeting: {id: 1}\n"


def test_ports_stay_while_they_are_free(files: Files, free_port: FreePorts, busy: socket.socket) -> None:
    """The next run has the same addresses; only a port that another process took is replaced."""
    port = pair(free_port)
    write(files, [GREETING], port)
    before = files.pipe.read_text(), files.sidecar.read_text()
    write(files, [GREETING])
    assert (files.pipe.read_text(), files.sidecar.read_text()) == before
    busy.bind(("127.0.0.1", port + 1))
    write(files, [GREETING])
    pipe, sidecar = load_pipe(files.pipe), load_sidecar(files.sidecar)
    assert pipe.listen == sidecar.pipes
    assert pipe.listen[0] != f"tcp://127.0.0.1:{port}"
    assert int(pipe.listen[0].rpartition(":")[2]) >= FIRST_PORT
    with pytest.raises(CannotStart, match="--port-base"):
        write(files, [GREETING], port)


def test_other_settings_of_pipe_yaml_stay(files: Files) -> None:
    """Somebody who tries a lease or a limit finds it there in the next run."""
    write(files, [GREETING])
    with files.pipe.open("a") as pipe:
        pipe.write("lease: 5s\n")
    write(files, [GREETING, INVOICE])
    assert load_pipe(files.pipe).policy.lease_ms == 5_000


def test_handlers_that_moved_are_found(files: Files) -> None:
    """The same data directory with another file of handlers."""
    write(files, [GREETING])
    elsewhere = files.directory.parent / "app" / "finishers.py"
    files.write_routes(elsewhere, [GREETING])
    files.write_processes(elsewhere, None)
    assert load_sidecar(files.sidecar).path == (elsewhere.parent,)
    assert load_sidecar(files.sidecar).handlers == {"greeting": PythonHandler("finishers:finish_greeting")}


def test_directories_that_cannot_be_are_said(short_tmp: Path) -> None:
    """A path too long for a socket, and one that is a file."""
    with pytest.raises(ConfigError, match="shorter directory"):
        Files(short_tmp / ("x" * 100)).prepare()
    (short_tmp / "file").touch()
    with pytest.raises(CannotStart, match="--data"):
        Files(short_tmp / "file").prepare()


def test_a_kinds_policy_is_written_in_whole_seconds_or_milliseconds() -> None:
    """Durations carry a unit; zero too."""
    policy = replace(KindPolicy(1, "a", ("app",)), delay_ms=0, idle_ms=1_500)
    text = routes_yaml(Path("handlers.py"), {"a": Route(policy, Attached())})
    assert "delay: 0ms" in text
    assert "idle: 1500ms" in text


def test_what_looks_like_a_variable_is_written_so_that_it_reads_back(tmp_path: Path) -> None:
    """In a kind's handler, and in the directory of the handlers: nothing there is asked of the environment."""
    before = Route(KindPolicy(1, "run", ("app",), "exec"), ExecHandler(("sh", "-c", "echo ${HOME} $${X}"), tmp_path))
    (tmp_path / "routes.yaml").write_text(routes_yaml(tmp_path / "handlers.py", {"run": before}))
    assert load_routes(tmp_path / "routes.yaml").kinds == {"run": before}
