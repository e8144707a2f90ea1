"""How little `mpy6a serve` loads: its first answer is promised half a second after the command."""

from __future__ import annotations

import subprocess
import sys

from mpy6a.resources import config

HEAVY = {
    "aiohttp", "argparse", "asyncio", "capnp", "email", "httpx", "importlib.metadata", "pydantic", "rich", "sqlite3",
    "ssl", "mpy6a.benchmark", "mpy6a.client", "mpy6a.config.checking", "mpy6a.config.sidecar", "mpy6a.demo", "sidecar",
}  # fmt: skip


def test_serve_loads_only_what_it_needs() -> None:
    """Up to its checked config, so before the log: pycapnp (and asyncio with it) comes with the first frame."""
    program = (
        "import sys; from pathlib import Path; import mpy6a.cli; from mpy6a.commands.serve import load_pipe;"
        f"load_pipe(Path({str(config('pipe.yaml'))!r}));"
        f"print('mpy6a.server' in sys.modules, *sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["True"]
