"""Grouped-query attention over a paged KV cache. Knows blocks and slots, not requests.

Alphabet: T tokens of the step, S sequences, B blocks of a sequence, C tokens of the longest context with its new
ones, H query heads, K key-value heads, d head width, D hidden width.
"""

from dataclasses import dataclass

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import Specs
from expertmesh.kernels.backend import Backend, Linear
from expertmesh.kernels.paged_attention import PagedContexts
from expertmesh.kernels.weights import stack_outputs
from expertmesh.model.batch import StepBatch
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.rope import rotate
from expertmesh.model.weight_loader import WeightLoader


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of a step share: where to write, who sees whom, and how far each head is turned."""

    slot_mapping: torch.Tensor
    contexts: PagedContexts
    cos: torch.Tensor
    sin: torch.Tensor


def plan_contexts(batch: StepBatch, block_size: int, window: int | None = None) -> PagedContexts:
    """Say what the tokens of a step see: at most ``window`` tokens each, itself included."""
    longest = max(batch.context_lens)
    blocks = batch.block_tables[:, : -(-longest // block_size)]  # [S, B]
    offsets = torch.arange(block_size, device=blocks.device)
    slots = (blocks.unsqueeze(-1) * block_size + offsets).flatten(1)[:, :longest]  # [S, C]
    return PagedContexts(slots, batch.query_lens, batch.context_lens, window or longest)


class Attention:
    """The attention of one layer; q, k and v come from one matrix where their storage allows."""

    def __init__(self, config: ModelConfig, backend: Backend, qkv: tuple[Linear, ...], output: Linear) -> None:
        self._backend = backend
        self._qkv = qkv
        self.output = output
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        self._head_dim = config.head_dim

    @classmethod
    def load(cls, specs: Specs, loader: WeightLoader) -> "Attention":
        """Read the attention of the layer of ``specs``."""
        read, backend = loader.source.weight, loader.backend
        parts = [read(spec) for spec in (specs["q"], specs["k"], specs["v"])]
        joined = stack_outputs(parts)
        qkv = tuple(backend.linear(weight) for weight in ([joined] if joined else parts))
        return cls(loader.config, backend, qkv, backend.linear(read(specs["o"])))

    def __call__(self, x: torch.Tensor, layer: int, plan: AttentionPlan, cache: KVCache) -> torch.Tensor:
        """Store the keys and values of ``x`` [T, D] and attend; returns [T, D]."""
        return self.output(self.attend(x, layer, plan, cache))

    def attend(self, x: torch.Tensor, layer: int, plan: AttentionPlan, cache: KVCache) -> torch.Tensor:
        """Do it all but for the output matrix; returns [T, H * d]."""
        query, key, value = self._project(x)
        cache.write(layer, plan.slot_mapping, rotate(key, plan.cos, plan.sin), value)
        query = rotate(query, plan.cos, plan.sin)
        keys, values = cache.keys[layer], cache.values[layer]
        attended = self._backend.attend_paged(query, keys, values, plan.contexts)  # [T, H, d]
        return attended.flatten(1)

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        joined = torch.cat([linear(x) for linear in self._qkv], dim=-1) if len(self._qkv) > 1 else self._qkv[0](x)
        heads = joined.view(x.shape[0], -1, self._head_dim)  # [T, H + 2K, d]
        return torch.split(heads, [self._num_heads, self._num_kv_heads, self._num_kv_heads], dim=1)
