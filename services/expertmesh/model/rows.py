"""Rows of a matrix, each by itself: ranks, sums, and how they reach a device. Knows numbers, not what they mean.

A row's result is the same whatever stands beside it: library functions that treat ties, or split sums, by the shape of
the whole matrix are not used.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

ID_BITS = 32


def to_device(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make a tensor of numbers of the host, of which no device is waited for: what is not pinned is staged at once."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def select(matrix: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Take ``rows`` of a matrix; None stands for all of them, in their order."""
    return matrix if rows is None else matrix.index_select(0, rows)


def total(matrix: torch.Tensor) -> torch.Tensor:
    """Add up each row: [S, V] to [S, 1]; ``sum`` would split a lone long row among threads, and round otherwise."""
    return matrix.cumsum(dim=-1)[:, -1:]


def nearest_to_zero(values: torch.Tensor, num: int) -> torch.Tensor:
    """Return the columns [S, num] of the ``values`` [S, V] float32 nearest to 0, nearest first, ties by column.

    The bits of a number without its sign are an integer of the same order. With the column below them no two keys of a
    row are equal, so every correct method finds the same ones.
    """
    columns = torch.arange(values.shape[1], device=values.device)
    keys = values.abs().view(torch.int32).long().bitwise_left_shift_(ID_BITS).bitwise_or_(columns)
    return torch.bitwise_and(_smallest(keys, num), 2**ID_BITS - 1)


def _smallest(keys: torch.Tensor, num: int) -> torch.Tensor:
    if keys.device.type != "cpu":
        if num == keys.shape[1]:
            return keys.sort(dim=-1).values
        return keys.topk(num, dim=-1, largest=False).values
    # On a CPU numpy takes a fifth of the time of torch's topk and sort.
    head = np.partition(keys.numpy(), num - 1, axis=-1)[:, :num]
    return torch.from_numpy(np.sort(head, axis=-1))
