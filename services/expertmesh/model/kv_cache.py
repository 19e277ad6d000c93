"""Keys and values of past tokens, in slots. Knows memory, not which sequence owns a slot.

Alphabet: L layers, P slots (blocks x block size and one), K key-value heads, d head width.
"""

import math

import numpy as np
import torch

from expertmesh.architectures.model_config import ModelConfig


class KVCache:
    """Room for the keys and values of ``num_blocks`` blocks of ``block_size`` tokens in every layer.

    There is one slot more, ``padding_slot``, for rows that are no tokens.
    """

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.padding_slot = num_blocks * block_size
        shape = (config.num_layers, self.padding_slot + 1, config.num_kv_heads, config.head_dim)
        self.keys = _zeros(shape, dtype, device)  # [L, P, K, d]
        self.values = _zeros(shape, dtype, device)  # [L, P, K, d]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make a tensor of zeros. On a CPU its memory is taken page by page as it is written: torch would write it all."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the cache, over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
