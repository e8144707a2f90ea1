"""routes.yaml: which kinds there are, what runs their handlers, and how they are repeated.

Developers own it; the pipe and its sidecars read the same file. The pipe takes the policies out of it, a
sidecar the handlers of the kinds that list it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic_core.core_schema import ValidationInfo

from mpy6a import limits, policy
from mpy6a.config.addresses import HealthPath, HttpUrl, file_path, health_url
from mpy6a.config.problems import Findings, Where, one_of, shown
from mpy6a.config.schema import AfterValidator, Field, PlainValidator
from mpy6a.config.section import Section, validate
from mpy6a.config.values import (
    NAME_ALLOWED,
    U32,
    Argv,
    Choice,
    DurationMs,
    Name,
    OnlyTrue,
    PositiveMs,
    PythonTarget,
    RangeMs,
    RateOf,
    SidecarNames,
    Whole,
    refuse,
)
from mpy6a.config.yamlfile import Document, missing, read
from mpy6a.policy import KindPolicy, Orphans

Records = Literal["base64", "text", "json"]
ROUTES_ALLOWED: Final = "the path of routes.yaml, or the routes themselves (a mapping with `kinds:`)"
HANDLERS: Final = ("python", "http", "exec", "attached")
# Keys of a kind that only some handlers have.
KEYS_OF: Final = {"records": {"http": "URL", "exec": "[argv]"}, "health": {"http": "URL"}}


@dataclass(frozen=True, slots=True)
class PythonHandler:
    """A function run in a child process of the sidecar; `target` is MODULE:FUNCTION."""

    target: str


@dataclass(frozen=True, slots=True)
class HttpHandler:
    """A URL that gets one POST per push. `records`: their form in JSON; `health`: a whole URL or None."""

    url: str
    records: Records = "base64"
    health: str | None = None


@dataclass(frozen=True, slots=True)
class ExecHandler:
    """A program run once per push, without a shell, in `directory`: that of the file in which the routes stand.
    `records`: their form in the JSON on its stdin."""

    argv: tuple[str, ...]
    directory: Path
    records: Records = "base64"


@dataclass(frozen=True, slots=True)
class Attached:
    """A service that serves the kind itself over the sidecar's door."""


HandlerSpec = PythonHandler | HttpHandler | ExecHandler | Attached


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of the routes: what travels in the log, and what runs its handler."""

    policy: KindPolicy
    handler: HandlerSpec


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes as read. `path` is None when they stand inside pipe.yaml or sidecar.yaml itself."""

    path: Path | None
    kinds: Mapping[str, Route]
    orphans: Orphans


class RepeatSection(Section):
    delay: DurationMs = policy.DELAY_MS
    jitter: DurationMs = policy.JITTER_MS
    backoff: RangeMs = (policy.BACKOFF_BASE_MS, policy.BACKOFF_CAP_MS)
    idle: PositiveMs = policy.IDLE_MS
    silence: PositiveMs = policy.SILENCE_MS
    timeout: PositiveMs = policy.TIMEOUT_MS
    concurrency: Annotated[int, PlainValidator(Whole(1, limits.CONCURRENCY_MAX))] = policy.CONCURRENCY
    barren_limit: U32 = policy.BARREN_LIMIT
    charge_limit: U32 = policy.CHARGE_LIMIT
    rate: RateOf | None = None
    burst: Annotated[int | None, PlainValidator(Whole(1, limits.RATE_MAX))] = None
    concurrency_total: Annotated[int | None, PlainValidator(Whole(1, limits.CONCURRENCY_MAX))] = None
    breaker: Annotated[int, PlainValidator(Whole(0, limits.BREAKER_MAX))] = policy.BREAKER

    def model_check(self) -> None:
        if self.burst is not None and self.rate is None:
            refuse("`burst` only beside a `rate`, such as rate: 100/s", "a burst and no rate")


class HandlerSection(Section):
    python: PythonTarget | None = None
    http: HttpUrl | None = None
    exec: Argv | None = None
    attached: OnlyTrue | None = None

    def model_check(self) -> None:
        given = [name for name in HANDLERS if name in self.model_fields_set]
        if len(given) != 1:
            refuse(f"exactly one of {one_of(HANDLERS)}", " and ".join(given) or "none")


class KindSection(Section):
    id: U32 = Field(description=f"a whole number from 1 to {0xFFFF_FFFF} that no other kind has, for ever")
    sidecars: SidecarNames = Field(description="a list of names of sidecars")
    handler: HandlerSection = Field(description=f"a mapping with exactly one of {one_of(HANDLERS)}")
    records: Annotated[Records, PlainValidator(Choice(("base64", "text", "json")))] = "base64"
    health: HealthPath | None = None
    repeat: RepeatSection = Field(default_factory=RepeatSection)


def _path_or_mapping(value: object, info: ValidationInfo) -> object:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return file_path(value, info)
    refuse(ROUTES_ALLOWED)


RoutesValue = Annotated[object, PlainValidator(_path_or_mapping, info=True)]


def _bounded(kinds: dict[str, KindSection]) -> dict[str, KindSection]:
    if len(kinds) > limits.KINDS_MAX:
        refuse(f"at most {limits.KINDS_MAX} kinds", f"{len(kinds)} kinds")
    return kinds


