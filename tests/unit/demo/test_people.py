"""Every good row of a CSV is a person; every bad one is reported with line and reason, and skipped."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import pytest

from mpy6a.demo import make_people
from mpy6a.demo.people import FIELD_CHARACTERS_MAX, SHIPPED, load
from mpy6a.errors import BadRequest


def read(tmp_path: Path, content: bytes) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    people, bad = load(path)
    return [(person.line, person.fields) for person in people], [str(row) for row in bad]


def test_the_shipped_file_is_what_its_script_makes() -> None:
    """Nobody edits the records by hand, and anyone can make them again."""
    assert SHIPPED.read_bytes() == make_people.make()


def test_the_shipped_file_holds_what_it_promises() -> None:
    """A few thousand records of many scripts, doubled nicknames, empty fields, bad rows of all kinds."""
    people, bad = load(SHIPPED)
    nicknames = [person.nickname for person in people]
    assert len(people) > 2_900
    assert 50 < len(nicknames) - len(set(nicknames)) < 100
    scripts = {unicodedata.name(character, "?").split()[0] for name in nicknames for character in name}
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "DEVANAGARI", "CJK", "HIRAGANA",
                       "HANGUL", "THAI", "GEORGIAN", "ARMENIAN", "ETHIOPIC"}  # fmt: skip
    for awkward in ("Robert'); DROP TABLE user;--", "two\nlines", "Doe, Jane", 'Bob "the fox" Ray', "NaN"):
        assert awkward in nicknames
    assert any(person.fields["email"] == "" for person in people)
    reasons = " ".join(row.reason for row in bad)
    for reason in ("missing", "7 columns", "2 columns", "not UTF-8", "NUL", "allowed are 64"):
        assert reason in reasons
    lines = SHIPPED.read_bytes().split(b"\n")
    nameless = [lines[row.line - 1].lstrip() for row in bad if row.reason == "the nickname is missing"]
    assert len(nameless) > 5
    assert all(line.startswith((b",Nobody", b",Blank")) for line in nameless)


def test_the_first_five_hundred_hold_bad_and_doubled_rows_too() -> None:
    """The default run of the demo meets what the file is for."""
    people, bad = load(SHIPPED)
    first = people[:500]
    assert len({person.nickname for person in first}) < 500
    assert sum(row.line < first[-1].line for row in bad) >= 4


def test_a_row_is_known_by_the_line_it_begins_on(tmp_path: Path) -> None:
    """Line breaks inside quotes count as lines of the file."""
    people, bad = read(tmp_path, b'nickname,name\r\n"a\nb\nc",x\r\n,y\r\n\r\nd,"z"\r\n')
    assert people == [(2, {"nickname": "a\nb\nc", "name": "x"}), (7, {"nickname": "d", "name": "z"})]
    assert bad == ["line 5: the nickname is missing"]


def test_bad_rows_do_not_take_good_ones_with_them(tmp_path: Path) -> None:
    """Each kind of bad row costs itself only."""
    people, bad = read(
        tmp_path,
        b"name,nickname\nx,a\nx\nx,b,c\nx,\xff\n\xff,e\nx,n\0l\nx," + b"g" * 65 + b"\nx,  \nx,z\n",
    )
    assert [fields["nickname"] for _, fields in people] == ["a", "z"]
    assert bad == [
        "line 3: 1 columns, the header has 2",
        "line 4: 3 columns, the header has 2",
        "line 5: nickname is not UTF-8",
        "line 6: name is not UTF-8",
        "line 7: nickname holds a NUL character",
        "line 8: the nickname has 65 characters, allowed are 64",
        "line 9: the nickname is missing",
    ]


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    """The row is reported where it began, and reading goes on some lines later."""
    before = csv.field_size_limit()
    rows = b"".join(b"n%d\n" % row for row in range(2_000))
    people, bad = read(tmp_path, b'nickname\n"open\n' + rows)
    assert bad == [f"line 2: no CSV: field larger than field limit ({FIELD_CHARACTERS_MAX})"]
    assert people[-1][1] == {"nickname": "n1999"}
    assert csv.field_size_limit() == before


def test_names_are_compared_as_people_see_them(tmp_path: Path) -> None:
    """Composed and decomposed letters are one; white space around a name and a BOM are no part of it."""
    people, _ = read(tmp_path, "\ufeffNickname , City,extra\n e\u0301 ,Köln,1\n".encode())
    assert people == [(2, {"nickname": "\u00e9", "city": "Köln"})]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"name,city\nx,y\n", "one column nickname"),
        (b"nickname,nickname\nx,y\n", "one column nickname"),
        (b"nickname\n", "no good row"),
        (b"nickname,x\n,\n", r"no good row in it \(line 2: the nickname is missing\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_as_a_whole(tmp_path: Path, content: bytes, says: str) -> None:
    """The user is told what is wrong with the file, not with a row."""
    with pytest.raises(BadRequest, match=says):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """No traceback for a mistyped name."""
    with pytest.raises(BadRequest, match="No such file"):
        load(tmp_path / "nobody.csv")
