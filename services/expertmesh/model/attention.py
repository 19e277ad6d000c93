"""Grouped-query attention over a paged KV cache. Knows slots and masks, not requests.

Alphabet: T tokens of the step, S sequences, Q new tokens of one sequence, C tokens of its context (new ones included),
H query heads, K key-value heads, d head width.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from expertmesh.kernels.backend import Linear
from expertmesh.model.batch import StepBatch
from expertmesh.model.config import ModelConfig
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.rope import rotate


@dataclass(frozen=True)
class Span:
    """Rows of the step that attend together.

    ``rows`` [S * Q] in the step, ``slots`` [S, C] of their contexts, ``mask`` [S, 1, Q, C] (True = may see) or None for
    the plain causal mask, ``shape`` (S, Q).
    """

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of a step share: where to write, who sees whom, and how far each head is turned."""

    slot_mapping: torch.Tensor
    spans: tuple[Span, ...]
    cos: torch.Tensor
    sin: torch.Tensor


def plan_spans(batch: StepBatch, block_size: int, window: int | None = None) -> tuple[Span, ...]:
    """Group the rows of a step: all sequences with one new token together, every other sequence by itself.

    A token sees at most ``window`` tokens, itself included.
    """
    starts = [sum(batch.query_lens[:i]) for i in range(len(batch.query_lens))]
    slots = _context_slots(batch.block_tables, block_size)  # [S, B * block_size]
    singles = [i for i, length in enumerate(batch.query_lens) if length == 1]
    window = window or max(batch.context_lens)
    spans = [_prefill_span(batch, i, starts[i], slots[i], window) for i, n in enumerate(batch.query_lens) if n > 1]
    if singles:
        spans.append(_decode_span(batch, singles, [starts[i] for i in singles], slots[singles], window))
    return tuple(spans)


def _context_slots(block_tables: torch.Tensor, block_size: int) -> torch.Tensor:
    offsets = torch.arange(block_size, device=block_tables.device)
    return (block_tables.unsqueeze(-1) * block_size + offsets).flatten(1)  # [S, B * block_size]


def _prefill_span(batch: StepBatch, index: int, start: int, slots: torch.Tensor, window: int) -> Span:
    num_new, context = batch.query_lens[index], batch.context_lens[index]
    device = slots.device
    first = max(0, context - num_new + 1 - window)
    mask = None
    if context > num_new or context > window:
        query = torch.arange(context - num_new, context, device=device).unsqueeze(1)  # [Q, 1]
        key = torch.arange(first, context, device=device)  # [C]
        mask = ((key <= query) & (key > query - window))[None, None]  # [1, 1, Q, C]
    rows = torch.arange(start, start + num_new, device=device)
    return Span(rows, slots[first:context].unsqueeze(0), mask, (1, num_new))


def _decode_span(batch: StepBatch, singles: list[int], rows: list[int], slots: torch.Tensor, window: int) -> Span:
    contexts = [batch.context_lens[i] for i in singles]
    longest = max(contexts)
    device = slots.device
    mask = None
    if min(contexts) < longest or longest > window:
        lengths = torch.tensor(contexts, device=device).unsqueeze(1)  # [S, 1]
        key = torch.arange(longest, device=device)  # [C]
        mask = ((key < lengths) & (key >= lengths - window))[:, None, None]  # [S, 1, 1, C]
    return Span(torch.tensor(rows, device=device), slots[:, :longest], mask, (len(singles), 1))


class Attention:
    """The attention of one layer; q, k and v come from one matrix where their storage allows."""

    def __init__(self, config: ModelConfig, qkv: tuple[Linear, ...], output: Linear) -> None:
        self._qkv = qkv
        self._output = output
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        self._head_dim = config.head_dim

    def __call__(self, x: torch.Tensor, layer: int, plan: AttentionPlan, cache: KVCache) -> torch.Tensor:
        """Store the keys and values of ``x`` [T, D] and attend; returns [T, D]."""
        query, key, value = self._project(x)
        cache.write(layer, plan.slot_mapping, rotate(key, plan.cos, plan.sin), value)
        query = rotate(query, plan.cos, plan.sin)
        attended = torch.empty_like(query)  # [T, H, d]
        for span in plan.spans:
            attended[span.rows] = _attend(query[span.rows], span, cache.keys[layer], cache.values[layer])
        return self._output(attended.flatten(1))

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        joined = torch.cat([linear(x) for linear in self._qkv], dim=-1) if len(self._qkv) > 1 else self._qkv[0](x)
        heads = joined.view(x.shape[0], -1, self._head_dim)  # [T, H + 2K, d]
        return torch.split(heads, [self._num_heads, self._num_kv_heads, self._num_kv_heads], dim=1)


def _attend(query: torch.Tensor, span: Span, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attend from ``query`` [S * Q, H, d] to the slots of the span; returns [S * Q, H, d]."""
    num_sequences, num_new = span.shape
    attended = scaled_dot_product_attention(
        query.view(num_sequences, num_new, *query.shape[1:]).transpose(1, 2),  # [S, H, Q, d]
        keys[span.slots].transpose(1, 2),  # [S, K, C, d]
        values[span.slots].transpose(1, 2),
        attn_mask=span.mask,
        is_causal=span.mask is None and num_new > 1,
        enable_gqa=True,
    )
    return attended.transpose(1, 2).flatten(0, 1)
