"""One flipped bit anywhere in the file is never served: every question is answered as before, or refused as damage."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from mpy6a.checkpoint.connecting import FILE_NAME
from mpy6a.checkpoint.file import CheckpointFile
from mpy6a.checkpoint.loading import load_state
from mpy6a.errors import DamagedLog, FormatVersion

from .samples import LOG, PIPE, READS, fill, header, some_rows, stored

PLACES: Final = {"quick": 100, "ci": 1_000}.get(os.environ.get("HYPOTHESIS_PROFILE", "quick"), 10_000)
REFUSED: Final = "refused"
Answers = dict[str, Any]


def _state(file: CheckpointFile) -> Any:
    return load_state(file, PIPE, LOG).dump()


def _answers(directory: Path) -> Answers:
    """What each kind of question comes to, each of a file that was opened for it alone would take longer."""
    found: Answers = {}
    try:
        file = CheckpointFile.open(str(directory))
    except (DamagedLog, FormatVersion):
        return dict.fromkeys([*READS, "state"], REFUSED)
    with closing(file):
        for name, read in {**READS, "state": _state}.items():
            try:
                found[name] = read(file)
            except (DamagedLog, FormatVersion):
                found[name] = REFUSED
        if REFUSED in found.values():
            assert file.verify(), "what a question meets, `verify` tells"
    return found


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A settled file, and the same with a second checkpoint that is still in SQLite's journal."""
    directory = tmp_path_factory.mktemp("whole")
    with closing(CheckpointFile.open(str(directory), write=True)) as file:
        fill(file, some_rows())
        settled = (directory / FILE_NAME).read_bytes()
        with file.transaction():
            file.put_sessions([(stored(20, due_ms=2_000), [b"data"]), (stored(90), [b"data"])])
            file.put_header(header(200))
        return {"settled": settled, "journal": (directory / f"{FILE_NAME}-wal").read_bytes()}


def _put(directory: Path, data: bytes, journal: bytes = b"") -> None:
    for left in os.listdir(directory):
        (directory / left).unlink()
    (directory / FILE_NAME).write_bytes(data)
    if journal:
        (directory / f"{FILE_NAME}-wal").write_bytes(journal)


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def _places(data: bytes, seed: int) -> list[int]:
    """Bits: those of the first page's header in turn, and drawn from all of the file."""
    r = Random(seed)
    return [r.randrange(800) for _ in range(PLACES // 5)] + [r.randrange(len(data) * 8) for _ in range(PLACES)]


def test_a_flipped_bit_in_the_file(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """Table, index, free page or header: each answer is the one before, or none."""
    data = contents["settled"]
    _put(tmp_path, data)
    whole = _answers(tmp_path)
    assert REFUSED not in whole.values()
    refused = 0
    for bit in _places(data, 1):
        _put(tmp_path, _flipped(data, bit))
        for name, answer in _answers(tmp_path).items():
            assert answer in (whole[name], REFUSED), f"bit {bit}: {name} answers {answer!r:.200}"
            refused += answer == REFUSED
    assert refused > PLACES, "the flips were seen"


def test_a_flipped_bit_in_the_journal(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """Answers of the checkpoint that the header names: the one in the journal, or the one before it (FORMAT.md)."""
    data, journal = contents["settled"], contents["journal"]
    _put(tmp_path, data)
    before = _answers(tmp_path)
    _put(tmp_path, data, journal)
    after = _answers(tmp_path)
    assert (before["header"].next_index, after["header"].next_index) == (100, 200)
    lost = 0
    for bit in _places(journal, 2):
        _put(tmp_path, data, _flipped(journal, bit))
        found = _answers(tmp_path)
        assert found["header"] in (before["header"], after["header"], REFUSED)
        expected = before if found["header"] == before["header"] else after
        lost += expected is before
        for name, answer in found.items():
            assert answer in (expected[name], REFUSED), f"bit {bit}: {name} answers {answer!r:.200}"
    assert lost, "a transaction with a flipped bit is dropped"


def test_every_bit_of_the_header(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """The first 100 bytes are read without a checksum, and say whether there are checksums: each bit in turn."""
    data = contents["settled"]
    for bit in range(100 * 8 if PLACES >= 1_000 else 24 * 8):
        _put(tmp_path, _flipped(data, bit))
        with pytest.raises((DamagedLog, FormatVersion)), closing(CheckpointFile.open(str(tmp_path))) as file:
            file.header()


def test_bits_flipped_under_a_reader(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """A file that rots while the pipe has it open: what SQLite still knows is right, what it reads again is checked."""
    data = contents["settled"]
    _put(tmp_path, data)
    whole = _answers(tmp_path)
    r = Random(3)
    refused = set()
    with closing(CheckpointFile.open(str(tmp_path))) as file:
        for _ in range(PLACES // 10):
            with open(tmp_path / FILE_NAME, "r+b", buffering=0) as raw:
                pages = (data[at : at + 4096] for at in range(0, len(data), 4096))
                raw.write(b"".join(_flipped(page, r.randrange(4096 * 8)) for page in pages))
            for name, read in READS.items():
                file.connection().release_memory()
                try:
                    assert read(file) == whole[name]
                except DamagedLog:
                    refused.add(name)
    assert len(refused) > len(READS) // 2


def test_a_file_that_is_cut_short(tmp_path: Path, contents: dict[str, bytes]) -> None:
    """At every page: it answers as before where the rest is not asked for, or not at all."""
    data = contents["settled"]
    _put(tmp_path, data)
    whole = _answers(tmp_path)
    for size in range(4096, len(data), 4096):
        _put(tmp_path, data[:size])
        for name, answer in _answers(tmp_path).items():
            assert answer in (whole[name], REFUSED), f"{size} bytes: {name} answers {answer!r:.200}"
