"""`mpy6a completion SHELL`: what a shell runs to complete commands, options and names of kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

SHELLS: Final = ("bash", "zsh", "fish")
PROGRAMS: Final = ("mpy6a", "mpy6a-sidecar")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion of `mpy6a` and `mpy6a-sidecar` for a shell.

    \b
    bash  eval "$(mpy6a completion bash)"     in ~/.bashrc
    zsh   eval "$(mpy6a completion zsh)"      in ~/.zshrc, behind compinit
    fish  mpy6a completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, "click knows all three"
    for program in PROGRAMS:
        variable = f"_{program.replace('-', '_').upper()}_COMPLETE"  # where click looks for it
        click.echo(made(completion, {}, program, variable).source())


def kinds_of(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The kinds of the routes that the command would take, as far as they can be read; none where there are none."""
    from mpy6a.config.find import find_pipe_config
    from mpy6a.config.problems import Findings
    from mpy6a.config.routes import raw_kinds, routes_document_of
    from mpy6a.config.yamlfile import read
    from mpy6a.errors import ConfigError

    findings = Findings()  # told to nobody: whoever types is not interrupted
    routes: Path | None = context.params.get("routes_file")
    try:
        path = routes or find_pipe_config(
            context.params.get("config_file") or context.params.get("config"), os.environ, Path()
        )
    except ConfigError:
        return []
    document = read(path, findings)
    where: tuple[str | int, ...] = ()
    if document is not None and routes is None:
        document, where = routes_document_of(document, findings)
    if document is None:
        return []
    return [name for _, name, _ in raw_kinds(document, where) if name.startswith(incomplete)]
