"""`mpy6a` with segments so small that some seconds trim several. Run as: power_driver.py honest|lying serve CONFIG

`lying`: on a disk that says it synced a group, and did not. Segments, their names and checkpoints are made as they
should be; only what an acknowledgement stands on is a lie.
"""

from __future__ import annotations

import sys
from typing import Final
from unittest.mock import patch

from mpy6a import limits
from mpy6a.files import Buffer, OsFile
from mpy6a.framing import MAGIC

SEGMENT: Final = "5MiB"  # holds the biggest frame; the config asks for more because of the biggest group
_honest: Final = OsFile.write_synced


def _lying(self: OsFile, data: Buffer, offset: int) -> None:
    """A group is left to the kernel, which writes it when it likes."""
    if bytes(memoryview(data)[:4]) == MAGIC.to_bytes(4, "little"):
        self.write(data, offset)
    else:
        _honest(self, data, offset)


def main(disk: str) -> None:
    """Serve on a disk of that kind."""
    write_synced = {"honest": _honest, "lying": _lying}[disk]
    with patch.object(limits, "SEGMENT_BYTES_MIN", 5 * limits.MIB), patch.object(OsFile, "write_synced", write_synced):
        from mpy6a import cli  # the config's bounds are read when it is imported

        cli.main()


if __name__ == "__main__":
    kind = sys.argv.pop(1)
    main(kind)
