"""How `mpy6a dev` finds handlers: in another process, and every mistake is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpy6a.commands.dev import child_environment
from mpy6a.commands.dev_find import Found, find
from mpy6a.errors import ConfigError

HANDLERS = """
print("user's code may say what it likes")
import mpy6a, os
os.environ["SEEN"] = "x"

@mpy6a.handler("greeting")
async def finish_greeting(repeat): ...

again = finish_greeting

@mpy6a.handler(7)
def finish_seven(repeat): ...

def helper(repeat): ...
"""


def found(tmp_path: Path, text: str, name: str = "handlers.py") -> tuple[Found, ...]:
    (tmp_path / name).write_text(text)
    return find(tmp_path / name, child_environment(os.environ))


def test_marked_functions_are_found_in_their_order_and_run_elsewhere(tmp_path: Path) -> None:
    """Names and numbers, each function once; nothing of the file runs in this process."""
    assert found(tmp_path, HANDLERS) == (Found("greeting", "finish_greeting"), Found(7, "finish_seven"))
    assert "SEEN" not in os.environ


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def (", "line 1 of handlers.py: "),
        ("x = 1\nundefined", r"line 2: importing it raised NameError: name 'undefined' is not defined"),
        ("import sys; sys.exit(3)", "importing it raised SystemExit: 3"),
        ("import os; os._exit(0)", "ended the process"),
        ("def finish(repeat): ...", r"no handler in it; put @mpy6a\.handler"),
        ("import mpy6a\n@mpy6a.handler('a')\ndef f(r): ...\n@mpy6a.handler('a')\ndef g(r): ...", "f and g are both"),
    ],
)
def test_every_mistake_in_the_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """It names the file, the line where there is one, and what was found."""
    with pytest.raises(ConfigError, match=sentence) as raised:
        found(tmp_path, text)
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "handlers.py") in str(raised.value)


def test_files_that_are_missing_or_cannot_be_imported_are_named(tmp_path: Path) -> None:
    """Before any process is started."""
    with pytest.raises(ConfigError, match="is not there"):
        find(tmp_path / "handlers.py", {})
    with pytest.raises(ConfigError, match="cannot import a file of that name"):
        found(tmp_path, "", "my-handlers.py")
    with pytest.raises(ConfigError, match="rename the file"):
        found(tmp_path, HANDLERS, "json.py")
