"""Copy a checkpoint as it stands at one moment, while its writer goes on: pages and their checksums as they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Self

import apsw

from mpy6a.checkpoint.connecting import checking_vfs, make_private, reserve_checksums
from mpy6a.checkpoint.damage import errno_of, meaning
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.header import CheckpointHeader
from mpy6a.checkpoint.tables import PAGE_BYTES

_STEP_PAGES: Final = 2_048  # 8 MiB between two reports


class Snapshot:
    """One moment of a checkpoint, for `with`: as long as it is open nothing that is committed changes what it reads.

    The writer is not held up; its journal grows meanwhile, and is emptied after the next commit.
    """

    def __init__(self, directory: str) -> None:
        """Raises DamagedLog, FormatVersion, DiskFailed."""
        self.header: CheckpointHeader | None = None  # None: no checkpoint was written yet
        self._file = CheckpointFile.open(directory)

    def __enter__(self) -> Self:
        try:
            if os.path.exists(self._file.path) and self._file.header() is not None:
                self._file.connection().execute("BEGIN")
                self.header = self._file.header()  # from here on the moment is fixed
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def copy(self, path: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Write it to a new file; not synced. `progress`: (bytes done, in all).

        Raises DamagedLog, DiskFull, DiskFailed.
        """
        target: apsw.Connection | None = None
        try:
            make_private(path)
            target = apsw.Connection(path, vfs=checking_vfs(), flags=apsw.SQLITE_OPEN_READWRITE)
            # Pages that stand in the journal have no checksum yet. They get one when they are written, which the file
            # layer does only once it has seen a first page that asks for it.
            reserve_checksums(target)
            target.execute(f"PRAGMA page_size = {PAGE_BYTES}; CREATE TABLE replaced (soon)")
            with target.backup("main", self._file.connection(), "main") as copying:
                while not copying.done:
                    copying.step(_STEP_PAGES)
                    if progress is not None:
                        pages = copying.page_count
                        progress((pages - copying.remaining) * PAGE_BYTES, pages * PAGE_BYTES)
        except apsw.Error as error:
            raise meaning(self._file.path, "", None, error, errno_of(target)) from error
        finally:
            if target is not None:
                target.close()


