"""sidecar.yaml: a sidecar's name, its doors, the pipes it serves, and the handlers it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from mpy6a.config.addresses import Bound, Dialed, FilePath, HttpAddress, HttpListen, IpcBound
from mpy6a.config.problems import Findings, Where, shown
from mpy6a.config.routes import (
    HandlerSpec,
    Route,
    Routes,
    RoutesValue,
    raw_kinds,
    raw_sidecars,
    read_routes,
    routes_document_of,
)
from mpy6a.config.schema import AfterValidator, Field, PlainValidator
from mpy6a.config.section import Section, validate
from mpy6a.config.values import NAME_ALLOWED, Duration, Group, Name, Several
from mpy6a.config.yamlfile import Document, read

DRAIN_MS = 10_000  # below the 30 s that most supervisors give before they kill
CALLBACK = HttpAddress("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """A sidecar's configuration, complete and checked; paths and ipc addresses are absolute.

    `kinds` are those of the routes that list this sidecar, by name. `push` is None only if there are none.
    """

    name: str
    listen: str
    group: str | None
    pipes: tuple[str, ...]
    push: str | None
    routes: Routes | None
    kinds: Mapping[str, Route]
    drain_ms: int
    callback: HttpAddress
    path: tuple[Path, ...]

    @property
    def socket_mode(self) -> int:
        """Mode of the socket at `listen`: the owner's alone, or a group's too."""
        return 0o600 if self.group is None else 0o660

    @property
    def handlers(self) -> Mapping[str, HandlerSpec]:
        """What runs each kind that this sidecar is pushed, by the kind's name."""
        return {name: route.handler for name, route in self.kinds.items()}


Pipes = Annotated[list[Dialed], AfterValidator(Several(1, 64))]
Drain = Annotated[int, PlainValidator(Duration(0, 3_600_000))]
ImportDirectories = Annotated[list[FilePath], AfterValidator(Several(0, 64))]


class SidecarSection(Section):
    name: Name = Field(description=NAME_ALLOWED)
    listen: IpcBound = Field(description="ipc://PATH, where the service's library comes, such as ipc://./users.sock")
    group: Group | None = None
    pipes: Pipes = Field(description="a list of the pipes' addresses, such as [tcp://127.0.0.1:7400]")
    push: Bound | None = None
    routes: RoutesValue | None = None
    drain: Drain = DRAIN_MS
    callback: HttpListen = CALLBACK
    path: ImportDirectories | None = None


def load_sidecar(path: Path) -> SidecarSettings:
    """The sidecar's settings from sidecar.yaml and the routes it names.

    Raises ConfigProblems (a ConfigError) with everything that is wrong in either. Nothing of the machine but
    the files is looked at: whether a group exists or a socket is in use shows when the sidecar starts.
    """
    findings = Findings()
    document = read(path, findings)
    settings = read_sidecar(document, findings) if document is not None else None
    findings.raise_any()
    assert settings is not None, "a sidecar without settings and without a problem"
    return settings


def read_sidecar(document: Document, findings: Findings) -> SidecarSettings | None:
    """The sidecar's settings from a document; None when there are problems."""
    section = validate(SidecarSection, document.values, document, (), findings)
    name = document.values.get("name")
    routes, routes_problem = None, False
    routes_document, where = routes_document_of(document, findings)
    if routes_document is not None:
        routes = read_routes(routes_document, where, findings)
        if isinstance(name, str):
            _check_push(document, routes_document, where, name, findings)
    routes_problem = "routes" in document.values and routes is None
    if section is None or routes_problem:
        return None
    kinds = routes.kinds if routes is not None else {}
    mine = {name: route for name, route in kinds.items() if section.name in route.policy.sidecars}
    return SidecarSettings(
        name=section.name,
        listen=section.listen,
        group=section.group,
        pipes=tuple(section.pipes),
        push=section.push,
        routes=routes,
        kinds=MappingProxyType(mine),
        drain_ms=section.drain,
        callback=section.callback,
        path=tuple(section.path) if section.path is not None else (document.path.parent,),
    )


def _check_push(document: Document, routes: Document, where: Where, name: str, findings: Findings) -> None:
    """A sidecar that kinds list needs the address at which the pipe can push them."""
    kinds = [kind for _, kind, values in raw_kinds(routes, where) if name in [n for _, n in raw_sidecars(values)]]
    if kinds and "push" not in document.values:
        findings.add(
            document.file,
            document.line(()),
            ("push",),
            "nothing",
            f"tcp://HOST:PORT or ipc://PATH, where the pipe pushes the kind {shown(kinds[0])}",
        )
