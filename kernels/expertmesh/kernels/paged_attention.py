"""Attention of the new tokens of a step over a paged KV cache, in torch. Knows slots, not who owns them.

Alphabet: T new tokens of all sequences, S sequences, C positions of the longest context, Q new tokens of one sequence,
P slots, H query heads, K key-value heads, d head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch.nn.functional import scaled_dot_product_attention

from expertmesh.kernels.block_attention import BlockContexts


@dataclass(frozen=True)
class PagedContexts:
    """What each new token sees: the last ``window`` positions of its sequence up to its own.

    A sequence has ``lengths`` [S] positions, of which the last ``num_new`` [S] are new, both at least 1; new tokens lie
    sequence by sequence. ``slots`` [S, C] int64 are where positions lie in the cache; those beyond a length count for
    nothing.
    """

    slots: torch.Tensor
    num_new: tuple[int, ...]
    lengths: tuple[int, ...]
    window: int

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The first row of each sequence among the new tokens."""
        return tuple(accumulate(self.num_new, initial=0))[:-1]

    @cached_property
    def sequences(self) -> torch.Tensor:
        """First row, number of new tokens and number of positions of each sequence, [S, 3] int64 on the CPU."""
        columns = list(zip(self.first_rows, self.num_new, self.lengths, strict=True))
        return torch.tensor(columns, dtype=torch.int64).view(-1, 3)

    @cached_property
    def slot_range(self) -> tuple[int, int]:
        """The lowest and the highest slot."""
        lowest, highest = self.slots.aminmax() if self.slots.numel() else (0, 0)
        return int(lowest), int(highest)

    @cached_property
    def spans(self) -> tuple["Span", ...]:
        """The sequences, those with one new token together, every other by itself."""
        singles = [i for i, count in enumerate(self.num_new) if count == 1]
        spans = [self._prefill_span(i) for i, count in enumerate(self.num_new) if count > 1]
        return (*spans, self._decode_span(singles)) if singles else tuple(spans)

    def _prefill_span(self, index: int) -> "Span":
        num_new, length = self.num_new[index], self.lengths[index]
        first = max(0, length - num_new + 1 - self.window)
        rows = torch.arange(num_new, device=self.slots.device) + self.first_rows[index]
        if length == num_new and length <= self.window:
            return Span(rows[None], self.slots[index : index + 1, :length], None)
        query = torch.arange(length - num_new, length, device=self.slots.device).unsqueeze(1)  # [Q, 1]
        key = torch.arange(first, length, device=self.slots.device)  # [C]
        is_seen = (key <= query) & (key > query - self.window)  # [Q, C]
        return Span(rows[None], self.slots[index : index + 1, first:length], is_seen[None, None])

    def _decode_span(self, singles: list[int]) -> "Span":
        device = self.slots.device
        rows = torch.tensor([self.first_rows[i] for i in singles], device=device)
        lengths = torch.tensor([self.lengths[i] for i in singles], device=device).unsqueeze(1)  # [S, 1]
        longest = max(self.lengths[i] for i in singles)
        slots = self.slots[singles, :longest]
        if all(self.lengths[i] == longest <= self.window for i in singles):
            return Span(rows[:, None], slots, None)
        positions = torch.arange(slots.shape[1], device=device)  # [C]
        is_seen = (positions < lengths) & (positions >= lengths - self.window)  # [S, C]
        return Span(rows[:, None], slots, is_seen[:, None, None])


@dataclass(frozen=True)
class Span:
    """New tokens that attend together: ``rows`` [S, Q], the ``slots`` [S, C] and which of them are seen.

    ``mask`` is [S, 1, Q, C], True for what is seen; None where every token sees all positions up to its own.
    """

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor | None


def attend_paged(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: PagedContexts
) -> torch.Tensor:
    """Attend from the new tokens of a step: gather what they see, and let torch compute.

    ``query`` [T, H, d]; ``keys`` and ``values`` [P, K, d], where K divides H. Returns [T, H, d].
    """
    attended = torch.empty_like(query)
    for span in contexts.spans:
        found = scaled_dot_product_attention(
            query[span.rows].transpose(1, 2),  # [S, H, Q, d]
            keys[span.slots].transpose(1, 2),  # [S, K, C, d]
            values[span.slots].transpose(1, 2),
            attn_mask=span.mask,
            is_causal=span.mask is None and span.rows.shape[1] > 1,
            enable_gqa=True,
        )
        attended[span.rows] = found.transpose(1, 2)
    return attended


def attend_by_blocks(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, PagedContexts], torch.Tensor],
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    contexts: BlockContexts,
) -> torch.Tensor:
    """Attend from ``query`` [T, H, d] with a kernel that plans on the host; returns [T, H, d], 0 for padding."""
    paged = _to_paged(contexts)
    num_rows = sum(paged.num_new)
    output = torch.zeros_like(query)
    if num_rows:
        output[:num_rows] = attend(query[:num_rows], keys, values, paged)
    return output


def _to_paged(contexts: BlockContexts) -> PagedContexts:
    """Say the same on the host, but for the padding, which comes last."""
    lengths = tuple(length for length in contexts.lengths.tolist() if length)
    first_rows = contexts.first_rows[: len(lengths) + 1].tolist()
    num_new = tuple(end - start for start, end in zip(first_rows, first_rows[1:], strict=False))
    longest = max(lengths, default=1)
    blocks = contexts.block_tables[: len(lengths), : -(-longest // contexts.block_size)].long()  # [S, B]
    offsets = torch.arange(contexts.block_size, device=blocks.device)
    slots = (blocks.unsqueeze(-1) * contexts.block_size + offsets).flatten(1)[:, :longest]  # [S, C]
    return PagedContexts(slots, num_new, lengths, contexts.window or longest)
