"""What the packed formats of AWQ and GPTQ share: scales per group and a bias. Knows shapes, not how codes lie.

Alphabet: N output features, K input features, G groups.
"""

import torch

from expertmesh.kernels.weights import describe


def count_groups(scales: torch.Tensor, num_in: int, num_out: int) -> int:
    """Return G for ``scales`` [G, N]; ValueError when they do not fit a matrix of K inputs and N outputs."""
    if scales.dim() != 2 or scales.shape[1] != num_out or not scales.is_floating_point():
        raise ValueError(f"scales is {describe(scales)}; floating point [groups, {num_out}] would be right")
    num_groups = len(scales)
    if not num_groups or num_in % num_groups:
        raise ValueError(f"scales has {num_groups} groups, which do not divide {num_in} input features")
    return num_groups


def read_bias(bias: torch.Tensor | None, num_out: int) -> torch.Tensor | None:
    """Return a ``bias`` [N] unless it is all zero, as quantizers often leave one; ValueError when it does not fit."""
    if bias is None:
        return None
    if bias.shape != (num_out,) or not bias.is_floating_point():
        raise ValueError(f"bias is {describe(bias)}; floating point [{num_out}] would be right")
    return bias if bias.any() else None
