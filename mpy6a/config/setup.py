"""A pipe's configuration as a reload looks at it: what may change while it runs, what needs a restart, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mpy6a.changes import Setup
from mpy6a.config.pipe import PipeSettings, read_pipe
from mpy6a.config.problems import Findings
from mpy6a.config.values import part_text
from mpy6a.config.yamlfile import Document, read
from mpy6a.units import duration_text, size_text

# Keys of pipe.yaml that a reload looks at one by one, with where each stands; routes and sidecars are compared whole.
_KEYS: Final = (
    "pipe", "data", "listen", "admin", "lease", "log.fsync", "log.interval", "log.segment", "log.checkpoint",
    "log.keep", "disk.low", "disk.very_low", "disk.reserve",
)  # fmt: skip


def setup_of(settings: PipeSettings) -> Setup:
    """The setup of a pipe that runs with these settings."""
    log, disk = settings.log, settings.disk
    fixed = {
        "pipe": str(settings.pipe),
        "data": str(settings.data),
        "listen": ", ".join(settings.listen),
        "admin": settings.admin,
        "log.fsync": log.fsync,
        "log.interval": duration_text(log.interval_ms),
        "log.segment": size_text(log.segment_bytes),
        "log.checkpoint": size_text(log.checkpoint_bytes),
        "log.keep": size_text(log.keep_bytes),
    }
    values = {
        "disk.low": part_text(disk.low),
        "disk.very_low": part_text(disk.very_low),
        "disk.reserve": part_text(disk.reserve),
    }
    return Setup(settings.policy, dict(settings.sidecars), values, fixed, disk)


def load_setup(path: Path) -> tuple[Setup, dict[str, str]]:
    """The setup of a pipe.yaml and the routes it names, and the place (`pipe.yaml:3`) of its keys.

    Raises ConfigProblems with everything that is wrong in either.
    """
    findings = Findings()
    document = read(path, findings)
    settings = read_pipe(document, findings) if document is not None else None
    findings.raise_any()
    assert document is not None, "no document and no problem"
    assert settings is not None, "a pipe without settings and without a problem"
    return setup_of(settings), {key: _place(document, key) for key in _KEYS}


def _place(document: Document, key: str) -> str:
    return f"{document.file}:{document.line(tuple(key.split('.')))}"
