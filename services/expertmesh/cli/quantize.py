"""``expertmesh quantize``: a checkpoint in fewer bits."""

from pathlib import Path
from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.cli.progress import progress_bar


def quantize(
    model: Annotated[Path, typer.Argument(help="Directory of a plain checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Directory to write to.", show_default=False)],
    format: Annotated[str, options.flag(options.MODEL, "FORMAT", "Format of the codes: awq or gptq.")] = "awq",
    bits: Annotated[int, options.flag(options.MODEL, "BITS", "Bits of a code: awq 4; gptq 2, 3, 4 or 8.")] = 4,
    group_size: Annotated[
        int, options.flag(options.MODEL, "GROUP_SIZE", "Inputs that share a scale; -1 = all of a matrix.")
    ] = 128,
) -> None:
    """Write a plain checkpoint with attention and experts rounded to fewer bits, one file per expert.

    Rounds to nearest, without calibration. An interrupted run goes on where it stopped.
    """
    from expertmesh.checkpoint.quantizer import Recipe
    from expertmesh.checkpoint.quantizer import quantize as quantize_checkpoint
    from expertmesh.checkpoint.reader import Checkpoint

    with progress_bar("matrices") as report:
        quantize_checkpoint(Checkpoint.open(model), out, Recipe(format, bits, group_size), report)
    typer.echo(f"wrote {out}")
