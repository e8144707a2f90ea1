"""Fails every skip and every expected failure that tests/skips.txt does not list: none goes unseen.

A skip counts as listed when its test's id matches the line's pattern and its reason is the line's reason, so
that a test that starts to be skipped for another cause is found too.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list."""

    pattern: str
    reason: str

    def allows(self, nodeid: str, reason: str) -> bool:
        """Whether this line is about that test, skipped for that reason."""
        parts = (re.escape(part) for part in self.pattern.split("*"))
        return re.fullmatch(".*".join(parts), nodeid) is not None and reason == self.reason


def read(text: str) -> tuple[Entry, ...]:
    """The entries of a list; ValueError names the line that has no reason, or is there twice."""
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, bar, reason = (part.strip() for part in line.partition(" | "))
        entry = Entry(pattern, reason)
        if not (pattern and bar and reason):
            raise ValueError(f"line {number} is not `test id | reason`: {line!r}")
        if entry in entries:
            raise ValueError(f"line {number} is there twice: {line!r}")
        entries.append(entry)
    return tuple(entries)


class SkipList:
    """The pytest plugin: turns what is not listed into a failure, in place, and names what is."""

    def __init__(self, entries: tuple[Entry, ...], where: str = "tests/skips.txt") -> None:
        self._entries = entries
        self._where = where
        self._seen: list[tuple[str, str]] = []

    @classmethod
    def from_file(cls, path: Path) -> SkipList:
        """The plugin for a list on disk."""
        return cls(read(path.read_text(encoding="utf-8")))

    # Outermost of the wrappers: it has to see what pytest's own ones made of a mark.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        expected_failure = hasattr(report, "wasxfail")
        if report.skipped or expected_failure:
            kind = "expected failure" if expected_failure else "skip"
            reason = str(report.wasxfail) if expected_failure else _reason(report)
            if complaint := self._complaint(report.nodeid, kind, reason):
                report.outcome = "failed"
                report.longrepr = complaint
                if expected_failure:
                    del report.wasxfail
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if report.skipped and (complaint := self._complaint(report.nodeid, "skip", _reason(report))):
            report.outcome = "failed"
            report.longrepr = complaint
        return report

    # Reports are made where the tests run, and arrive where the summary is written: under xdist two processes.
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "wasxfail"):
            self._seen.append((report.nodeid, str(report.wasxfail)))
        elif report.skipped:
            self._seen.append((report.nodeid, _reason(report)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._seen.append((report.nodeid, _reason(report)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._seen:
            terminalreporter.section(f"skipped, as listed in {self._where}")
            for nodeid, reason in self._seen:
                terminalreporter.line(f"{nodeid} | {reason}")

    def _complaint(self, nodeid: str, kind: str, reason: str) -> str | None:
        if any(entry.allows(nodeid, reason) for entry in self._entries):
            return None
        return f"{kind} that {self._where} does not list: {nodeid} | {reason}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # pytest keeps a skip as (file, line, "Skipped: why").
    match report.longrepr:
        case (_, _, str(text)):
            return text.removeprefix("Skipped: ")
        case other:
            _unexpected(other)


def _unexpected(longrepr: object) -> NoReturn:
    raise AssertionError(f"pytest reports a skip in a shape unknown here: {longrepr!r}")
