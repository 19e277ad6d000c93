"""What one engine step feeds the decoder. Knows positions and cache slots, not requests.

Alphabet: T tokens of the step, S sequences, B blocks of a sequence.
"""

from dataclasses import dataclass

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
