"""Type-checks tests/typing/api.py as a user does: in a directory of its own, against the installed package.

Run by `tox -e lint`. Beside the checkout mypy would read the sources, and never notice that the wheel lacks
py.typed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """0 when a user's strict type checker is content."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(Path(__file__).with_name("api.py"), directory)
        mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=/dev/null", "api.py"]
        return subprocess.run(mypy, cwd=directory, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
