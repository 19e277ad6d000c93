"""The two orders in which files keep the features of a rotary head. Knows rows only.

Alphabet: H heads, d head width, D input features.
"""

import torch


def halves_from_pairs(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the rows of each head [H d, D] from pairs (x0, y0, x1, y1, ...) to halves (x0, x1, ..., y0, y1, ...)."""
    return rows.view(-1, head_dim // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def rows_in_halves(num_rows: int, head_dim: int) -> torch.Tensor:
    """Return which row of pairs each row of halves is: [H d] int64."""
    return halves_from_pairs(torch.arange(num_rows)[:, None], head_dim)[:, 0]