class RoutesSection(Section):
    kinds: Annotated[dict[Name, KindSection], AfterValidator(_bounded)] = Field(
        description=f"a mapping of kinds: {NAME_ALLOWED}"
    )
    orphans: Annotated[Orphans, PlainValidator(Choice(("refuse", "hold", "park")))] = policy.ORPHANS


def read_routes(document: Document, where: Where, findings: Findings) -> Routes | None:
    """The routes at `where` of a document (() in a file of their own); None when there are problems."""
    values: Any = document.values
    for step in where:
        values = values[step]
    section = validate(RoutesSection, values, document, where, findings)
    _check_ids(document, where, findings)
    _check_keys(document, where, findings)
    if section is None:
        return None
    here = document.path.parent
    kinds = {name: Route(_policy(name, kind), _handler(kind, here)) for name, kind in section.kinds.items()}
    return Routes(None if where else document.path, MappingProxyType(kinds), section.orphans)


def routes_document_of(document: Document, findings: Findings) -> tuple[Document | None, Where]:
    """The document in which the routes of a pipe or sidecar stand, and where in it."""
    given = document.values.get("routes")
    if isinstance(given, dict):
        return document, ("routes",)
    if not isinstance(given, str) or findings.bad(document.file, ("routes",)):
        return None, ()
    path = Path(document.file).parent / given
    if missing(path):
        line = document.line(("routes",))
        findings.add(document.file, line, ("routes",), f"{shown(given)}, which is not there", ROUTES_ALLOWED)
        return None, ()
    return read(path, findings), ()


def load_routes(path: Path) -> Routes:
    """The routes of a file of their own; raises ConfigProblems with everything that is wrong in it."""
    findings = Findings()
    document = read(path, findings)
    routes = read_routes(document, (), findings) if document is not None else None
    findings.raise_any()
    assert routes is not None, "no routes and no problem"
    return routes


def raw_kinds(document: Document, where: Where) -> Iterator[tuple[Where, str, dict[str, Any]]]:
    """Place, name and values of each kind that is a mapping, whatever else is wrong around it.

    Checks across kinds and files use it, so that they speak even when pydantic has found other problems.
    """
    values: Any = document.values
    for step in (*where, "kinds"):
        values = values.get(step) if isinstance(values, dict) else None
    for name, kind in (values if isinstance(values, dict) else {}).items():
        if isinstance(kind, dict):
            yield (*where, "kinds", name), name, kind


def raw_sidecars(kind: dict[str, Any]) -> list[tuple[int, str]]:
    """Position and name of each sidecar that a kind lists."""
    listed = kind.get("sidecars")
    names = listed if isinstance(listed, list) else []
    return [(position, name) for position, name in enumerate(names) if isinstance(name, str)]


def _check_ids(document: Document, where: Where, findings: Findings) -> None:
    first: dict[int, tuple[str, int]] = {}
    for place, name, kind in raw_kinds(document, where):
        here, number = (*place, "id"), kind.get("id")
        if type(number) is not int or findings.bad(document.file, here):
            continue
        line = document.line(here)
        if number in first:
            other, other_line = first[number]
            findings.add(
                document.file,
                line,
                here,
                str(number),
                f"a number that no other kind has ({other!r} has it in line {other_line})",
            )
        else:
            first[number] = (name, line)


def _check_keys(document: Document, where: Where, findings: Findings) -> None:
    for place, _, kind in raw_kinds(document, where):
        handler = kind.get("handler")
        for key, handlers in KEYS_OF.items():
            here = (*place, key)
            if key not in kind or not isinstance(handler, dict) or not handlers.keys().isdisjoint(handler):
                continue
            if not findings.bad(document.file, here):
                line = document.line(here, key=True)
                allowed = " or ".join(f"`{{{name}: {value}}}`" for name, value in handlers.items())
                found = f"a key of {' and '.join(handlers)} handlers"
                findings.add(document.file, line, here, found, f"this key only beside a handler {allowed}")


def _policy(name: str, kind: KindSection) -> KindPolicy:
    repeat = kind.repeat
    rate, rate_ms = repeat.rate or (0, policy.RATE_MS)
    return KindPolicy(
        id=kind.id,
        name=name,
        sidecars=tuple(kind.sidecars),
        handler=next(iter(kind.handler.model_fields_set)),
        delay_ms=repeat.delay,
        jitter_ms=repeat.jitter,
        backoff_base_ms=repeat.backoff[0],
        backoff_cap_ms=repeat.backoff[1],
        idle_ms=repeat.idle,
        silence_ms=repeat.silence,
        timeout_ms=repeat.timeout,
        concurrency=repeat.concurrency,
        barren_limit=repeat.barren_limit,
        charge_limit=repeat.charge_limit,
        rate=rate,
        rate_ms=rate_ms,
        burst=repeat.burst or max(1, rate * 1_000 // rate_ms) if rate else 0,
        concurrency_total=repeat.concurrency_total or 0,
        breaker=repeat.breaker,
    )


def _handler(kind: KindSection, directory: Path) -> HandlerSpec:
    handler = kind.handler
    if handler.python is not None:
        return PythonHandler(handler.python)
    if handler.http is not None:
        health = health_url(handler.http, kind.health) if kind.health is not None else None
        return HttpHandler(handler.http, kind.records, health)
    if handler.exec is not None:
        return ExecHandler(handler.exec, directory, kind.records)
    return Attached()
