"""Grouped-query attention over a paged KV cache. Knows slots and masks, not requests.

Alphabet: T tokens of the step, S sequences, B blocks of a sequence, Q new tokens of one sequence, C tokens of its
context (new ones included), H query heads, K key-value heads, d head width.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from expertmesh.kernels.backend import Backend, Linear
from expertmesh.kernels.paged_attention import PagedContexts
from expertmesh.model.batch import StepBatch
from expertmesh.model.config import ModelConfig
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.rope import rotate


@dataclass(frozen=True)
class PrefillSpan:
    """The new tokens of one sequence.

    ``rows`` [Q] in the step, ``slots`` [C] of the context, ``mask`` [1, 1, Q, C] (True = may see) or None for the plain
    causal mask.
    """

    rows: slice
    slots: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class DecodeSpan:
    """Sequences with one new token each: ``rows`` [S] in the step, and what each of them sees."""

    rows: torch.Tensor | slice
    contexts: PagedContexts


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of a step share: where to write, who sees whom, and how far each head is turned."""

    slot_mapping: torch.Tensor
    spans: tuple[PrefillSpan | DecodeSpan, ...]
    cos: torch.Tensor
    sin: torch.Tensor


def plan_spans(batch: StepBatch, block_size: int, window: int | None = None) -> tuple[PrefillSpan | DecodeSpan, ...]:
    """Group the rows of a step: all sequences with one new token together, every other sequence by itself.

    A token sees at most ``window`` tokens, itself included.
    """
    singles = [i for i, length in enumerate(batch.query_lens) if length == 1]
    window = window or max(batch.context_lens)
    spans: list[PrefillSpan | DecodeSpan] = [
        _prefill_span(batch, i, block_size, window) for i, length in enumerate(batch.query_lens) if length > 1
    ]
    if singles:
        spans.append(_decode_span(batch, singles, block_size, window))
    return tuple(spans)


def _context_slots(block_tables: torch.Tensor, block_size: int, length: int) -> torch.Tensor:
    """Number the slots of the first ``length`` positions of ``block_tables`` [S, B]; returns [S, length]."""
    blocks = block_tables[:, : -(-length // block_size)]
    offsets = torch.arange(block_size, device=blocks.device)
    return (blocks.unsqueeze(-1) * block_size + offsets).flatten(1)[:, :length]


def _prefill_span(batch: StepBatch, index: int, block_size: int, window: int) -> PrefillSpan:
    num_new, context = batch.query_lens[index], batch.context_lens[index]
    slots = _context_slots(batch.block_tables[index : index + 1], block_size, context)[0]
    first = max(0, context - num_new + 1 - window)
    mask = None
    if context > num_new or context > window:
        query = torch.arange(context - num_new, context, device=slots.device).unsqueeze(1)  # [Q, 1]
        key = torch.arange(first, context, device=slots.device)  # [C]
        mask = ((key <= query) & (key > query - window))[None, None]  # [1, 1, Q, C]
    start = sum(batch.query_lens[:index])
    return PrefillSpan(slice(start, start + num_new), slots[first:], mask)


def _decode_span(batch: StepBatch, singles: list[int], block_size: int, window: int) -> DecodeSpan:
    lengths = tuple(batch.context_lens[i] for i in singles)
    if len(singles) == len(batch.query_lens):  # no copies: views of all rows
        slots = _context_slots(batch.block_tables, block_size, max(lengths))
        return DecodeSpan(slice(None), PagedContexts(slots, lengths, window))
    slots = _context_slots(batch.block_tables[singles], block_size, max(lengths))
    rows = torch.tensor([sum(batch.query_lens[:i]) for i in singles], device=slots.device)
    return DecodeSpan(rows, PagedContexts(slots, lengths, window))


class Attention:
    """The attention of one layer; q, k and v come from one matrix where their storage allows."""

    def __init__(self, config: ModelConfig, backend: Backend, qkv: tuple[Linear, ...], output: Linear) -> None:
        self._backend = backend
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
        keys, values = cache.keys[layer], cache.values[layer]
        attended = torch.empty_like(query)  # [T, H, d]
        for span in plan.spans:
            if isinstance(span, DecodeSpan):
                attended[span.rows] = self._backend.attend_paged(query[span.rows], keys, values, span.contexts)
            else:
                attended[span.rows] = _attend(query[span.rows], span, keys, values)
        return self._output(attended.flatten(1))

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        joined = torch.cat([linear(x) for linear in self._qkv], dim=-1) if len(self._qkv) > 1 else self._qkv[0](x)
        heads = joined.view(x.shape[0], -1, self._head_dim)  # [T, H + 2K, d]
        return torch.split(heads, [self._num_heads, self._num_kv_heads, self._num_kv_heads], dim=1)


def _attend(query: torch.Tensor, span: PrefillSpan, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attend from ``query`` [Q, H, d] to the slots of the span; returns [Q, H, d]."""
    attended = scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0),  # [1, H, Q, d]
        keys[span.slots].transpose(0, 1).unsqueeze(0),  # [1, K, C, d]
        values[span.slots].transpose(0, 1).unsqueeze(0),
        attn_mask=span.mask,
        is_causal=span.mask is None,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)
