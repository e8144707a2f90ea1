"""pipe.yaml: where a pipe keeps its data, where it listens, which sidecars it dials, and its routes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from mpy6a import limits
from mpy6a.config.addresses import Bound, Dialed, FilePath, IpcBound
from mpy6a.config.problems import Findings, Where, shortened, shown
from mpy6a.config.routes import (
    ROUTES_ALLOWED,
    Routes,
    RoutesValue,
    raw_kinds,
    raw_sidecars,
    read_routes,
    routes_document_of,
)
from mpy6a.config.schema import AfterValidator, Field, PlainValidator
from mpy6a.config.section import Section, validate
from mpy6a.config.values import Choice, Duration, Name, Part, Several, Size, Whole, part_text, refuse
from mpy6a.config.yamlfile import Document, read
from mpy6a.disk import Amount, DiskSettings
from mpy6a.policy import Policy
from mpy6a.units import size_text

Fsync = Literal["always", "interval"]

ADMIN_SOCKET = "admin.sock"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log is written. With `interval` an ack does not mean durable, and says so."""

    fsync: Fsync
    interval_ms: int
    segment_bytes: int
    checkpoint_bytes: int  # of log after which a checkpoint is written
    keep_bytes: int = 0  # of log below the last checkpoint


@dataclass(frozen=True, slots=True)
class PipeSettings:
    """A pipe's configuration, complete and checked; paths and ipc addresses are absolute."""

    pipe: int
    data: Path
    listen: tuple[str, ...]
    admin: str
    policy: Policy
    routes: Routes
    sidecars: Mapping[str, str]
    log: LogSettings
    disk: DiskSettings = field(default_factory=DiskSettings)


def _own_addresses(sidecars: dict[str, str]) -> dict[str, str]:
    if len(sidecars) > limits.SIDECARS_MAX:
        refuse(f"at most {limits.SIDECARS_MAX} sidecars", f"{len(sidecars)} sidecars")
    first: dict[str, str] = {}
    for name, address in sidecars.items():
        if address in first:
            refuse("an address of its own for each sidecar", f"{address} for {first[address]} and for {name}")
        first[address] = name
    return sidecars


Interval = Annotated[int, PlainValidator(Duration(1, 60_000))]
SegmentBytes = Annotated[
    int, PlainValidator(Size(limits.SEGMENT_BYTES_MIN, limits.SEGMENT_BYTES_MAX, multiple=4 * limits.KIB))
]
CheckpointBytes = Annotated[
    int, PlainValidator(Size(limits.CHECKPOINT_IDLE_BYTES, limits.CHECKPOINT_BYTES_MAX))
]
RecordBytes = Annotated[int, PlainValidator(Size(1, limits.RECORD_BYTES_MAX))]
SessionBytes = Annotated[int, PlainValidator(Size(1, limits.SESSION_BYTES_MAX))]
SessionRecords = Annotated[int, PlainValidator(Whole(1, limits.SESSION_RECORDS_MAX))]
Listen = Annotated[list[Bound], AfterValidator(Several(1, 16))]
SidecarAddresses = Annotated[dict[Name, Dialed], AfterValidator(_own_addresses)]
KeepBytes = Annotated[int, PlainValidator(Size(0, limits.LOG_KEEP_BYTES_MAX))]
Low = Annotated[Amount, PlainValidator(Part(500, 0, limits.DISK_LOW_BYTES_MAX))]
Reserve = Annotated[
    Amount, PlainValidator(Part(250, limits.DISK_RESERVE_BYTES_MIN, limits.DISK_RESERVE_BYTES_MAX))
]
Lease = Annotated[int, PlainValidator(Duration(limits.LEASE_MS_MIN, 3_600_000))]


class LogSection(Section):
    fsync: Annotated[Fsync, PlainValidator(Choice(("always", "interval")))] = "always"
    interval: Interval = 10
    segment: SegmentBytes = limits.SEGMENT_BYTES
    checkpoint: CheckpointBytes = limits.CHECKPOINT_BYTES
    keep: KeepBytes = 0


class DiskSection(Section):
    low: Low = DiskSettings().low
    very_low: Low = DiskSettings().very_low
    reserve: Reserve = DiskSettings().reserve

    def model_check(self) -> None:
        low, very_low = self.low, self.very_low
        if (low.permille is None, low.most is None) != (very_low.permille is None, very_low.most is None):
            return  # a share and a size are compared when the disk is known
        if (low.permille or 0) < (very_low.permille or 0) or (low.most or 0) < (very_low.most or 0):
            refuse("`low` that is not less than `very_low`", f"{part_text(low)} and {part_text(very_low)}")


