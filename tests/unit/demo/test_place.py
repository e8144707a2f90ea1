"""A run's configuration files are what pipe and sidecars take, and its ports are its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpy6a.config import HttpHandler, PythonHandler, load_pipe, load_sidecar
from mpy6a.demo import place as places
from mpy6a.errors import CannotStart


@pytest.mark.parametrize("handler", ["python", "http"])
def test_the_files_that_are_written_are_valid(tmp_path: Path, handler: str) -> None:
    """They go through the same checks as a user's own."""
    place = places.make(tmp_path, handler)
    pipe = load_pipe(place.pipe_config)
    assert set(pipe.sidecars) == {"users", "search"}
    assert pipe.data == tmp_path / "data"
    for name in places.SIDECARS:
        sidecar = load_sidecar(place.sidecar_config(name))
        assert sidecar.name == name
        assert sidecar.listen == f"ipc://{place.sidecar_socket(name)}"
        assert sidecar.push == pipe.sidecars[name]
        assert sidecar.routes is not None
        route = sidecar.routes.kinds["user-create"]
        if handler == "python":
            assert isinstance(route.handler, PythonHandler)
        else:
            assert isinstance(route.handler, HttpHandler)
            assert route.handler.url == f"{place.service_url(name)}/mpy6a/user-create"


def test_ports_are_distinct_and_never_those_of_outgoing_connections(tmp_path: Path) -> None:
    """A service that is down for a moment finds its port free."""
    ports = places.free_ports(50)
    assert len(set(ports)) == 50
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if low > 11_000:
        assert max(ports) < low


def test_a_directory_whose_sockets_would_be_cut_is_refused(tmp_path: Path) -> None:
    """The kernel would cut the path without a word."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(CannotStart, match="TMPDIR"):
        places.make(deep, "python")


def test_children_get_no_proxy_and_know_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the user's has no business between two processes of one machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid")
    monkeypatch.setenv("https_proxy", "http://proxy.invalid")
    place = places.make(tmp_path, "python")
    found = place.environment("search")
    assert not [name for name in found if name.lower().endswith("_proxy")]
    assert found[places.RUN_VARIABLE] == place.token
    assert found["MPY6A_DEMO_AT"] == "search"
    assert found["MPY6A_DEMO_USERS"] == place.service_url("users")
