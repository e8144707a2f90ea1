"""mpy6a's sidecar: the small process beside a service that the pipe pushes unfinished sessions to.

A foreign package on PyPI also installs a top-level `sidecar`. `MPY6A` tells the two apart.
"""

from __future__ import annotations

from typing import Final

MPY6A: Final = True
