"""Reads a YAML file strictly: plain values with the line of every key and value, and no surprises.

Refused, each with its line: duplicate keys, keys without a value, tags, anchors and aliases, several
documents, a top level that is no mapping, and what one reader of YAML takes for another value than the next
(`1:30`, `010`, `0x1F`, `1_000`). Scalars follow the core schema of YAML 1.2: `yes`, `no`, `on`, `off` are
text. Keys are always text. Variables of the environment (mpy6a.config.environment) are written out in values; what a
plain one then says is taken as if it stood there (`pipe: ${PIPE}` is a number), a quoted one is text. The file is
bounded in bytes, depth and nodes (limits.CONFIG_*), so any file is read or refused in bounded time. PyYAML's events
are composed here because its own loader takes every one of these without a word.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from mpy6a import limits
from mpy6a.config.environment import NotSubstituted, substitute
from mpy6a.config.problems import Findings, Where, shown, unquoted

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel has it: 20 times faster

# What YAML calls not printable, spelled out because the negation of what is takes ten times as long to compile.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_NULL = frozenset(["", "~", "null", "Null", "NULL"])
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}")
_QUOTED: Final = "between [ ] or { } a text with ${ is put in quotes"
_DECIMAL: Final = "a decimal number, or quotes around a text"
_SURPRISES: Final = (
    (
        re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
        "a number to base 60 for some readers of YAML",
        f"a duration such as 1m30s, {_DECIMAL}",
    ),
    (re.compile(r"[-+]?0[0-9_]+"), "an octal number for some readers of YAML", _DECIMAL),
    (
        re.compile(r"[-+]?(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9]+_[0-9_]*)"),
        "a number only for some readers of YAML",
        _DECIMAL,
    ),
    (re.compile(r"[-+]?[0-9]{20,}"), "a number beyond 64 bits", _DECIMAL),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A file as read: `file` is its name in problems, `path` the same, absolute."""

    file: str
    path: Path
    values: dict[str, Any]
    lines: dict[Where, tuple[int, int]]  # of the key and of the value, from 1

    def line(self, where: Where, *, key: bool = False) -> int:
        """The line of the value at `where`, or of its key; of what is around it if it has none."""
        while where not in self.lines and where:
            where, key = where[:-1], True
        return self.lines.get(where, (0, 0))[0 if key else 1]


class _Unreadable(Exception):
    """Nothing more can be read from this file; the reason has been added to the findings."""


def read(path: Path, findings: Findings) -> Document | None:
    """The document at `path`, or None when it cannot be used at all; what is wrong is added to `findings`.

    A document may be returned although problems were found in it: the checks that follow find the rest of
    them.
    """
    try:
        text = _text(path, findings)
        composer = _Composer(str(path), findings)
        values = composer.document(text)
    except _Unreadable:
        return None
    return Document(str(path), path.absolute(), values, composer.lines)


