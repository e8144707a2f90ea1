"""Reads the person records that the demo creates as users, and reports bad rows with line and reason.

The file is CSV (RFC 4180: quotes, commas and line breaks inside quotes) in UTF-8 with a header line. The
column `nickname` must be there; `name`, `email`, `city` and `note` are taken when they are; others are left
alone. A nickname that occurs twice is no bad row: service A decides, and refuses the second.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpy6a.errors import BadRequest

SHIPPED: Final = Path(__file__).with_name("people.csv")
COLUMNS: Final = ("nickname", "name", "email", "city", "note")
NICKNAME_CHARACTERS_MAX: Final = 64  # what service A takes
FIELD_CHARACTERS_MAX: Final = 4_000  # an unclosed quote swallows lines until here and no further


@dataclass(frozen=True, slots=True)
class Person:
    """One good row: the line it begins on, and its fields in NFC without white space around."""

    line: int
    fields: dict[str, str]

    @property
    def nickname(self) -> str:
        """The name that must be unique in service A."""
        return self.fields["nickname"]


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that was skipped."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def load(path: Path) -> tuple[list[Person], list[BadRow]]:
    """All good rows in order, and all bad ones; `BadRequest` when the file as a whole cannot be used."""
    people: list[Person] = []
    bad: list[BadRow] = []
    try:
        # surrogateescape: a line that is not UTF-8 is that row's fault, not the file's.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = _rows(file)
            first = next(rows, None)
            if first is None:
                raise BadRequest(f"{path}: the file is empty; it needs a header line with the column nickname")
            header = _header(path, first[1])
            for line, row in rows:
                found = _person(line, row, header)
                if isinstance(found, Person):
                    people.append(found)
                elif found is not None:
                    bad.append(found)
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}; give a CSV file that can be read") from error
    if not people:
        raise BadRequest(f"{path}: no good row in it" + (f" ({bad[0]})" if bad else ""))
    return people, bad


def _rows(file: Iterator[str]) -> Iterator[tuple[int, list[str] | str]]:
    """(line a row begins on, its fields, or why it cannot be parsed)."""
    limit = csv.field_size_limit(FIELD_CHARACTERS_MAX)
    try:
        reader = csv.reader(file)
        while True:
            line = reader.line_num + 1
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"no CSV: {error}"
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, row: list[str] | str) -> list[str]:
    if isinstance(row, str):
        raise BadRequest(f"{path}: line 1: {row}")
    header = [column.strip().lower() for column in row]
    if header.count("nickname") != 1:
        raise BadRequest(f"{path}: line 1 is {','.join(header)[:80]!r}; it needs one column nickname")
    return header


def _person(line: int, row: list[str] | str, header: list[str]) -> Person | BadRow | None:
    """A row as a person, or why not; None for an empty line."""
    if isinstance(row, str):
        return BadRow(line, row)
    if not row:
        return None
    if len(row) != len(header):
        return BadRow(line, f"{len(row)} columns, the header has {len(header)}")
    fields: dict[str, str] = {}
    for column, text in zip(header, row, strict=True):
        if any("\udc80" <= character <= "\udcff" for character in text):
            return BadRow(line, f"{column} is not UTF-8")
        if "\0" in text:
            return BadRow(line, f"{column} holds a NUL character")
        if column in COLUMNS and column not in fields:
            fields[column] = unicodedata.normalize("NFC", text).strip()
    if not fields["nickname"]:
        return BadRow(line, "the nickname is missing")
    if len(fields["nickname"]) > NICKNAME_CHARACTERS_MAX:
        return BadRow(
            line,
            f"the nickname has {len(fields['nickname'])} characters, allowed are {NICKNAME_CHARACTERS_MAX}",
        )
    return Person(line, fields)
