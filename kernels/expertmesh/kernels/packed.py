"""What packed formats share: scales per group, the order of inputs and a bias. Knows shapes, not how codes lie.

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


def read_order(g_idx: torch.Tensor | None, num_in: int, group_size: int) -> torch.Tensor | None:
    """Turn the group of each feature, ``g_idx`` [K], into the features' order by group; None where it is theirs.

    ValueError when groups are not of ``group_size`` features each.
    """
    if g_idx is None:
        return None
    if g_idx.shape != (num_in,) or g_idx.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"g_idx is {describe(g_idx)}; int32 [{num_in}] would be right")
    groups = torch.arange(num_in, device=g_idx.device) // group_size
    in_order, perm = g_idx.long().sort(stable=True)
    if not in_order.equal(groups):
        raise ValueError(f"g_idx does not put {group_size} input features into each of {num_in // group_size} groups")
    return None if g_idx.equal(groups.to(g_idx.dtype)) else perm
