"""`python -m tests.sim --seeds 0:100`, or one of them with `--seed 7 --verbose`."""

from __future__ import annotations

import os
import sys

from .command import main

if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of bytes have one order then: a seed is a run, in every process
        again = [sys.executable, "-m", "tests.sim", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
