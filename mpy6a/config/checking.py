"""Checks configuration files of any kind without starting anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from mpy6a.config.pipe import PipeSection, read_pipe
from mpy6a.config.problems import Findings, Problem
from mpy6a.config.routes import RoutesSection, read_routes
from mpy6a.config.sidecar import SidecarSection, read_sidecar
from mpy6a.config.yamlfile import Document, read

FileType = Literal["routes", "pipe", "sidecar"]

_COMPARED_MAX: Final = 16  # keys of a file that is none of the three
_KEYS: Final[Mapping[FileType, frozenset[str]]] = {
    "routes": frozenset(RoutesSection.model_fields),
    "pipe": frozenset(PipeSection.model_fields),
    "sidecar": frozenset(SidecarSection.model_fields),
}


def check(paths: Iterable[Path]) -> list[Problem]:
    """Everything wrong in these files and those they name, whichever of the three each is.

    A routes file that several of them name is told once.
    """
    findings = Findings()
    for path in paths:
        if (document := read(path, findings)) is not None:
            _check(document, findings)
    return findings.problems()


def _check(document: Document, findings: Findings) -> None:
    match file_type(document):
        case "routes":
            read_routes(document, (), findings)
        case "pipe":
            read_pipe(document, findings)
        case "sidecar":
            read_sidecar(document, findings)
        case None:
            allowed = "the keys of a routes.yaml (kinds), a pipe.yaml (pipe, data) or a sidecar.yaml (name, pipes)"
            known = sorted({key for keys in _KEYS.values() for key in keys})
            meant = (findings.did_you_mean(key, known) for key in islice(document.values, _COMPARED_MAX))
            allowed += next(filter(None, meant), "")
            findings.add(document.file, 0, (), "keys that do not tell which file this is", allowed)


def file_type(document: Document) -> FileType | None:
    """Which of the three files this is, by the keys it has at its top; None when they do not tell."""
    fits = {kind: len(keys & document.values.keys()) for kind, keys in _KEYS.items()}
    best = max(fits.values())
    types = [kind for kind, fit in fits.items() if fit == best]
    return types[0] if best and len(types) == 1 else None
