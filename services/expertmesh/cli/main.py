"""The ``expertmesh`` command: its subcommands, its errors and its exit codes.

Commands import what they run when they run it: ``--help`` must not wait for torch.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from expertmesh.cli import chat, expert, gateway, generate, inspect, plan, quantize, split, top, up
from expertmesh.errors import (
    CheckpointError,
    ConfigError,
    ExpertmeshError,
    GatewayError,
    InvalidRequestError,
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MODEL = 3
EXIT_GATEWAY = 4
EXIT_INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 success, 1 failed while running, 2 wrong flag or value, 3 the model cannot be served, "
    "4 the gateway cannot be reached or failed, 130 interrupted."
)

app = typer.Typer(
    name="expertmesh",
    help="Serve Mixtral as microservices: one gateway, and expert servers that scale on their own.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Serve": (up.up, gateway.gateway, expert.expert),
    "Ask": (generate.generate, chat.chat),
    "Watch": (top.top,),
    "Prepare": (inspect.inspect, split.split, quantize.quantize, plan.plan),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=EXIT_CODES)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"expertmesh {version('expertmesh')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def exit_code(error: ExpertmeshError) -> int:
    """Choose the exit code for an error."""
    if isinstance(error, ConfigError | InvalidRequestError):
        return EXIT_USAGE
    if isinstance(error, CheckpointError):
        return EXIT_MODEL
    return EXIT_GATEWAY if isinstance(error, GatewayError) else EXIT_FAILED


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ExpertmeshError as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
