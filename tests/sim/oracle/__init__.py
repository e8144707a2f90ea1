"""What must hold, judged in log order, written apart from the code: imports nothing of the package but ids and codes.

`Oracle` takes what the world saw (frames that the log returned, acks, pushes, runs, what callers were told) as plain
tuples, and raises `Violation` at the first thing that breaks a promise of semantics.md.
"""

from __future__ import annotations

from .facts import FrameSeen, Kept, KindSeen, PolicySeen, Told, Violation
from .judge import Oracle

__all__ = ["FrameSeen", "Kept", "KindSeen", "Oracle", "PolicySeen", "Told", "Violation"]
