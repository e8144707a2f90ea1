"""What is wrong in a configuration: each problem with file, line, key, what was found and what is allowed.

Problems of all files are gathered in one `Findings` and raised together, so that one run of `mpy6a config
check` tells a user everything there is to mend.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mpy6a import limits
from mpy6a.errors import ConfigError
from mpy6a.policy import nearest

Where = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN_CHARACTERS = 60  # enough to recognise a value, short enough for one line of a terminal
_COMPARED_MAX = 4_096  # names compared to find what was meant: below a second, and every name of a usual file


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend. `line` counts from 1 (0: the whole file), `key` is the dotted path or empty."""

    file: str
    line: int
    key: str
    found: str
    allowed: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        return f"{place}:{key} found {self.found}, allowed: {self.allowed}"


class ConfigProblems(ConfigError):
    """A configuration that cannot be used; its text has one problem a line, `problems` has them as values."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        shown = [str(problem) for problem in self.problems[: limits.CONFIG_PROBLEMS_MAX]]
        if len(self.problems) > len(shown):
            shown.append(f"and {len(self.problems) - len(shown)} more problems")
        super().__init__("\n".join(shown))


@dataclass(slots=True)
class Findings:
    """Gathers problems, one per place: what only follows from a value known to be bad is not told.

    >>> findings = Findings()
    >>> findings.add("pipe.yaml", 3, ("log", "fsync"), "'never'", "always or interval")
    >>> print(findings.problems()[0])
    pipe.yaml:3: log.fsync: found 'never', allowed: always or interval
    """

    _problems: dict[tuple[str, int, Where], Problem] = field(default_factory=dict)
    _bad: set[tuple[str, Where]] = field(default_factory=set)
    _compared: int = 0

    def add(self, file: str, line: int, where: Where, found: str, allowed: str) -> None:
        problem = Problem(file, line, dotted(where), found, allowed)
        self._problems.setdefault((file, line, where), problem)
        self._bad.add((file, where))

    def bad(self, file: str, where: Where) -> bool:
        """True where a problem is known at this very place; what it contains may have more of its own."""
        return (file, where) in self._bad

    def did_you_mean(self, name: str, known: Collection[str]) -> str:
        """`; did you mean 'delay'?` where a known name looks like it, else nothing.

        Comparing is slow beside everything else here (up to 0.2 ms a name), so a file has a budget of it.
        """
        self._compared += len(known)
        meant = nearest(name, known) if self._compared <= _COMPARED_MAX else ()
        return f"; did you mean {meant[0]!r}?" if meant else ""

    def problems(self) -> list[Problem]:
        """All of them, files in the order they were read, each by line."""
        files = {problem.file: None for problem in self._problems.values()}
        order = {file: place for place, file in enumerate(files)}
        return sorted(self._problems.values(), key=lambda problem: (order[problem.file], problem.line))

    def raise_any(self) -> None:
        """Raises ConfigProblems if there is anything to mend."""
        if self._problems:
            raise ConfigProblems(self.problems())


def dotted(where: Where) -> str:
    """The place as people write it: `kinds.user-create.sidecars[0]`; odd keys are quoted."""
    text = ""
    for step in where:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _PLAIN_KEY.fullmatch(step) else shown(step))
    return text


def shown(value: object) -> str:
    """A value as a problem shows it: on one line, cut when long."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value[:_SHOWN_CHARACTERS]) + ("..." if len(value) > _SHOWN_CHARACTERS else "")
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return str(value)


def unquoted(text: str) -> str:
    """Text as `shown`, without the quotes around it."""
    return repr(text[:_SHOWN_CHARACTERS])[1:-1] + ("..." if len(text) > _SHOWN_CHARACTERS else "")


def shortened(names: Collection[str]) -> str:
    """Up to ten of the names."""
    first = ", ".join(unquoted(name) for name in itertools.islice(names, 10))
    return f"{first} and {len(names) - 10} more" if len(names) > 10 else first or "there is none"


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = list(names) or ["nothing"]
    return f"{', '.join(most)} or {last}" if most else last
