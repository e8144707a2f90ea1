"""Makes a frozen data directory, once: `python -m tests.golden.data.making` writes those that are not there.

Never again for formats that were released: what is frozen is what that release wrote, and a new one cannot write it.
A new format, or one that changed, gets a directory of its own beside the old ones.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.crash.lives import Life, tell
from tests.crash.working import POLICY, Work
from tests.fakes.core import WALL_MS

GOLDEN: Final = Path(__file__).parent
CONTENT: Final = "directory.zip"
EXPECTED: Final = "expected.json"
_LEFT_OUT: Final = ("spare-", "lock", "checkpoint.db-")  # nothing in a closed directory; the journal is empty


def log_1(directory: Path) -> None:
    """The log in its format 1, as a pipe without checkpoints left it: two terms, all of it there, closed.

    What is frozen was written by the last code that knew no checkpoints (commit 0156953), which said the same of it.
    """
    chance = Random(1)
    life = Life(directory, chance.randbytes, POLICY, now_ms=1_000)
    work = Work(life, chance)
    work.do(40)
    life.close()
    life = Life(directory, chance.randbytes, POLICY, now_ms=1_000, wall_ms=WALL_MS + 60_000)
    Work(life, chance, work.next_request).do(30)
    life.close()


def log_1_checkpoint_1(directory: Path) -> None:
    """Log and checkpoint in their formats 1: trimmed, some segments above the checkpoint, closed."""
    chance = Random(2)
    life = Life(directory, chance.randbytes, POLICY, now_ms=1_000)
    work = Work(life, chance)
    work.do(60)
    life.checkpoint(trim=True)
    work.do(20)
    life.close()
    life = Life(directory, chance.randbytes, POLICY, now_ms=1_000, wall_ms=WALL_MS + 60_000)
    work = Work(life, chance, work.next_request)
    work.do(50)
    life.checkpoint(trim=True)
    work.do(60)
    life.close()


MADE: Final = {"log-1": log_1, "log-1-checkpoint-1": log_1_checkpoint_1}


def main() -> None:
    """Make what is not there."""
    for name, make in MADE.items():
        if (GOLDEN / name).exists():
            print(f"{name} is frozen")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "data"
            make(directory)
            paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
            kept = [path for path in paths if not path.name.startswith(_LEFT_OUT)]
            (GOLDEN / name).mkdir()
            with zipfile.ZipFile(GOLDEN / name / CONTENT, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as content:
                for path in kept:
                    content.write(path, str(path.relative_to(directory)))
            expected = _text(tell(directory))
        (GOLDEN / name / EXPECTED).write_text(expected, encoding="utf-8")


def _text(values: dict[str, Any]) -> str:
    """JSON with a session a line."""
    sessions = [f"{json.dumps(id)}: {json.dumps(session)}" for id, session in values["sessions"].items()]
    rest = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items() if key != "sessions"]
    return "{" + ",\n".join([*rest, '"sessions": {\n' + ",\n".join(sessions) + "}"]) + "}\n"


if __name__ == "__main__":
    main()
