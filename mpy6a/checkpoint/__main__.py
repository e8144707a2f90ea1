"""`python -m mpy6a.checkpoint DIR`: the process that writes a pipe's checkpoints (child.py). Started by the pipe."""

from __future__ import annotations

import sys

from mpy6a.checkpoint.child import serve
from mpy6a.errors import Mpy6aError

if __name__ == "__main__":
    try:
        serve(sys.argv[1])
    except Mpy6aError as problem:
        sys.exit(f"checkpoint: {problem}")
    except KeyboardInterrupt:
        pass  # the pipe was told as well, and ends by itself
