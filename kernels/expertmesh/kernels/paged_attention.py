"""Attention of one new token per sequence over a paged KV cache, in torch. Knows slots, not who owns them.

Alphabet: S sequences, C positions of the longest context, P slots, H query heads, K key-value heads, d head width.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class PagedContexts:
    """What each sequence sees: the last ``window`` of its ``lengths`` [S] positions, all at least 1.

    ``slots`` [S, C] int64 are where positions lie in the cache; those beyond a length count for nothing.
    """

    slots: torch.Tensor
    lengths: tuple[int, ...]
    window: int

    @cached_property
    def bounds(self) -> torch.Tensor:
        """The first position that each sequence sees and its length, [S, 2] int64."""
        bounds = [(max(0, length - self.window), length) for length in self.lengths]
        return torch.tensor(bounds, dtype=torch.int64, device=self.slots.device).view(-1, 2)

    @cached_property
    def slot_range(self) -> tuple[int, int]:
        """The lowest and the highest slot."""
        lowest, highest = self.slots.aminmax() if self.slots.numel() else (0, 0)
        return int(lowest), int(highest)

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """What is seen, [S, 1, 1, C]; None where that is everything."""
        longest = self.slots.shape[1]
        if longest == min(self.lengths) and longest <= self.window:
            return None
        positions = torch.arange(longest, device=self.slots.device)  # [C]
        first, length = self.bounds[:, :1], self.bounds[:, 1:]  # [S, 1]
        is_seen: torch.Tensor = (positions >= first) & (positions < length)  # [S, C]
        return is_seen[:, None, None]


def attend_paged(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: PagedContexts
) -> torch.Tensor:
    """Attend from the newest token of each sequence: gather what it sees, and let torch compute.

    ``query`` [S, H, d]; ``keys`` and ``values`` [P, K, d], where K divides H. Returns [S, H, d].
    """
    attended = scaled_dot_product_attention(
        query.unsqueeze(2),  # [S, H, 1, d]
        keys[contexts.slots].transpose(1, 2),  # [S, K, C, d]
        values[contexts.slots].transpose(1, 2),
        attn_mask=contexts.mask,
        enable_gqa=True,
    )
    return attended.squeeze(2)
