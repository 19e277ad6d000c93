"""How the chunks of a step lie in its tensors. Knows positions and cache slots, not what is computed.

Alphabet: S sequences, B blocks of a sequence.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from expertmesh.engine.scheduler import Chunk
from expertmesh.model.batch import StepBatch


@dataclass(frozen=True)
class WantedRows:
    """Rows of a chunk, counted from its first, whose logits are wanted: to score prompt tokens, to sample new ones."""

    scored: range
    sampled: range

    def __len__(self) -> int:
        return len(self.scored) + len(self.sampled)


def wanted_rows(chunk: Chunk) -> WantedRows:
    """Say which logits of a chunk are wanted; a row's logits are about the token after it."""
    sequence = chunk.sequence
    first = sequence.num_prompt_tokens - 1 - sequence.num_unscored - sequence.num_computed
    last = min(chunk.num_tokens, sequence.num_prompt_tokens - 1 - sequence.num_computed)
    return WantedRows(
        scored=range(max(0, first), max(0, first, last)) if sequence.num_unscored else range(0),
        sampled=range(chunk.num_tokens - 1, chunk.num_rows) if chunk.is_last else range(0),
    )


def split_chunks(chunks: Seq[Chunk], num_parts: int) -> list[Seq[Chunk]]:
    """Cut the chunks of a step, in order, into at most ``num_parts`` parts of about as many rows."""
    parts: list[list[Chunk]] = [[]]
    num_left, num_rows = sum(chunk.num_rows for chunk in chunks), 0
    for chunk in chunks:
        num_parts_left = num_parts - len(parts) + 1
        if parts[-1] and num_parts_left > 1 and num_rows + chunk.num_rows / 2 > (num_rows + num_left) / num_parts_left:
            parts.append([])
            num_rows = 0
        parts[-1].append(chunk)
        num_rows += chunk.num_rows
        num_left -= chunk.num_rows
    return list(parts)


def build_batch(chunks: Seq[Chunk], block_size: int) -> StepBatch:
    """Lay the tokens of ``chunks`` out one sequence after the other, with their places in the KV cache, on the CPU."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    sample_rows: list[int] = []
    for chunk in chunks:
        sequence = chunk.sequence
        first_row = len(token_ids)
        span = range(sequence.num_computed, sequence.num_computed + chunk.num_rows)
        token_ids.extend(sequence.tokens[span.start : span.start + chunk.num_tokens])
        token_ids.extend(chunk.draft)
        positions.extend(span)
        slots.extend(sequence.blocks[i // block_size] * block_size + i % block_size for i in span)
        wanted = wanted_rows(chunk)
        sample_rows.extend(first_row + row for rows in (wanted.scored, wanted.sampled) for row in rows)

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64)

    return StepBatch(
        token_ids=tensor(token_ids),
        positions=tensor(positions),
        slot_mapping=tensor(slots),
        query_lens=tuple(chunk.num_rows for chunk in chunks),
        context_lens=tuple(chunk.sequence.num_computed + chunk.num_rows for chunk in chunks),
        block_tables=_block_tables(chunks),
        sample_rows=tensor(sample_rows),
    )


def _block_tables(chunks: Seq[Chunk]) -> torch.Tensor:
    longest = max(len(chunk.sequence.blocks) for chunk in chunks)
    tables = [chunk.sequence.blocks + [0] * (longest - len(chunk.sequence.blocks)) for chunk in chunks]
    return torch.tensor(tables, dtype=torch.int64)  # [S, B]
