"""The two orders in which files keep the features of a rotary head. Knows rows only.

Alphabet: H heads, d head width, D input features.
"""

import torch


def halves_from_pairs(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the rows of each head [H d, D] from pairs (x0, y0, x1, y1, ...) to halves (x0, x1, ..., y0, y1, ...)."""
    return rows.view(-1, head_dim // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
