"""Whether results are numbers. Knows what a quick look costs, not whose results they are."""

import math

import torch


def is_finite(values: torch.Tensor) -> bool:
    """Tell whether ``values``, of any shape and float type, hold neither NaN nor Inf.

    Their sum tells in a tenth of the time that testing each takes; only it may overflow by itself.
    """
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())
