"""The ``expertmesh`` command: its subcommands, its errors and its exit codes.

Commands import what they run when they run it: ``--help`` must not wait for torch, and those that ask a gateway need
no extra of the package.
"""

import errno
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from expertmesh.cli import (
    add_key,
    bench,
    chat,
    exit_codes,
    expert,
    gateway,
    generate,
    inspect,
    plan,
    quantize,
    split,
    top,
    up,
)
from expertmesh.cli.extras import Command
from expertmesh.cli.printable import printable_lines
from expertmesh.cli.standard_streams import CANNOT_WRITE, abandon_output, open_streams
from expertmesh.errors import ExpertmeshError

app = typer.Typer(
    name="expertmesh",
    help="Serve Mixtral as microservices: one gateway, and expert servers that scale on their own.",
    epilog=exit_codes.TEXT,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Serve": (up.up, gateway.gateway, expert.expert, add_key.add_key),
    "Ask": (generate.generate, chat.chat),
    "Watch": (top.top, bench.bench),
    "Prepare": (inspect.inspect, split.split, quantize.quantize, plan.plan),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(cls=Command, rich_help_panel=panel, epilog=exit_codes.TEXT)(command)


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


def main() -> None:
    """Run the command line."""
    open_streams()
    sys.exit(_run())


def _run() -> int | str | None:
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        return end.code
    except ExpertmeshError as error:
        typer.secho(f"error: {printable_lines(str(error))}", err=True, fg="red")
        return exit_codes.exit_code(error)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        abandon_output()
        if error.errno != errno.EPIPE:  # whoever reads a pipe may have seen enough
            typer.secho(f"error: cannot write: {error.strerror}", err=True, fg="red")
        return exit_codes.FAILED
    return 0


if __name__ == "__main__":
    main()
