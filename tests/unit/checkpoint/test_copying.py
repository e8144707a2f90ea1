"""A copy of a checkpoint is whole, wherever its pages stood, and is of one moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpy6a import limits
from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.copying import Snapshot
from mpy6a.checkpoint.file import CheckpointFile
from tests.unit.backup.test_backup import Data


def test_pages_in_the_journal_get_their_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite fills them in when it moves pages into the file: a copy that is made before has them all the same.

    There are more pages than SQLite keeps in memory, so most are written before the first one.
    """
    monkeypatch.setattr(limits, "CHECKPOINT_LOCK_MS", 1)
    data = Data(tmp_path)
    data.store(10)
    data.checkpoint(trim=False)
    target = tmp_path / "copied"
    target.mkdir()
    with Snapshot(data.path):  # while somebody reads, the journal stays
        data.store(400, 8_000)
        data.checkpoint(trim=False)
        with Snapshot(data.path) as snapshot:
            reports: list[tuple[int, int]] = []
            snapshot.copy(str(target / FILE_NAME), lambda done, total: reports.append((done, total)))
    assert reports[-1][0] == reports[-1][1] > 3 << 20
    copied = CheckpointFile.open(str(target))
    assert copied.verify() == []
    assert copied.header() == snapshot.header
    assert len(copied.filter()) == 410
    copied.close()
    data.close()


def test_where_no_checkpoint_was_written_there_is_nothing_to_copy(tmp_path: Path) -> None:
    """No file, and one that is new."""
    with Snapshot(str(tmp_path)) as snapshot:
        assert snapshot.header is None
    CheckpointFile.open(str(tmp_path), write=True).close()
    with Snapshot(str(tmp_path)) as snapshot:
        assert snapshot.header is None
