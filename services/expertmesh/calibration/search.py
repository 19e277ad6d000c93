"""Scales of input channels, and the error that rounding leaves with each (AWQ, arXiv 2306.00978).

Knows matrices and rows, not layers. Alphabet: C candidates, M rows, N output features, K input features.
"""

from collections.abc import Callable, Mapping

import torch
from torch.nn.functional import linear

from expertmesh.errors import ComputeError
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import QuantizedWeight

NUM_CANDIDATES = 20
# A channel that the text hardly uses is not made smaller than this part of the busiest one.
MIN_RELATIVE_MAGNITUDE = 1e-4
# Outputs rounded at once: what lies between the steps of rounding 256 x 4096 values stays in the caches of a CPU.
BLOCK_OUTPUTS = 256

# Rounds outputs [N, K] of the matrix of a name as it will be written.
Round = Callable[[str, torch.Tensor], QuantizedWeight]


def candidate_scales(name: str, rows: torch.Tensor) -> torch.Tensor:
    """Return mean|x|**alpha over the ``rows`` [M, K] that ``name`` is given, alpha = 0, 0.05 .. 0.95, float32 [C, K].

    The largest scale times the smallest is 1; alpha = 0, the first candidate, is 1 everywhere. ComputeError when a
    value is not finite.
    """
    if not torch.isfinite(rows).all():
        raise ComputeError(f"{name} is given values that are not finite; the weights before it may be broken")
    magnitude = rows.abs().mean(dim=0)  # [K]
    tiny = torch.finfo(magnitude.dtype).tiny
    relative = (magnitude / magnitude.max().clamp(min=tiny)).clamp(min=MIN_RELATIVE_MAGNITUDE)
    alphas = torch.arange(NUM_CANDIDATES, device=rows.device) / NUM_CANDIDATES
    scales = relative ** alphas.unsqueeze(1)  # [C, K]
    return scales / (scales.amax(1, keepdim=True) * scales.amin(1, keepdim=True)).sqrt()


def storable_scales(scales: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Move ``scales`` [C, K] a little, so that ``norm`` [K] divided by them is exact in the dtype of ``norm``."""
    stored = (norm.float() / scales).to(norm.dtype).float()
    exact = norm.float() / stored
    return torch.where(exact.isfinite() & (exact > 0), exact, scales)


def round_scaled(name: str, matrix: torch.Tensor, scales: torch.Tensor, rounding: Round) -> torch.Tensor:
    """Round ``matrix`` [N, K] with columns multiplied by ``scales`` [K]; return what it then stands for, float32."""
    rounded = torch.empty_like(matrix)
    for rows, out in zip(torch.split(matrix, BLOCK_OUTPUTS), torch.split(rounded, BLOCK_OUTPUTS), strict=True):
        torch.div(dequantize(rounding(name, rows * scales)), scales, out=out)
    return rounded


def output_errors(
    matrices: Mapping[str, torch.Tensor], rows: torch.Tensor, candidates: torch.Tensor, rounding: Round
) -> torch.Tensor:
    """Sum the squared errors of the outputs of ``matrices`` [N, K] on ``rows`` [M, K], for each candidate: [C]."""
    errors = torch.zeros(len(candidates), device=rows.device)
    for name, matrix in matrices.items():
        for index, scales in enumerate(candidates):
            difference = round_scaled(name, matrix, scales, rounding) - matrix
            errors[index] += linear(rows, difference).square().sum()
    return errors


def best_scales(candidates: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """Return the candidate [K] with the smallest of ``errors`` [C], the first of equals."""
    return candidates[int(errors.argmin())]