class LimitsSection(Section):
    record: RecordBytes = limits.RECORD_BYTES_MAX
    session: SessionBytes = limits.SESSION_BYTES_MAX
    session_records: SessionRecords = limits.SESSION_RECORDS_MAX

    def model_check(self) -> None:
        if self.record > self.session:
            found = f"{size_text(self.record)} for a record and {size_text(self.session)} for a session"
            refuse("a session that holds at least one record", found)


class PipeSection(Section):
    pipe: Annotated[int, PlainValidator(Whole(1, 0xFFFF))] = Field(
        description="a whole number from 1 to 65535 that no other pipe has"
    )
    data: FilePath = Field(description="the path of the pipe's data directory")
    listen: Listen = Field(default_factory=lambda: ["tcp://127.0.0.1:7400"])
    admin: IpcBound | None = None
    routes: RoutesValue = Field(description=ROUTES_ALLOWED)
    sidecars: SidecarAddresses = Field(default_factory=dict)
    log: LogSection = Field(default_factory=LogSection)
    lease: Lease = limits.LEASE_MS
    limits: LimitsSection = Field(default_factory=LimitsSection)
    disk: DiskSection = Field(default_factory=DiskSection)


def load_pipe(path: Path) -> PipeSettings:
    """The pipe's settings from pipe.yaml and the routes it names.

    Raises ConfigProblems (a ConfigError) with everything that is wrong in either. Nothing of the machine but
    the files is looked at: whether a port is free or a directory writable shows when the pipe starts.
    """
    findings = Findings()
    document = read(path, findings)
    settings = read_pipe(document, findings) if document is not None else None
    findings.raise_any()
    assert settings is not None, "a pipe without settings and without a problem"
    return settings


def read_pipe(document: Document, findings: Findings) -> PipeSettings | None:
    """The pipe's settings from a document; None when there are problems."""
    section = validate(PipeSection, document.values, document, (), findings)
    routes_document, where = routes_document_of(document, findings)
    routes = None
    if routes_document is not None:
        routes = read_routes(routes_document, where, findings)
        _check_sidecars(document, routes_document, where, findings)
    _check_admin(document, findings)
    if section is None or routes is None:
        return None
    return PipeSettings(
        pipe=section.pipe,
        data=section.data,
        listen=tuple(section.listen),
        admin=section.admin or f"ipc://{section.data / ADMIN_SOCKET}",
        policy=_policy(section, routes),
        routes=routes,
        sidecars=MappingProxyType(dict(section.sidecars)),
        log=LogSettings(
            section.log.fsync, section.log.interval, section.log.segment, section.log.checkpoint, section.log.keep
        ),
        disk=DiskSettings(section.disk.low, section.disk.very_low, section.disk.reserve),
    )


def _check_sidecars(document: Document, routes: Document, where: Where, findings: Findings) -> None:
    """Every sidecar that a kind names must have an address here, or its sessions would wait for ever."""
    given = document.values.get("sidecars", {})
    if not isinstance(given, dict):
        return
    for place, _, kind in raw_kinds(routes, where):
        for position, name in raw_sidecars(kind):
            here = (*place, "sidecars", position)
            if name not in given and not findings.bad(routes.file, here):
                allowed = f"a name with an address under `sidecars:` of {document.file} ({shortened(given)})"
                findings.add(
                    routes.file,
                    routes.line(here),
                    here,
                    shown(name),
                    allowed + findings.did_you_mean(name, given),
                )


def _check_admin(document: Document, findings: Findings) -> None:
    """The default admin door stands in the data directory, whose path may be too long for a socket."""
    data, here = document.values.get("data"), ("admin",)
    if not isinstance(data, str) or "admin" in document.values or findings.bad(document.file, ("data",)):
        return
    length = len(os.fsencode(document.path.parent / data / ADMIN_SOCKET))
    if length > limits.IPC_PATH_BYTES_MAX:
        found = f"nothing, and a default ({ADMIN_SOCKET} in the data directory) of {length} bytes"
        allowed = f"a socket path of at most {limits.IPC_PATH_BYTES_MAX} bytes, such as ipc:///run/mpy6a/admin.sock"
        findings.add(document.file, document.line(("data",)), here, found, allowed)


def _policy(section: PipeSection, routes: Routes) -> Policy:
    return Policy(
        kinds={route.policy.id: route.policy for route in routes.kinds.values()},
        lease_ms=section.lease,
        record_bytes_max=section.limits.record,
        session_bytes_max=section.limits.session,
        session_records_max=section.limits.session_records,
        orphans=routes.orphans,
    )
