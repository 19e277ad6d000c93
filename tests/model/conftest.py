"""A decoder with its cache and local experts, driven step by step without an engine."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels.backend import Backend
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.model.batch import StepBatch
from expertmesh.model.decoder import Decoder
from expertmesh.model.experts import LocalExperts
from expertmesh.model.kv_cache import KVCache

BLOCK_SIZE = 4
NUM_BLOCKS = 1024


@dataclass
class Rig:
    """Sequences of token ids with blocks of their own, taken from the cache in random order."""

    config: ModelConfig
    decoder: Decoder
    experts: LocalExperts
    cache: KVCache
    free: list[int]
    blocks: dict[int, list[int]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def step(self, new: dict[int, Sequence[int]]) -> torch.Tensor:
        """Feed the new tokens of each sequence; returns the logits of all of them, row by row."""
        return self.decoder.forward(self.batch(new).to(self.cache.keys.device), self.cache, self.experts)

    def batch(self, new: dict[int, Sequence[int]]) -> StepBatch:
        """Lay the new tokens of each sequence out."""
        positions, slots = [], []
        for key, tokens in new.items():
            start = self.lengths.get(key, 0)
            self.lengths[key] = start + len(tokens)
            blocks = self.blocks.setdefault(key, [])
            while len(blocks) * BLOCK_SIZE < self.lengths[key]:
                blocks.append(self.free.pop())
            positions += range(start, self.lengths[key])
            slots += [blocks[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in range(start, self.lengths[key])]
        longest = max(len(self.blocks[key]) for key in new)
        return StepBatch(
            token_ids=torch.tensor([token for tokens in new.values() for token in tokens]),
            positions=torch.tensor(positions),
            slot_mapping=torch.tensor(slots),
            query_lens=tuple(len(tokens) for tokens in new.values()),
            context_lens=tuple(self.lengths[key] for key in new),
            block_tables=torch.tensor([self.blocks[key] + [0] * (longest - len(self.blocks[key])) for key in new]),
            sample_rows=torch.arange(sum(len(tokens) for tokens in new.values())),
        )


@pytest.fixture
def make_rig():
    reference = ReferenceBackend(torch.device("cpu"))

    def make(directory: Path, dtype: torch.dtype = torch.float32, backend: Backend = reference) -> Rig:
        checkpoint = Checkpoint.open(directory)
        config = checkpoint.model
        decoder = Decoder.load(config, checkpoint, backend, dtype)
        experts = LocalExperts.load(config, checkpoint, backend)
        cache = KVCache(config, NUM_BLOCKS, BLOCK_SIZE, dtype, backend.device)
        free = random.Random(0).sample(range(NUM_BLOCKS), NUM_BLOCKS)
        return Rig(config, decoder, experts, cache, free)

    return make
