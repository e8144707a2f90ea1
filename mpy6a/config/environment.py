"""`${NAME}` and `${NAME:-default}` in a value of a config file: what the environment of the process says.

Only values are looked at, once YAML has been parsed, so a variable never changes what is a key, a list or a mapping;
and what it says is not looked at again. `$${` is a literal `${`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# The longest name is bounded, so that a hostile file is read in bounded time.
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]{0,127})(?::-(?P<default>[^{}]*))?\}|\$\{")
_FORMS: Final = "${NAME} or ${NAME:-default} with a name of letters, digits and '_'; a literal ${ is written $${"


class NotSubstituted(Exception):
    """A text that cannot be written out: what was found, and what is allowed."""

    def __init__(self, found: str, allowed: str) -> None:
        super().__init__(found, allowed)
        self.found = found
        self.allowed = allowed


def substitute(text: str, environ: Mapping[str, str], characters_max: int) -> str:
    """The text with every variable written out. As in a shell, `:-` takes its default for one that is empty too.

    Raises NotSubstituted for a variable that is not set and has no default, for what is no name, and for a result of
    more than that many characters.
    """
    if "${" not in text:
        return text
    pieces: list[str] = []
    length, end = 0, 0
    for found in _REFERENCE.finditer(text):
        pieces += (text[end : found.start()], _said(found, environ))
        end = found.end()
        length += len(pieces[-2]) + len(pieces[-1])
        if length > characters_max:
            break
    if length + len(text) - end > characters_max:
        raise NotSubstituted("values of variables that are too long", f"at most {characters_max} more characters")
    return "".join(pieces) + text[end:]


def _said(found: re.Match[str], environ: Mapping[str, str]) -> str:
    name, default = found["name"], found["default"]
    if name is None:
        if found[0] == "$${":
            return "${"
        raise NotSubstituted("${ without a name and a } behind it", _FORMS)
    value = environ.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise NotSubstituted(f"${{{name}}}, which is not set", f"a variable that is set, or ${{{name}:-default}}")
    return value
