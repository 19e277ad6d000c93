"""What one engine step feeds the decoder. Knows positions and cache slots, not requests.

Alphabet: T tokens of the step, S sequences, B blocks of a sequence.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class StepBatch:
    """The new tokens of some sequences, one sequence after the other.

    ``token_ids`` [T], ``positions`` [T] and ``slot_mapping`` [T] (where in the KV cache each token's key and value go:
    block * block_size + offset) are int64. Per sequence: ``query_lens`` (new tokens, sums to T), ``context_lens``
    (tokens in the cache once the new ones are written) and ``block_tables`` [S, B] int64, padded with 0.
    ``sample_rows`` [S'] are the rows of T whose logits are wanted.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    block_tables: torch.Tensor
    sample_rows: torch.Tensor

    def to(self, device: torch.device) -> "StepBatch":
        """Return the same batch on ``device``."""
        if self.token_ids.device == device:
            return self
        return replace(
            self,
            token_ids=self.token_ids.to(device),
            positions=self.positions.to(device),
            slot_mapping=self.slot_mapping.to(device),
            block_tables=self.block_tables.to(device),
            sample_rows=self.sample_rows.to(device),
        )
