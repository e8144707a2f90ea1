"""The independent model: what every entry of the log does to sessions, written plainly from semantics.md.

Imports nothing of the package but ids and enums (held by import-linter), shares no code with `mpy6a.state`,
and knows neither bytes nor frames: operations in, verdicts and plain dicts out. Slow on purpose; where it and
`state` differ, one of the two has misread "One session", "One writer" or the table of transitions.
"""

from __future__ import annotations

from .values import Kind, SessionKey, Verdict, draw
from .verdicts import Reference

__all__ = ["Kind", "Reference", "SessionKey", "Verdict", "draw"]
