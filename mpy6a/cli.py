"""The `mpy6a` command: each subcommand is imported only when it is called, so that every one starts quickly."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import TYPE_CHECKING, Final

import click

from mpy6a.errors import ConfigError, Corrupt, Mpy6aError, Unavailable
from mpy6a.exits import EXIT_CANNOT_START, EXIT_DAMAGED, EXIT_FOUND_BAD, EXIT_UNREACHABLE, EXIT_USAGE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> where it is and what it is, so that `mpy6a --help` imports none of them
COMMANDS: Final = {
    "init": ("mpy6a.commands.files:init", "Write three commented config files and a handler that works."),
    "dev": ("mpy6a.commands.dev:dev", "Pipe, sidecar and your handlers in one terminal."),
    "demo": ("mpy6a.demo.run:demo", "Create users over two services while everything is killed, then audit."),
    "serve": ("mpy6a.commands.serve:serve", "Run the pipe."),
    "status": ("mpy6a.commands.operators:status", "The pipe at a glance."),
    "sessions": ("mpy6a.commands.operators:sessions", "List, show, kick and delete live sessions."),
    "kinds": ("mpy6a.commands.kinds:kinds", "List, pause and resume kinds."),
    "clock": ("mpy6a.commands.operators:clock", "Accept a leap of the machine's clock."),
    "sql": ("mpy6a.commands.sql:sql", "Ask the checkpoint with one SELECT."),
    "log": ("mpy6a.commands.frames:log", "Verify, dump and repair a log."),
    "backup": ("mpy6a.commands.backups:backup", "Back up a pipe's data, while it runs or not."),
    "restore": ("mpy6a.commands.backups:restore", "Make a data directory of a backup."),
    "reload": ("mpy6a.commands.reload:reload", "Have the pipe read its files anew."),
    "config": ("mpy6a.commands.files:config", "Check config files, say what they would change; their JSON Schema."),
    "handler": ("mpy6a.commands.handler:handler", "Try a kind's handler with one push, without a pipe."),
    "bench": ("mpy6a.commands.bench:bench", "Measure this pipe on this machine."),
    "completion": ("mpy6a.commands.completion:completion", "Completion for bash, zsh or fish."),
    "version": ("mpy6a.commands.files:version", "Releases, formats and protocol versions."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        gc.disable()  # what modules make stays: to look for garbage among it takes a tenth of a start
        try:
            command = getattr(importlib.import_module(module), attribute)
        finally:
            gc.enable()
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def mpy6a() -> None:
    """The pipe: a distributed write-ahead log of sessions.

    Write down what you are about to do; if you die, the pipe hands it to your handler until it is finished.
    """


def main() -> None:
    """Entry point: every error of ours is one sentence on stderr and an exit code of the README's table."""
    if sys.platform != "linux":
        sys.exit("mpy6a runs on Linux only: it relies on its sync, lock and poll calls.")
    try:
        code = mpy6a.main(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        sys.exit(EXIT_USAGE)
    except click.Abort:
        sys.exit(130)
    except Mpy6aError as problem:
        click.echo(f"mpy6a: {problem}", err=True)
        sys.exit(exit_code(problem))
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output has seen enough
    sys.exit(code if isinstance(code, int) else 0)


def exit_code(problem: Mpy6aError) -> int:
    """The exit code of an error nobody handled."""
    from mpy6a.errors import CannotStart, DiskFailed

    match problem:
        case ConfigError():
            return EXIT_USAGE
        case CannotStart() | DiskFailed():
            return EXIT_CANNOT_START
        case Corrupt():
            return EXIT_DAMAGED
        case Unavailable():
            return EXIT_UNREACHABLE
        case _:
            return EXIT_FOUND_BAD
