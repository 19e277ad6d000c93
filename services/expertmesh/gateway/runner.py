"""From the chunks of a step to its sampled tokens. Knows tensors and the decoder, not requests waiting or clients."""

from collections.abc import Sequence as Seq

import torch

from expertmesh.gateway.noise import noise
from expertmesh.gateway.request import Sequence
from expertmesh.gateway.scheduler import Chunk
from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import Experts
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.sampler import Choice, SamplingRow, sample


class ModelRunner:
    """Runs the decoder over chunks and samples a token for every sequence whose last chunk it was."""

    def __init__(self, decoder: Decoder, cache: KVCache, experts: Experts, device: torch.device) -> None:
        self._decoder = decoder
        self._cache = cache
        self._experts = experts
        self._device = device

    async def run(self, chunks: Seq[Chunk]) -> dict[Sequence, Choice]:
        """Compute ``chunks``; return the next token of each sequence that has none left to compute."""
        batch = build_batch(chunks, self._cache.block_size, self._device)
        logits = await self._decoder.forward(batch, self._cache, self._experts)  # [S', V]
        sequences = [chunk.sequence for chunk in chunks if chunk.is_last]
        if not sequences:
            return {}
        return dict(zip(sequences, sample(logits, [self._row(sequence) for sequence in sequences]), strict=True))

    def _row(self, sequence: Sequence) -> SamplingRow:
        sampling = sequence.request.sampling
        return SamplingRow(
            sampling,
            sequence.request.prompt_ids,
            sequence.tokens[sequence.num_prompt_tokens :],
            noise(sequence.seed, len(sequence.tokens)),
        )


def build_batch(chunks: Seq[Chunk], block_size: int, device: torch.device) -> StepBatch:
    """Lay the tokens of ``chunks`` out one sequence after the other, with their places in the KV cache."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    sample_rows: list[int] = []
    for chunk in chunks:
        sequence = chunk.sequence
        span = range(sequence.num_computed, sequence.num_computed + chunk.num_tokens)
        token_ids.extend(sequence.tokens[span.start : span.stop])
        positions.extend(span)
        slots.extend(sequence.blocks[i // block_size] * block_size + i % block_size for i in span)
        if chunk.is_last:
            sample_rows.append(len(token_ids) - 1)

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    return StepBatch(
        token_ids=tensor(token_ids),
        positions=tensor(positions),
        slot_mapping=tensor(slots),
        query_lens=tuple(chunk.num_tokens for chunk in chunks),
        context_lens=tuple(chunk.sequence.num_computed + chunk.num_tokens for chunk in chunks),
        block_tables=_block_tables(chunks).to(device),
        sample_rows=tensor(sample_rows),
    )


def _block_tables(chunks: Seq[Chunk]) -> torch.Tensor:
    longest = max(len(chunk.sequence.blocks) for chunk in chunks)
    tables = [chunk.sequence.blocks + [0] * (longest - len(chunk.sequence.blocks)) for chunk in chunks]
    return torch.tensor(tables, dtype=torch.int64)  # [S, B]
