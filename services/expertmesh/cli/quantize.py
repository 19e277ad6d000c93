"""``expertmesh quantize``: a checkpoint in fewer bits."""

from pathlib import Path
from typing import Annotated

import typer

from expertmesh.cli import options
from expertmesh.cli.progress import progress_bar
from expertmesh.settings.flags import MODEL


def quantize(
    model: Annotated[Path, typer.Argument(help="Directory of a plain checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Directory to write to.", show_default=False)],
    format: Annotated[str, options.flag(MODEL, "FORMAT", "Format of the codes: awq or gptq.")] = "awq",
    bits: Annotated[int, options.flag(MODEL, "BITS", "Bits of a code: awq 4; gptq 2, 3, 4 or 8.")] = 4,
    group_size: Annotated[
        int, options.flag(MODEL, "GROUP_SIZE", "Inputs that share a scale; -1 = all of a matrix.")
    ] = 128,
    calibrate: Annotated[
        Path | None,
        options.flag(
            MODEL,
            "CALIBRATE",
            "Text in UTF-8 to calibrate on. Default: none, plain rounding.",
            show_default=False,
        ),
    ] = None,
    calibration_tokens: Annotated[
        int, options.flag(MODEL, "CALIBRATION_TOKENS", "Tokens of the text to calibrate on.", min=32)
    ] = 2048,
    device: options.Device = "auto",
) -> None:
    """Write a plain checkpoint with attention and experts rounded to fewer bits, one file per expert.

    Rounds to nearest. With --calibrate, channels of the weights are rescaled first, each by how much a text uses it
    (AWQ), which loses less; --device is where that is computed. An interrupted run goes on where it stopped.
    """
    from expertmesh.calibration.calibrate import CalibrationConfig, calibrate_once, forget
    from expertmesh.checkpoint.quantizer import Recipe
    from expertmesh.checkpoint.quantizer import quantize as quantize_checkpoint
    from expertmesh.checkpoint.reader import Checkpoint

    checkpoint, recipe = Checkpoint.open(model), Recipe(format, bits, group_size)
    rescales = None
    if calibrate:
        with progress_bar("layers") as report:
            config = CalibrationConfig(calibrate, calibration_tokens, device)
            rescales = calibrate_once(checkpoint, out, recipe, config, report)
    with progress_bar("matrices") as report:
        quantize_checkpoint(checkpoint, out, recipe, report, rescales)
    forget(out)
    typer.echo(f"wrote {out}")
