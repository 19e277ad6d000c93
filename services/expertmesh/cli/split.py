"""``expertmesh split``: one file per expert."""

from pathlib import Path
from typing import Annotated

import typer

from expertmesh.cli.progress import progress_bar


def split(
    model: Annotated[Path, typer.Argument(help="Directory of the checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Directory to write to.", show_default=False)],
) -> None:
    """Write a checkpoint as one file for the gateway and one per expert, so that each server needs only its own.

    An interrupted run goes on where it stopped. The directory serves like the original.
    """
    from expertmesh.checkpoint.reader import Checkpoint
    from expertmesh.checkpoint.shards import split as split_checkpoint

    with progress_bar("matrices") as report:
        split_checkpoint(Checkpoint.open(model), out, report)
    typer.echo(f"wrote {out}")
