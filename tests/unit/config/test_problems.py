"""An error in a configuration names file, line, key, what was found and what is allowed; all at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpy6a.config import check, load_pipe, load_routes, load_sidecar
from mpy6a.errors import ConfigError

GOLDEN = Path(__file__).with_name("problems.txt")
LOAD = {"routes.yaml": load_routes, "pipe.yaml": load_pipe, "sidecar.yaml": load_sidecar}


@dataclass(frozen=True, slots=True)
class Case:
    """Files in the order they stand in the golden text, and the error of loading the last of them."""

    name: str
    files: tuple[tuple[str, str], ...]
    expected: str


def _cases() -> list[Case]:
    cases = []
    for block in GOLDEN.read_text().split("\n=== ")[1:]:
        name, _, rest = block.partition("\n")
        *parts, expected = re.split(r"^---(?: (\S+\.yaml))?\n", rest, flags=re.MULTILINE)[1:]
        files: list[tuple[str, str]] = []
        for file, text in zip(parts[::2], parts[1::2], strict=False):
            if file is None:  # a document marker of the file itself
                files[-1] = (files[-1][0], f"{files[-1][1]}---\n{text}")
            else:
                files.append((file, text))
        cases.append(Case(name, tuple(files), expected.strip()))
    return cases


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)
def test_what_is_wrong_is_told_word_for_word(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of every error is frozen: people read it, and it has to say what to write instead."""
    monkeypatch.chdir(tmp_path)
    for file, text in case.files:
        Path(file).write_text(text)
    last = Path(case.files[-1][0])
    if last.name in LOAD:
        with pytest.raises(ConfigError) as raised:
            LOAD[last.name](last)
        told = str(raised.value)
    else:
        told = "\n".join(map(str, check([last])))
    assert told == case.expected
