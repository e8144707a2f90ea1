"""The pipe's configuration is found where the user expects it, and checked without starting anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpy6a import limits
from mpy6a.config import ConfigProblems, Problem, check, find_pipe_config, load_pipe
from mpy6a.errors import ConfigError, Refused

KIND = "{id: 1, sidecars: [app], handler: {exec: [/bin/true]}, health: /up}"


def test_the_argument_goes_before_the_environment_and_that_before_the_directory(tmp_path: Path) -> None:
    """interfaces: argument, $MPY6A_CONFIG, ./pipe.yaml; what was named is not looked for elsewhere."""
    (tmp_path / "pipe.yaml").touch()
    environ = {"MPY6A_CONFIG": "b.yaml"}
    assert find_pipe_config(Path("a.yaml"), environ, tmp_path) == tmp_path / "a.yaml"
    assert find_pipe_config(Path("/etc/a.yaml"), environ, tmp_path) == Path("/etc/a.yaml")
    assert find_pipe_config(None, environ, tmp_path) == tmp_path / "b.yaml"
    assert find_pipe_config(None, {"MPY6A_CONFIG": ""}, tmp_path) == tmp_path / "pipe.yaml"
    assert find_pipe_config(None, {}, tmp_path) == tmp_path / "pipe.yaml"


def test_without_a_configuration_the_user_is_told_how_to_get_one(tmp_path: Path) -> None:
    """The first error of a new user names `mpy6a init` and `mpy6a dev`."""
    with pytest.raises(ConfigError) as raised:
        find_pipe_config(None, {}, tmp_path)
    assert "mpy6a init" in str(raised.value)
    assert "mpy6a dev" in str(raised.value)


def test_files_are_told_apart_by_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mpy6a config check *.yaml` needs no telling which is which, and tells a shared problem once."""
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(f"kinds: {{k: {KIND}}}\n")
    Path("b.yaml").write_text("pipe: 1\ndata: d\nroutes: a.yaml\nsidecars: {app: 'tcp://h:1'}\n")
    Path("c.yaml").write_text("name: app\nlisten: 'ipc://a'\npush: 'tcp://h:1'\npipes: ['tcp://h:2']\nroutes: a.yaml\n")
    problem = Problem(
        "a.yaml", 1, "kinds.k.health", "a key of http handlers",
        "this key only beside a handler `{http: URL}`",
    )  # fmt: skip
    for given in (["a.yaml"], ["b.yaml"], ["c.yaml"], ["a.yaml", "b.yaml", "c.yaml"]):
        assert check(map(Path, given)) == [problem], given


def test_a_good_set_of_files_has_no_problems(tmp_path: Path) -> None:
    """An empty list is the only good answer."""
    (tmp_path / "a.yaml").write_text("kinds: {}\n")
    assert check([tmp_path / "a.yaml"]) == []


def test_what_is_no_readable_file_is_a_problem_and_nothing_else(tmp_path: Path) -> None:
    """A directory, a missing file, a name with a zero byte, bytes that are no text: one line each."""
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "control.yaml").write_bytes(b"a: 1\nb: \x07\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * (limits.CONFIG_BYTES_MAX + 1))
    names = [".", "missing.yaml", "zero\0.yaml", "x" * 300, "latin.yaml", "control.yaml", "large.yaml"]
    problems = check(tmp_path / name for name in names)
    assert [problem.line for problem in problems] == [0, 0, 0, 0, 2, 2, 0]
    assert [problem.found.split(" (")[0] for problem in problems] == [
        "no regular file", "no such file", "a file that cannot be read", "a file that cannot be read",
        "the byte 0xe9", "the character U+0007", "a longer file",
    ]  # fmt: skip


def test_the_error_has_its_problems_as_values_and_is_bounded(tmp_path: Path) -> None:
    """A program gets every problem; a person the first hundred and the number of the rest."""
    path = tmp_path / "pipe.yaml"
    path.write_text("".join(f"key{number}: 1\n" for number in range(1000)))
    with pytest.raises(ConfigProblems) as raised:
        load_pipe(path)
    assert isinstance(raised.value, ConfigError)
    assert isinstance(raised.value, Refused)
    assert len(raised.value.problems) == 1003  # three required keys are missing too
    assert {problem.key for problem in raised.value.problems} > {"pipe", "data", "routes", "key0", "key999"}
    lines = str(raised.value).splitlines()
    assert len(lines) == limits.CONFIG_PROBLEMS_MAX + 1
    assert lines[-1] == "and 903 more problems"
