"""The three config files of `mpy6a dev`: written so that what was begun in an earlier run is still known.

Ids of kinds are never changed nor used again, a kind whose handler is gone stays and keeps its sessions, and what the
user wrote under `repeat:` stays. Ports stay while they are free.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

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
from mpy6a.config.values import NAME_ALLOWED, rate_text
from mpy6a.errors import CannotStart, ConfigError
from mpy6a.limits import IPC_PATH_BYTES_MAX, NAME_BYTES_MAX
from mpy6a.policy import KindPolicy

SIDECAR: Final = "app"
FIRST_PORT: Final = 7_400  # and the one above it; then the next pairs
PORT_PAIRS: Final = 200
SOCKET: Final = "sidecar.sock"  # where mpy6a.Pipe() looks by itself, in ./.mpy6a

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_BYTES_MAX - 1}}}")
_PLAIN: Final = re.compile(r"(?!(null|true|false|yes|no|on|off|y|n)\Z)[a-z][a-z0-9_-]*")  # as a key of YAML


@dataclass(frozen=True, slots=True)
class Files:
    """The data directory of one `mpy6a dev`."""

    directory: Path

    @property
    def pipe(self) -> Path:
        return self.directory / "pipe.yaml"

    @property
    def routes(self) -> Path:
        return self.directory / "routes.yaml"

    @property
    def sidecar(self) -> Path:
        return self.directory / "sidecar.yaml"

    @property
    def socket(self) -> Path:
        return self.directory / SOCKET

    def prepare(self) -> None:
        """Makes the directory. Raises ConfigError where a socket cannot stand in it, CannotStart where nothing can."""
        length = len(os.fsencode(self.socket.absolute()))
        if length > IPC_PATH_BYTES_MAX:
            raise ConfigError(
                f"the socket {self.socket.absolute()} would have a path of {length} bytes, and {IPC_PATH_BYTES_MAX} are"
                f" possible; take a shorter directory, such as --data /tmp/mpy6a with MPY6A_SIDECAR=/tmp/mpy6a/{SOCKET}"
            )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not (self.directory / ".gitignore").exists():
                (self.directory / ".gitignore").write_text("*\n")
        except OSError as problem:
            raise CannotStart(f"{self.directory}: {problem.strerror}; name another directory with --data") from None

    def write_routes(self, handlers: Path, found: Sequence[Found]) -> bool:
        """Brings the routes up to these handlers; whether that changed them. Raises ConfigError."""
        before = load_routes(self.routes).kinds if self.routes.exists() else {}
        return _write(self.routes, routes_yaml(handlers, merged(handlers, found, before)))

    def write_processes(self, handlers: Path, port_base: int | None) -> None:
        """Writes pipe.yaml and sidecar.yaml, unless those that are there will do. Raises ConfigError, CannotStart."""
        ports = self._ports()
        if port_base is not None and ports != (port_base, port_base + 1):
            ports = (port_base, port_base + 1)
            if not _are_free(ports):
                raise CannotStart(f"port {ports[0]} or {ports[1]} is in use; give another --port-base, or none")
        elif ports is None or not _are_free(ports):
            ports = _free_pair()
        if ports != self._ports():
            _write(self.pipe, pipe_yaml(*ports))
        if ports != self._sidecar_ports() or load_sidecar(self.sidecar).path != (handlers.parent,):
            _write(self.sidecar, sidecar_yaml(*ports, handlers.parent))

    def _ports(self) -> tuple[int, int] | None:
        """As pipe.yaml has them; None when it is not there, or was made into something else."""
        if not self.pipe.exists():
            return None
        settings = load_pipe(self.pipe)
        ports = _port_of(settings.listen[0]), _port_of(settings.sidecars.get(SIDECAR, ""))
        return ports if all(ports) else None

    def _sidecar_ports(self) -> tuple[int, int] | None:
        if not self.sidecar.exists():
            return None
        settings = load_sidecar(self.sidecar)
        return _port_of(settings.pipes[0]), _port_of(settings.push or "")


def merged(handlers: Path, found: Sequence[Found], before: Mapping[str, Route]) -> dict[str, Route]:
    """The routes as they are to be: those before, with the handlers of now, and new kinds behind them.

    Raises ConfigError for a kind's name that routes cannot have, and for two kinds of one number.
    """
    routes = {name: _without_handler(route) for name, route in before.items()}
    names = {route.policy.id: name for name, route in before.items()}
    numbered = {kind for kind, _ in found if isinstance(kind, int)}
    for kind, function in found:
        name = kind if isinstance(kind, str) else names.get(kind, f"kind-{kind}")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{handlers.name}: {function} is marked for {kind!r}; a kind has {NAME_ALLOWED}")
        handler = PythonHandler(f"{handlers.stem}:{function}")
        route = routes.get(name)
        if route is not None:
            if isinstance(kind, int) and route.policy.id != kind:
                raise ConfigError(f"{handlers.name}: {function} is marked for {kind}, and {name!r} has another number")
            routes[name] = Route(route.policy, handler)
            continue
        number = kind if isinstance(kind, int) else max([0, *names, *numbered]) + 1
        if not 1 <= number <= 0xFFFF_FFFF:
            raise ConfigError(f"{handlers.name}: {function} is marked for {number}; numbers go from 1 to {0xFFFF_FFFF}")
        names[number] = name
        routes[name] = Route(KindPolicy(number, name, (SIDECAR,), "python"), handler)
    return routes


def _without_handler(route: Route) -> Route:
    """A kind before its handler is found: one that was in the file waits, others stay as the user wrote them."""
    return Route(route.policy, Attached()) if isinstance(route.handler, PythonHandler) else route


def routes_yaml(handlers: Path, routes: Mapping[str, Route]) -> str:
    """routes.yaml."""
    lines = [
        f"# Kept by `mpy6a dev` in step with {handlers.name}. An id is never changed and never used again; what you",
        "# write under `repeat:` stays.",
        "",
        "kinds:",
    ]
    for name, route in routes.items():
        lines.append(f"  {name if _PLAIN.fullmatch(name) else json.dumps(name)}:")
        lines.append(f"    id: {route.policy.id}")
        lines.append(f"    sidecars: [{SIDECAR}]")
        lines.extend(f"    {line}" for line in _handler_lines(handlers, route.handler))
        repeat = _repeat_lines(route.policy)
        if repeat:
            lines.append("    repeat:")
            lines.extend(f"      {line}" for line in repeat)
    return "\n".join([*lines, "", "orphans: hold", ""])


def _handler_lines(handlers: Path, handler: HandlerSpec) -> list[str]:
    match handler:
        case PythonHandler():
            return [f"handler: {{python: {_text(handler.target)}}}"]
        case HttpHandler():
            health = [] if handler.health is None else [f"health: {_text(urlsplit(handler.health).path)}"]
            return [f"handler: {{http: {_text(handler.url)}}}", f"records: {handler.records}", *health]
        case ExecHandler():
            return [f"handler: {{exec: [{', '.join(map(_text, handler.argv))}]}}", f"records: {handler.records}"]
        case Attached():
            return [f"handler: {{attached: true}}   # none in {handlers.name}: its sessions wait until there is one"]


def _repeat_lines(policy: KindPolicy) -> list[str]:
    """What differs from the defaults."""
    default = {field.name: field.default for field in fields(KindPolicy)}
    lines: list[str] = []
    for key in ("delay", "jitter", "idle", "silence", "timeout"):
        value = getattr(policy, f"{key}_ms")
        if value != default[f"{key}_ms"]:
            lines.append(f"{key}: {_duration(value)}")
    backoff = (policy.backoff_base_ms, policy.backoff_cap_ms)
    if backoff != (default["backoff_base_ms"], default["backoff_cap_ms"]):
        lines.append(f"backoff: {_duration(backoff[0])}..{_duration(backoff[1])}")
    if policy.rate:
        lines += [f"rate: {rate_text(policy.rate, policy.rate_ms)}", f"burst: {policy.burst}"]
    for key in ("concurrency", "barren_limit", "charge_limit", "concurrency_total", "breaker"):
        if getattr(policy, key) != default[key]:
            lines.append(f"{key}: {getattr(policy, key)}")
    return lines


def _duration(ms: int) -> str:
    return f"{ms}ms" if ms % 1000 or not ms else f"{ms // 1000}s"


def _text(value: str) -> str:
    """A text of YAML: JSON's escapes are among YAML's. No variable is meant by what has been read."""
    return json.dumps(value.replace("${", "$${"), ensure_ascii=False)


def pipe_yaml(pipe_port: int, push_port: int) -> str:
    """pipe.yaml."""
    return f"""\
