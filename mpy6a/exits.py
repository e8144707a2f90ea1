"""Exit codes of every command: 0 fine, 1 the finding is bad, 2 usage or config, 3 cannot start, 4 unreachable,
5 damaged data."""

from __future__ import annotations

from typing import Final

EXIT_FOUND_BAD: Final = 1
EXIT_USAGE: Final = 2
EXIT_CANNOT_START: Final = 3
EXIT_UNREACHABLE: Final = 4
EXIT_DAMAGED: Final = 5
