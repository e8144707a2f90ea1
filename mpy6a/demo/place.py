"""Where one run of the demo lives: directory, ports, configuration files, environment of its processes."""

from __future__ import annotations

import os
import random
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpy6a.demo import http_handler
from mpy6a.demo.service import STATS_PATH
from mpy6a.errors import CannotStart
from mpy6a.limits import IPC_PATH_BYTES_MAX

SIDECARS: Final = ("users", "search")
RUN_VARIABLE: Final = "MPY6A_DEMO_RUN"  # marks every process of a run, children of children too

_PORTS_FROM: Final = 10_000  # below: well-known ports; above: where the kernel picks ports of outgoing connections
_PORT_TRIES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """One run's directory and addresses."""

    directory: Path
    pipe_port: int
    push_ports: dict[str, int]
    service_ports: dict[str, int]
    token: str

    @property
    def journal(self) -> Path:
        return self.directory / "journal.jsonl"

    @property
    def pipe_config(self) -> Path:
        return self.directory / "pipe.yaml"

    @property
    def admin(self) -> str:
        return f"ipc://{self.directory / 'admin.sock'}"

    def sidecar_config(self, name: str) -> Path:
        return self.directory / f"sidecar-{name}.yaml"

    def sidecar_socket(self, name: str) -> Path:
        return self.directory / f"{name}.sock"

    def database(self, name: str) -> Path:
        return self.directory / f"{name}.db"

    def log(self, process: str) -> Path:
        return self.directory / f"{process}.log"

    def service_url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.service_ports[name]}"

    def environment(self, at: str = "") -> dict[str, str]:
        """For a process of the run; `at` is the sidecar it stands beside."""
        # A proxy of the user's has no business between two processes of one machine.
        mine = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        found = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
        return mine | {
            "PYTHONPATH": os.pathsep.join(path for path in found if path),
            "PYTHONUNBUFFERED": "1",
            "MPY6A_CONFIG": str(self.pipe_config),
            "MPY6A_SIDECAR": str(self.sidecar_socket(SIDECARS[0])),
            "MPY6A_DEMO_USERS": self.service_url("users"),
            "MPY6A_DEMO_SEARCH": self.service_url("search"),
            "MPY6A_DEMO_AT": at,
            RUN_VARIABLE: self.token,
        }

    def command(self, process: str, *arguments: str) -> list[str]:
        """`python -m MODULE ...` with the interpreter that runs the demo."""
        return [sys.executable, "-m", process, *arguments]


def make(directory: Path, handler: str) -> Place:
    """Choose ports and write the configuration files; `handler` is python or http."""
    ports = iter(free_ports(5))
    place = Place(
        directory,
        pipe_port=next(ports),
        push_ports={name: next(ports) for name in SIDECARS},
        service_ports={name: next(ports) for name in SIDECARS},
        token=secrets.token_hex(16),
    )
    longest = max(len(os.fsencode(place.sidecar_socket(name))) for name in SIDECARS)
    if longest > IPC_PATH_BYTES_MAX:
        raise CannotStart(
            f"socket paths in {directory} have {longest} bytes, allowed are {IPC_PATH_BYTES_MAX}: "
            "set TMPDIR to a shorter directory, such as /tmp"
        )
    place.pipe_config.write_text(_pipe_yaml(place))
    for name in SIDECARS:
        # An http route names one URL, so each sidecar reads routes that name the endpoint of its own service.
        (directory / f"routes-{name}.yaml").write_text(_routes_yaml(place, handler, name))
        place.sidecar_config(name).write_text(_sidecar_yaml(place, name))
    return place


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside the range from which the kernel takes ports for outgoing connections.

    A service that is down for half a second would otherwise find its port taken by a client of another
    service, or that client connected to itself.
    """
    try:
        ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        ephemeral = 32_768
    top = ephemeral if ephemeral > _PORTS_FROM + _PORT_TRIES else 65_536
    chance = random.SystemRandom()  # never the run's seed: two runs may stand beside each other
    found: list[int] = []
    for _ in range(_PORT_TRIES):
        port = chance.randrange(_PORTS_FROM, top)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return found
    raise CannotStart(f"no {count} free ports between {_PORTS_FROM} and {top} on 127.0.0.1")


def _pipe_yaml(place: Place) -> str:
    return f"""\
pipe: 1
data: ./data
listen: [tcp://127.0.0.1:{place.pipe_port}]
admin: ipc://./admin.sock
routes: routes-{SIDECARS[0]}.yaml
sidecars:
{"".join(f"  {name}: tcp://127.0.0.1:{port}{chr(10)}" for name, port in place.push_ports.items())}\
log: {{segment: 16MiB}}
lease: 5s
"""


def _sidecar_yaml(place: Place, name: str) -> str:
    return f"""\
name: {name}
listen: ipc://./{name}.sock
pipes: [tcp://127.0.0.1:{place.pipe_port}]
push: tcp://127.0.0.1:{place.push_ports[name]}
routes: routes-{name}.yaml
drain: 1s
"""


def _routes_yaml(place: Place, handler: str, name: str) -> str:
    if handler == "http":
        url = place.service_url(name) + http_handler.PATH
        how = f'handler: {{http: "{url}"}}\n    health: {STATS_PATH}'
    else:
        how = 'handler: {python: "mpy6a.demo.handler:finish_user_create"}'
    return f"""\
kinds:
  user-create:
    id: 1
    sidecars: [{", ".join(SIDECARS)}]
    {how}
    repeat: {{delay: 500ms, backoff: 200ms..2s, timeout: 4s}}
"""
