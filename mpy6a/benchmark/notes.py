"""What a process of handlers notes while `mpy6a bench delivery` runs: in memory, written to a file at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

NOTES: Final = "MPY6A_BENCH_NOTES"  # in its environment: the file


class Notes:
    """`runs` are (session, handed, done), both by the machine's monotonic clock in ns."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int, int]] = []
        self.acks_not_durable = 0

    def write(self, path: Path) -> None:
        """Everything, as JSON."""
        path.write_text(json.dumps({"runs": self.runs, "acks_not_durable": self.acks_not_durable}))


def read(path: Path) -> Notes:
    """What `write` wrote; OSError without a file, ValueError for another one."""
    notes, found = Notes(), json.loads(path.read_text())
    notes.runs = [(session, handed_ns, done_ns) for session, handed_ns, done_ns in found["runs"]]
    notes.acks_not_durable = found["acks_not_durable"]
    return notes
