"""Attention of the new tokens of a step over the blocks of a KV cache, in torch: the twin of the Triton kernels.

What a step sees is described by tensors on its device, so that a captured graph can be replayed with other contents.

Alphabet: T new tokens of all sequences, S sequences, B blocks of the longest sequence, C positions in them, P slots, H
query heads, K key-value heads, G query heads that share one, d head width.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BlockContexts:
    """What each new token sees, as tensors on the device of the queries; nothing of it is read by the host.

    ``block_tables`` [S, B] int32 are the blocks of each sequence in the cache; entries beyond its length count for
    nothing. ``lengths`` [S] int32 are the positions of each sequence once its new tokens are written, 0 for padding.
    ``first_rows`` [S + 1] int32 are where the new tokens of each sequence begin; tokens from the last on are padding.
    The output of padding is 0. Blocks have ``block_size`` tokens, a power of two from 16 on. A token sees at most
    ``window`` positions, itself included. ``is_decode``: each sequence has exactly one new token, so S is T.
    """

    block_tables: torch.Tensor
    lengths: torch.Tensor
    first_rows: torch.Tensor
    block_size: int
    window: int | None
    is_decode: bool


def attend_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    contexts: BlockContexts,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend from the new tokens of a step, in float32, sequence by sequence.

    ``query`` [T, H, d]; ``keys`` and ``values`` [P, K, d], where K divides H. New token i of a sequence with n new ones
    and length L is at position L - n + i. Returns [T, H, d] in the dtype of ``query``, in ``out`` if given.
    """
    attended = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
    rows = torch.arange(len(query), device=query.device)  # [T]
    for sequence in range(len(contexts.lengths)):
        first, end = contexts.first_rows[sequence], contexts.first_rows[sequence + 1]
        taken = slice(sequence, sequence + 1) if contexts.is_decode else slice(None)
        positions = contexts.lengths[sequence] - end + rows[taken]  # [Q]
        is_own = (first <= rows[taken]) & (rows[taken] < end)
        found = _attend_to_one(query[taken], positions, keys, values, contexts, sequence)
        attended[taken] = torch.where(is_own[:, None, None], found, attended[taken])
    return attended.to(query.dtype) if out is None else out.copy_(attended)


def _attend_to_one(
    query: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    contexts: BlockContexts,
    sequence: int,
) -> torch.Tensor:
    """Attend from tokens [Q, H, d] at ``positions`` [Q] of one sequence; 0 for those that see nothing."""
    slots, is_stored = _slots_of(contexts, sequence)  # [C]
    # What was never written may be anything, and 0 times NaN is NaN.
    key, value = (torch.where(is_stored[:, None, None], cache[slots].float(), 0.0) for cache in (keys, values))
    sharing = query.float().reshape(len(query), keys.shape[1], -1, query.shape[2])  # [Q, K, G, d]
    scores = torch.einsum("qkgd,ckd->qkgc", sharing, key) * query.shape[-1] ** -0.5
    seen = _is_seen(positions, is_stored, contexts.window)[:, None, None]  # [Q, 1, 1, C]
    weights = torch.where(seen, scores.masked_fill(~seen, -torch.inf).softmax(-1), 0.0)
    return torch.einsum("qkgc,ckd->qkgd", weights, value).flatten(1, 2)


def _slots_of(contexts: BlockContexts, sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the positions of a sequence lie in the cache, and whether there are as many; [C] each."""
    table, size = contexts.block_tables[sequence], contexts.block_size
    positions = torch.arange(len(table) * size, device=table.device)
    is_stored = positions < contexts.lengths[sequence]
    slots = table.repeat_interleave(size, output_size=len(positions)) * size + positions % size
    return torch.where(is_stored, slots, 0), is_stored


def _is_seen(positions: torch.Tensor, is_stored: torch.Tensor, window: int | None) -> torch.Tensor:
    """Whether tokens at ``positions`` [Q] see each position [C] of their sequence; [Q, C]."""
    ages = positions[:, None] - torch.arange(len(is_stored), device=positions.device)
    is_near = ages >= 0 if window is None else (ages >= 0) & (ages < window)
    return is_near & is_stored
