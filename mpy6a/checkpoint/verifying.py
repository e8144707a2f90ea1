"""Look at all of a checkpoint: pages, rows, and whether the tables agree. Read-only, for `log verify` and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from mpy6a import limits
from mpy6a.checkpoint.damage import DamagedRow
from mpy6a.checkpoint.reading import CheckpointReads
from mpy6a.session import STORED, Session

Progress = Callable[[int, int], None]  # (rows done, rows in all)

_PROBLEMS_MAX: Final = 100  # that SQLite's own check tells
_WAITING: Final = "SELECT count(*) FROM sessions INDEXED BY sessions_due WHERE state = 2 AND NOT paused"


def verify(file: CheckpointReads, progress: Progress | None = None) -> list[DamagedRow]:
    """Everything that is wrong. Takes as long as reading the file twice; empty for a checkpoint not written yet."""
    problems = list(_smaller_tables(file))
    _Rows(file, problems, progress).check()
    try:
        for row in file._rows(f"PRAGMA integrity_check({_PROBLEMS_MAX})", (), ""):
            if row[0] != "ok":
                problems.append(DamagedRow(file.path, "", None, str(row[0])))
    except DamagedRow as found:
        problems.append(found)
    return problems


def _smaller_tables(file: CheckpointReads) -> Iterator[DamagedRow]:
    """Checksums of their rows, and how many the header says there are."""
    try:
        header = file.header()
        for table, said, read in (
            ("terms", header.terms if header else 0, file.terms),
            ("pauses", header.pauses if header else 0, file.pauses),
            ("clients", header.clients if header else 0, file.clients),
            ("traces", None, file.traces),
        ):
            try:
                rows = sum(1 for _ in read())
                if said is not None and rows != said:
                    yield DamagedRow(file.path, table, None, f"{rows} rows, {said} were written")
            except DamagedRow as found:
                yield found
    except DamagedRow as found:
        yield found


class _Rows:
    """All rows of `sessions`, against their checksums, the filter, the counts and the index of what is due."""

    def __init__(self, file: CheckpointReads, problems: list[DamagedRow], progress: Progress | None) -> None:
        self._file = file
        self._problems = problems
        self._progress = progress
        self._done = 0
        self._counts: dict[int, int] = {}
        self._waiting = 0

    def check(self) -> None:
        try:
            filter_ = self._file.filter()
            counts = self._file.counts()
        except DamagedRow as found:
            self._problems.append(found)
            return
        before = len(self._problems)
        self._walk(iter(filter_), len(filter_))
        if len(self._problems) > before:
            return  # rows are missing: of course the sums are wrong
        if self._counts != counts:
            self._add("counts", None, "they are not those of the rows")
        try:
            if self._file._rows(_WAITING, (), "sessions")[0][0] != self._waiting:
                self._add("sessions", None, "the index of what is due does not name all rows that wait")
        except DamagedRow as found:
            self._problems.append(found)

    def _walk(self, named: Iterator[int], total: int) -> None:
        after, next_named = 0, next(named, None)
        while True:
            try:
                page = self._file.page(after, limits.LOAD_ROWS_MAX)
            except DamagedRow as found:
                # One by one, so that each damaged row is named; the filter says which there are.
                if next_named is None:
                    self._problems.append(found)
                    return
                for index in [next_named, *islice(named, limits.LOAD_ROWS_MAX)]:
                    self._one(index)
                    after = index
                next_named = next(named, None)
                continue
            for session in page:
                while next_named is not None and next_named < session.index:
                    self._add("sessions", next_named, "the row is missing")
                    next_named = next(named, None)
                if next_named == session.index:
                    next_named = next(named, None)
                else:
                    self._add("filter", session.index >> 16, f"it does not name row {session.index} of sessions")
                self._records(session)
            if self._progress is not None:
                self._progress(self._done, total)
            if len(page) < limits.LOAD_ROWS_MAX:
                break
            after = page[-1].index
        while next_named is not None:
            self._add("sessions", next_named, "the row is missing")
            next_named = next(named, None)

    def _one(self, index: int) -> None:
        try:
            self._records(self._file.load(index))
        except DamagedRow as found:
            self._problems.append(found)

    def _records(self, session: Session) -> None:
        """The row was good; its records have a checksum of their own."""
        self._done += 1
        number = session.kind << 3 | session.state
        self._counts[number] = self._counts.get(number, 0) + 1
        delivery = session.delivery
        self._waiting += session.state == STORED and not (delivery is not None and delivery.paused)
        try:
            self._file.records(session.index)
        except DamagedRow as found:
            self._problems.append(found)

    def _add(self, table: str, index: int | None, what: str) -> None:
        self._problems.append(DamagedRow(self._file.path, table, index, what))