# Written by `mpy6a dev`; read by `mpy6a status` and `mpy6a sessions` with --config.

pipe: 1
data: ./data
listen: [tcp://127.0.0.1:{pipe_port}]
admin: ipc://./admin.sock
routes: routes.yaml
sidecars: {{{SIDECAR}: tcp://127.0.0.1:{push_port}}}
log: {{segment: 16MiB}}
"""


def sidecar_yaml(pipe_port: int, push_port: int, path: Path) -> str:
    """sidecar.yaml; `path` is where the handlers' file is."""
    return f"""\
# Written by `mpy6a dev`.

name: {SIDECAR}
listen: ipc://./{SOCKET}
pipes: [tcp://127.0.0.1:{pipe_port}]
push: tcp://127.0.0.1:{push_port}
routes: routes.yaml
drain: 5s
path: [{_text(str(path))}]
"""


def _write(path: Path, text: str) -> bool:
    """Replaces the file in one go; False when it says so already."""
    try:
        if path.exists() and path.read_text() == text:
            return False
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)
    except OSError as problem:
        raise CannotStart(f"{path}: {problem.strerror}; name another directory with --data") from None
    return True


def _port_of(address: str) -> int:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else 0


def _free_pair() -> tuple[int, int]:
    last = FIRST_PORT + 2 * PORT_PAIRS
    for port in range(FIRST_PORT, last, 2):
        if _are_free((port, port + 1)):
            return port, port + 1
    raise CannotStart(f"no two free ports from {FIRST_PORT} to {last} on 127.0.0.1; give a --port-base")


def _are_free(ports: tuple[int, int]) -> bool:
    for port in ports:
        with socket.socket() as probe:
            # As libzmq binds: a port whose last connection still lingers is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                return False
    return True
