"""The version of this release; `pyproject.toml` reads it from here when the package is built."""

from __future__ import annotations

__version__ = "0.1.0.dev0"  # hatchling finds this line by its shape: no annotation
