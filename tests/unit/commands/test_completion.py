"""Shells complete commands, options and kinds; and what completes them loads no more than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import mpy6a as mpy6a_package
from mpy6a.cli import COMMANDS, mpy6a
from mpy6a.commands.completion import SHELLS, completion
from sidecar.cli import command as sidecar_command

ROUTES = """
kinds:
  mail: {id: 1, sidecars: [app], handler: {http: "http://h:1/"}}
  main: {id: 2, sidecars: [app], handler: {http: "no"}}
  other: {id: 3}
"""
SCRIPT = "#!{python}\nimport sys\nsys.path.insert(0, {place!r})\nfrom {module} import main\nmain()\n"


def completed(args: str, incomplete: str, command: click.Command = mpy6a) -> list[str]:
    shell = ShellComplete(command, {}, "mpy6a", "_MPY6A_COMPLETE")
    return [item.value for item in shell.get_completions(args.split(), incomplete)]


def test_commands_options_and_words() -> None:
    """What click knows, without a word of ours."""
    assert completed("", "") == list(COMMANDS)
    assert completed("", "se") == ["serve", "sessions"]
    assert sorted(completed("config", "")) == ["check", "plan", "schema"]
    assert completed("config schema", "") == ["pipe", "routes", "sidecar"]
    assert completed("serve", "--log-f") == ["--log-format"]
    assert completed("serve --log-format", "j") == ["json"]
    assert completed("", "--he") == ["--help"]
    assert completed("", "--log", sidecar_command) == ["--log-format", "--log-level"]


@pytest.mark.parametrize("words", ["handler try", "kinds pause", "kinds resume", "sessions list --kind"])
def test_kinds_come_from_the_routes(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the config that the command would take, also while something in it is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPY6A_CONFIG", raising=False)
    assert completed(words, "") == []
    Path("routes.yaml").write_text(ROUTES)
    Path("pipe.yaml").write_text("pipe: 1\nroutes: routes.yaml\n")
    assert completed(words, "ma") == ["mail", "main"]
    assert completed(words, "") == ["mail", "main", "other"]
    Path("inside.yaml").write_text("pipe: 1\nroutes: {kinds: {inside: {}}}\n")
    group, name, *rest = words.split()
    assert completed(" ".join([group, name, "--config inside.yaml", *rest]), "") == ["inside"]
    monkeypatch.setenv("MPY6A_CONFIG", "inside.yaml")
    assert completed(words, "") == ["inside"]
    Path("inside.yaml").write_text("{")
    assert completed(words, "") == []


def test_kinds_of_the_routes_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`handler try --routes FILE`."""
    monkeypatch.chdir(tmp_path)
    Path("paths.yaml").write_text(ROUTES)
    assert completed("handler try --routes paths.yaml", "o") == ["other"]
    assert completed("handler try --routes missing.yaml", "") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_both_programs_are_in_what_is_printed(shell: str) -> None:
    """One call for both; the variables are those that click looks for."""
    told = CliRunner().invoke(completion, [shell])
    assert told.exit_code == 0
    for program, variable in (("mpy6a", "_MPY6A_COMPLETE"), ("mpy6a-sidecar", "_MPY6A_SIDECAR_COMPLETE")):
        assert f"{variable}={shell}_complete" in told.stdout
        assert f" {program}\n" in told.stdout or f" --command {program} " in told.stdout
    assert "'bash', 'zsh', 'fish'" in CliRunner().invoke(completion, ["csh"]).stderr


def test_to_complete_a_command_no_other_is_loaded() -> None:
    """`mpy6a <TAB>` imports none of the commands, and `mpy6a version` nothing of completion."""
    program = (
        "import sys; from click.shell_completion import ShellComplete; from mpy6a.cli import mpy6a;"
        "assert 'mpy6a.commands' not in sys.modules;"
        "ShellComplete(mpy6a, {}, 'mpy6a', 'X').get_completions([], '');"
        "print(*[name for name in sys.modules if name.startswith('mpy6a.commands')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == []
    program = (
        "import sys; from mpy6a.cli import mpy6a; mpy6a(['version'], standalone_mode=False);"
        "print(*{'click.shell_completion', 'mpy6a.commands.completion', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_bash_completes_with_what_is_printed(tmp_path: Path) -> None:
    """As a user has it: the script is read, a word is half typed, and the rest comes."""
    place = str(Path(mpy6a_package.__file__).parents[1])
    for name, module in (("mpy6a", "mpy6a.cli"), ("mpy6a-sidecar", "sidecar.cli")):
        script = tmp_path / name
        script.write_text(SCRIPT.format(python=sys.executable, place=place, module=module))
        script.chmod(0o755)
    (tmp_path / "pipe.yaml").write_text("routes: {kinds: {mail: {}}}\n")
    commands = """
        eval "$(mpy6a completion bash)"
        COMP_WORDS=(mpy6a handler try m) COMP_CWORD=3; _mpy6a_completion mpy6a; echo "${COMPREPLY[@]}"
        COMP_WORDS=(mpy6a-sidecar --log-f) COMP_CWORD=1 COMPREPLY=()
        _mpy6a_sidecar_completion mpy6a-sidecar; echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("MPY6A_CONFIG", None)
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout.splitlines(), done.stderr) == (["mail", "--log-format"], "")
