"""No file, however hostile, gets anything but settings or a ConfigError, and neither takes long."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpy6a.config.yamlfile
from mpy6a import limits, resources
from mpy6a.config import check, load_pipe, load_routes, load_sidecar
from mpy6a.config.problems import ConfigProblems, Problem
from tests.profile import QUICK

LOADERS: dict[str, Callable[[Path], object]] = {
    "pipe.yaml": load_pipe,
    "routes.yaml": load_routes,
    "sidecar.yaml": load_sidecar,
}
EXAMPLES = {name: resources.config(name).read_text() for name in LOADERS}
TREES = {name: yaml.safe_load(text) for name, text in EXAMPLES.items()}
BOUND_S = 5.0  # the slowest takes 0.6 s alone; what was not bounded took 20 s and more

# 4,000 examples each found nothing more. The directory is shared by the examples of a test: each overwrites its file.
fuzz = settings(
    max_examples=8 if QUICK else 25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

fragments = st.sampled_from(
    ["kinds", "pipe", "routes", "handler", "repeat", "sidecars", ": ", ":", "- ", "\n", "\n  ", "\n\t", "[",
     "]", "{", "}", ",", "&a ", "*a", "!!int ", "!x", "? ", "|", ">", "'", '"', "#", "---\n", "...\n",
     "%YAML 1.1\n", "<<", "~", "null", "yes", "010", "1:30", "1_0", "0x1", "1e3", ".nan", "\\", "\\x41",
     '"\\ud800"', '"\\U7fffffff"', "ipc://", "tcp://h:1", "http://[", "é", "\x85", "\u2028", "\ufeff",
     "\U0001f600", "1s..2s", "9" * 30]
)  # fmt: skip
values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from(["1s", "1MiB", "ipc://a", "tcp://h:1", "http://h:1/", "m:f", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def _try(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for load in LOADERS.values():
        for problem in _problems_of(load, path):
            assert "\n" not in str(problem)
            assert str(problem).encode()  # it can be printed
    check([path])


def _problems_of(load: Callable[[Path], object], path: Path) -> list[Problem]:
    try:
        load(path)
    except ConfigProblems as error:
        return error.problems or [Problem(str(path), 0, "", "", "an error with a problem in it\n")]
    return []


@fuzz
@given(st.binary(max_size=200))
def test_bytes(tmp_path: Path, data: bytes) -> None:
    """Random bytes."""
    _try(tmp_path / "any.yaml", data)


@fuzz
@given(st.lists(fragments, max_size=40))
def test_pieces_of_yaml(tmp_path: Path, pieces: list[str]) -> None:
    """What YAML is made of, in any order."""
    _try(tmp_path / "any.yaml", "".join(pieces).encode())


@fuzz
@given(st.lists(fragments, max_size=40))
def test_pieces_of_yaml_without_libyaml(tmp_path: Path, pieces: list[str]) -> None:
    """The same where PyYAML was built without libyaml and scans in Python, with faults of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mpy6a.config.yamlfile, "_LOADER", yaml.SafeLoader)
        _try(tmp_path / "any.yaml", "".join(pieces).encode())


@pytest.mark.parametrize("value", ['"\\U7fffffff"', '"\\Uffffffff"', '"\\ud800"', "'\\0'\n%YAML 9.9"])
def test_what_the_scanner_in_python_cannot_represent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Escapes beyond Unicode end PyYAML's own scanner with ValueError or OverflowError, not with one of YAML."""
    monkeypatch.setattr(mpy6a.config.yamlfile, "_LOADER", yaml.SafeLoader)
    (tmp_path / "any.yaml").write_text(f"kinds: {value}\n")
    with pytest.raises(ConfigProblems):
        load_routes(tmp_path / "any.yaml")


@fuzz
@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_a_good_file_with_one_value_replaced(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Any value anywhere in a file that was good."""
    tree = copy.deepcopy(TREES[name])
    where = tree
    while True:
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
        if not isinstance(where[key], dict | list) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(values)
    _try(tmp_path / name, json.dumps(tree).encode())


@fuzz
@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 3000), st.integers(0, 60), st.text(max_size=5))
def test_a_good_file_with_one_part_replaced(tmp_path: Path, name: str, at: int, cut: int, put: str) -> None:
    """A slip of the hand anywhere in a file that was good."""
    text = EXAMPLES[name]
    _try(tmp_path / name, (text[:at] + put + text[at + cut :]).encode("utf-8", "replace"))


HUGE = limits.CONFIG_BYTES_MAX - 100


def _many(form: str, count: int) -> str:
    return ",".join(form.format(number, number + 1) for number in range(count))


WORST = {
    "lists": ("[" * HUGE, "found deeper nesting"),
    "maps": ("{" * HUGE, "found deeper nesting"),
    "items": ("- " * (HUGE // 2), "found deeper nesting"),
    "keys": ("? " * (HUGE // 2), "found deeper nesting"),
    "entries": ("kinds: [" + "a," * (HUGE // 2) + "]", "found more keys and values"),
    "unknown": ("".join(f"k{number}: 1\n" for number in range(3_000)), "k0: found an unknown key"),
    "aliases": ("a: &a [x]\nb: [" + "*a," * 3_000 + "]", r"found the alias \*a"),
    "digits": ("pipe: " + "1" * HUGE, "a number beyond 64 bits"),
    "base60": ("pipe: 1" + ":1" * (HUGE // 2), "a number to base 60"),
    "listen": ("listen: [" + _many("tcp://h:{1}", 15_000) + "]", "listen: found a list of 15000"),
    "url": ("routes: {kinds: {a: {handler: {http: 'http://" + "a." * (HUGE // 2 - 99) + "'}}}}", "http://HOST"),
    "unaddressed": (
        "routes: {kinds: {a: {sidecars: [" + _many("s{0}", 5_000) + "]}}}\n"
        "sidecars: {" + _many("z{0}: tcp://h:{1}", 1_000) + "}",
        "found 's90', allowed: a name with an address",
    ),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_files_are_refused_in_bounded_time(tmp_path: Path, name: str) -> None:
    """A mebibyte built to be slow; a pipe that is told to reload must not be held up."""
    text, said = WORST[name]
    path = tmp_path / "worst.yaml"
    path.write_text(text)
    begun = time.monotonic()
    with pytest.raises(ConfigProblems, match=said):
        load_pipe(path)
    assert time.monotonic() - begun < BOUND_S