def missing(path: Path) -> bool:
    """True if there is nothing at the path; False also where only reading it can tell."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # no permission, a name too long, a zero byte in it: `read` says which
        return False
    return False


def _text(path: Path, findings: Findings) -> str:
    """The file's text; a device or pipe is not opened, because reading it might never end."""
    file = str(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            findings.add(file, 0, (), "no regular file", "a YAML file")
            raise _Unreadable
        with open(path, "rb") as opened:
            data = opened.read(limits.CONFIG_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        findings.add(
            file,
            0,
            (),
            "no such file" if missing(path) else f"a file that cannot be read ({reason})",
            "a YAML file that this user may read",
        )
        raise _Unreadable from None
    if len(data) > limits.CONFIG_BYTES_MAX:
        findings.add(file, 0, (), "a longer file", f"at most {limits.CONFIG_BYTES_MAX} bytes")
        raise _Unreadable
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.add(file, line, (), f"the byte 0x{data[error.start]:02x}", "text in UTF-8")
        raise _Unreadable from None
    if (odd := _NOT_TEXT.search(text)) is not None:
        line = text.count("\n", 0, odd.start()) + 1
        findings.add(file, line, (), f"the character U+{ord(odd.group()):04X}", "printable text")
        raise _Unreadable
    return text


class _Composer:
    """Turns the events of one document into values, remembering the line of each."""

    def __init__(self, file: str, findings: Findings) -> None:
        self.lines: dict[Where, tuple[int, int]] = {}
        self._file = file
        self._findings = findings
        self._nodes = 0
        self._events: Iterator[Any] = iter(())
        self._room = limits.CONFIG_BYTES_MAX  # characters that variables may still add

    def document(self, text: str) -> dict[str, Any]:
        try:
            self._events = yaml.parse(text, Loader=_LOADER)
            return self._top()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            said = getattr(error, "problem", None) or getattr(error, "context", None) or "it cannot be parsed"
            line = mark.line + 1 if mark is not None else 0
            allowed = "valid YAML; look at the indentation, quotes and brackets here and in the line above"
            if line and any("${" in near for near in text.splitlines()[max(0, line - 2) : line]):
                allowed += f"; {_QUOTED}"
            self._add(line, (), f"no valid YAML ({unquoted(said)})", allowed)
        except (ValueError, OverflowError) as error:
            # PyYAML's own scanner, used where libyaml is missing: an escape beyond Unicode
            self._add(0, (), f"no valid YAML ({unquoted(str(error))})", "valid YAML")
        raise _Unreadable

    def _top(self) -> dict[str, Any]:
        next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            self._add(0, (), "an empty file", "a mapping of keys to values")
            raise _Unreadable
        top = next(self._events)
        self.lines[()] = (_start(top), _start(top))
        values = self._node(top, (), 1)
        next(self._events)  # the end of the document
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._add(_start(event), (), "a second document", "one document in a file")
        if not isinstance(values, dict):
            found = "an empty document" if values is None else shown(values)
            self._add(_start(top), (), found, "a mapping of keys to values")
            raise _Unreadable
        return values

    def _node(self, event: Any, where: Where, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > limits.CONFIG_NODES_MAX:
            self._add(_start(event), (), "more keys and values", f"at most {limits.CONFIG_NODES_MAX} in a file")
            raise _Unreadable
        if depth > limits.CONFIG_DEPTH_MAX:
            self._add(_start(event), (), "deeper nesting", f"at most {limits.CONFIG_DEPTH_MAX} levels")
            raise _Unreadable
        self._refuse_marks(event, where)
        match event:
            case yaml.ScalarEvent():
                return self._scalar(event, where)
            case yaml.SequenceStartEvent():
                return self._list(where, depth)
            case yaml.MappingStartEvent():
                return self._mapping(where, depth)
        return None  # an alias, refused above

    def _list(self, where: Where, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*where, len(values))
            self.lines.setdefault(here, (_start(event), _start(event)))
            values.append(self._node(event, here, depth + 1))
        return values

    def _mapping(self, where: Where, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._key(event, where, depth), _start(event)
            event = next(self._events)
            here = (*where, key)
            if key in values:
                first = self.lines[here][0]
                self._add(line, here, "the key a second time", f"each key once (it stands in line {first} already)")
            self.lines.setdefault(here, (line, _start(event)))
            values.setdefault(key, self._node(event, here, depth + 1))
        return values

    def _key(self, event: Any, where: Where, depth: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._add(_start(event), (*where, "?"), "a key that is no plain text", "text as a key")
            self._node(event, (*where, "?"), depth + 1)
            return "?"
        self._nodes += 1
        key = _NOT_TEXT.sub("?", str(event.value))
        self._refuse_marks(event, (*where, key))
        if not key or key != event.value:
            self._add(_start(event), (*where, key), "a key that is empty or not printable", "text as a key")
        elif key.endswith("$"):  # what YAML makes of [tcp://${HOST}:1]
            self._add(_start(event), (*where, key), "${ where YAML takes { for a mapping", f"text as a key; {_QUOTED}")
        return key

    def _scalar(self, event: Any, where: Where) -> str | int | float | bool | None:
        written = str(event.value)
        try:
            text = substitute(written, os.environ, len(written) + self._room)
        except NotSubstituted as problem:
            self._add(_start(event), where, problem.found, problem.allowed)
            return None
        self._room -= max(0, len(text) - len(written))
        if text != written and _NOT_TEXT.search(text):
            found = f"{unquoted(_NOT_TEXT.sub('?', written))}, with control characters in a variable"  # not its value
            self._add(_start(event), where, found, "text without control characters")
            return None
        if not event.implicit[0]:  # quoted or a block of text
            if _NOT_TEXT.search(text):
                self._add(_start(event), where, shown(_NOT_TEXT.sub("?", text)), "text without control characters")
            return text
        if text in _NULL:
            if where:
                found = "nothing" if text == written else f"{unquoted(written)}, which is {text or 'empty'}"
                self._add(_start(event), where, found, "a value; without one leave the key out")
            return None
        if text in ("true", "false"):
            return text == "true"
        if _WHOLE.fullmatch(text):
            return int(text)
        for surprise, name, allowed in _SURPRISES:
            if surprise.fullmatch(text):
                self._add(_start(event), where, f"{unquoted(text)}, {name}", allowed)
                return None
        return float(text) if _FLOAT.fullmatch(text) else text

    def _refuse_marks(self, event: Any, where: Where) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._add(
                _start(event),
                where,
                f"the alias {unquoted('*' + str(event.anchor))}",
                "the value, written out",
            )
            return
        if event.anchor is not None:
            self._add(_start(event), where, f"the anchor {unquoted('&' + str(event.anchor))}", "a value without one")
        if event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!", 1)
            self._add(_start(event), where, f"the tag {unquoted(tag)}", "a value without one")

    def _add(self, line: int, where: Where, found: str, allowed: str) -> None:
        self._findings.add(self._file, line, where, found, allowed)


def _start(event: Any) -> int:
    return int(event.start_mark.line) + 1
