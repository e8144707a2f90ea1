"""The client's journal says after a SIGKILL what was begun and what was ended, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpy6a.demo.journal import Entry, Journal, read, whole_bytes

STARTED = Entry(2, 'two\nlines "Zoë"', "started")
DONE = Entry(2, 'two\nlines "Zoë"', "done", "1.3.5", user=7)
LEFT = Entry(3, "b", "left", why="ReadTimeout")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Any nickname survives, in a later life of the client and in the audit."""
    path = tmp_path / "journal.jsonl"
    assert read(path) == []
    with Journal(path) as journal:
        assert journal.entries == []
        journal.write(STARTED)
        journal.write(DONE)
    with Journal(path) as journal:
        assert journal.entries == [STARTED, DONE]
        journal.write(LEFT)
        assert journal.rows == {2, 3}
    assert read(path) == [STARTED, DONE, LEFT]


def test_what_one_life_wrote_can_be_told_from_the_lives_before(tmp_path: Path) -> None:
    """The length before a life, without a torn line, is where that life's lines begin."""
    path = tmp_path / "journal.jsonl"
    assert whole_bytes(path) == 0
    with Journal(path) as journal:
        journal.write(STARTED)
    path.write_bytes(path.read_bytes() + b'{"row": 3')
    before = whole_bytes(path)
    with Journal(path) as journal:
        journal.write(LEFT)
    assert read(path, before) == [LEFT]


def test_a_line_cut_short_anywhere_is_dropped_and_written_over(tmp_path: Path) -> None:
    """A torn line was promised to nobody; the next life goes on behind the last whole one."""
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.write(STARTED)
        whole = path.stat().st_size
        journal.write(DONE)
    content = path.read_bytes()
    for cut in range(whole, len(content), 9):
        path.write_bytes(content[:cut])
        assert read(path) == [STARTED]
        with Journal(path) as journal:
            assert journal.entries == [STARTED]
            journal.write(LEFT)
        assert read(path) == [STARTED, LEFT]


def test_an_entry_is_synced_before_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit may take the journal at its word, even after a power loss."""
    synced: list[int] = []
    with Journal(tmp_path / "journal.jsonl") as journal:
        real = os.fdatasync

        def sync(file: int) -> None:
            real(file)
            synced.append(os.fstat(file).st_size)

        monkeypatch.setattr(os, "fdatasync", sync)
        journal.write(STARTED)
        first = (tmp_path / "journal.jsonl").stat().st_size
        journal.write(LEFT)
        assert synced == [first, (tmp_path / "journal.jsonl").stat().st_size]


def test_a_full_disk_ends_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that took half a line must not be gone on with."""
    with Journal(tmp_path / "journal.jsonl") as journal:
        real = os.write
        monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:5]))
        with pytest.raises(OSError, match="disk full"):
            journal.write(STARTED)
        monkeypatch.undo()
        assert journal.entries == []
