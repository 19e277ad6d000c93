"""``expertmesh add-key``: a new API key for a gateway's file."""

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.errors import ConfigError
from expertmesh.gateway.key_lines import format_line, parse_lines, parse_name, parse_scopes, parse_time
from expertmesh.gateway.keys import Key, Scope, digest_of
from expertmesh.settings.flags import ACCESS

NUM_BYTES = 32


def add_key(
    file: Annotated[Path, typer.Argument(help="File of --api-key-file; made if there is none.", show_default=False)],
    name: Annotated[
        str,
        typer.Argument(
            help="Whose it is; a new key may have the name of the one that it replaces.",
            show_default=False,
        ),
    ],
    scopes: Annotated[
        str,
        options.flag(
            ACCESS,
            "SCOPES",
            "What it is good for: generate, load or admin, which is everything; commas between.",
            "--scopes",
        ),
    ] = Scope.GENERATE.value,
    expires: Annotated[
        str | None,
        options.flag(ACCESS, "EXPIRES", "When it ends: 2030-01-31 or 2030-01-31T12:00Z. Default: never.", "--expires"),
    ] = None,
) -> None:
    """Make an API key: print it, this once, and add its hash to the file, which a running gateway reads again."""
    secret = f"em-{secrets.token_urlsafe(NUM_BYTES)}"
    try:
        time = parse_time(expires) if expires else None
        key = Key(digest_of(secret), parse_name(name), parse_scopes(scopes), time)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _append(file, format_line(key))
    typer.echo(secret)


def _append(path: Path, line: str) -> None:
    """Add a line to a file, which must be right with it; a new one only its owner may read."""
    try:
        with open(path, "a+", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.seek(0)
            text = file.read()
            added = "\n" * (text != "" and not text.endswith("\n")) + line + "\n"
            parse_lines(text + added, str(path))
            file.write(added)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot add a key to {path}: {error}") from error
