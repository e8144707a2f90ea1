"""Reading from the middle of a row: a part of what `records` gives, and every page of it checked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from mpy6a import export
from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.tables import PAGE_BYTES
from mpy6a.errors import DamagedLog

from .samples import fill, stored

RECORD = bytes(range(256)) * 400  # 100 KiB: 25 pages behind each other
INDEX = 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with closing(CheckpointFile.open(str(tmp_path), write=True)) as file:
        fill(file, [(stored(INDEX, record=RECORD), [RECORD]), (stored(30), [b"data"])])
    return tmp_path


def test_a_part_is_a_part(directory: Path) -> None:
    """From anywhere, over pages' ends; what is not there is damage, not less."""
    with closing(CheckpointFile.open(str(directory))) as file:
        assert isinstance(file, export.Parts)
        for start, length in ((0, 1), (0, len(RECORD)), (4_000, 10_000), (len(RECORD) - 7, 7)):
            assert file.part(INDEX, start, length) == RECORD[start : start + length]
        assert file.part(30, 1, 2) == b"at"
        for index, start, length in ((INDEX, 5, len(RECORD)), (30, 4, 1), (30, 9, 1), (77, 0, 1)):
            with pytest.raises(DamagedLog, match=f"row {index}"):
                file.part(index, start, length)
    with (
        closing(CheckpointFile.open(str(directory / "none"))) as nothing,
        pytest.raises(DamagedLog, match="no such file"),
    ):
        nothing.part(INDEX, 0, 1)


def test_a_flipped_bit_in_any_page_of_it_is_found(directory: Path) -> None:
    """Also in the pages behind the row, which SQLite may read past its own cache."""
    path = directory / FILE_NAME
    whole = path.read_bytes()
    pages = [at for at in range(0, len(whole), PAGE_BYTES) if RECORD[:64] in whole[at : at + PAGE_BYTES]]
    assert len(pages) >= len(RECORD) // PAGE_BYTES - 2
    for at in pages:
        damaged = bytearray(whole)
        damaged[at + 2_000] ^= 1
        path.write_bytes(damaged)
        damage = pytest.raises(DamagedLog, match="checksum of a page")
        with closing(CheckpointFile.open(str(directory))) as file, damage:
            file.part(INDEX, 0, len(RECORD))
