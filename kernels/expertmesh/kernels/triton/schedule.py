"""Which tile of rows belongs to which expert. Plain index arithmetic on the CPU; knows no kernel.

Alphabet: E hosted experts.
"""

from collections.abc import Sequence

import numpy as np
import torch


def schedule_tiles(num_rows: Sequence[int], block_rows: int) -> torch.Tensor:
    """Cut each expert's rows into tiles of ``block_rows``; experts without rows get none.

    ``num_rows`` [E] counts the rows of each expert, which lie one after the other. Returns int32 [tiles, 3] on the CPU:
    expert, first row of the tile, row after the expert's last.
    """
    counts = np.asarray(num_rows, dtype=np.int64)
    ends = counts.cumsum()
    num_tiles = -(-counts // block_rows)
    experts = np.repeat(np.arange(len(counts)), num_tiles)
    # Position of each tile among those of its expert.
    positions = np.arange(len(experts)) - np.repeat(num_tiles.cumsum() - num_tiles, num_tiles)
    starts = (ends - counts)[experts] + positions * block_rows
    return torch.from_numpy(np.stack((experts, starts, ends[experts]), axis=1).astype(np.int32))
