"""Grouped-query attention over a paged KV cache. Knows blocks and slots, not requests.

Alphabet: T tokens of the step, S sequences, B blocks of a sequence, C tokens of the longest context with its new
ones, H query heads, K key-value heads, d head width, D hidden width.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import QK_NORMS, Specs
from expertmesh.kernels.backend import Backend, Contexts, Linear
from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.paged_attention import PagedContexts
from expertmesh.kernels.weights import stack_outputs
from expertmesh.model.batch import StepBatch
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.norm import RMSNorm
from expertmesh.model.weight_loader import WeightLoader


@dataclass(frozen=True)
class AttentionPlan:
    """What all layers of a step share: where to write, who sees whom, and how far each head is turned."""

    slot_mapping: torch.Tensor
    contexts: Contexts
    angles: tuple[torch.Tensor, torch.Tensor]


def plan_contexts(batch: StepBatch, block_size: int, window: int | None = None) -> Contexts:
    """Say what the tokens of a step see: at most ``window`` tokens each, itself included."""
    if not batch.block_tables.is_cpu:
        return _block_contexts(batch, block_size, window)
    longest = max(batch.context_lens)
    blocks = batch.block_tables[:, : -(-longest // block_size)]  # [S, B]
    offsets = torch.arange(block_size, device=blocks.device)
    slots = (blocks.unsqueeze(-1) * block_size + offsets).flatten(1)[:, :longest]  # [S, C]
    return PagedContexts(slots, batch.query_lens, batch.context_lens, window or longest)


def _block_contexts(batch: StepBatch, block_size: int, window: int | None) -> BlockContexts:
    device = batch.block_tables.device
    first_rows = list(accumulate(batch.query_lens, initial=0))
    return BlockContexts(
        block_tables=batch.block_tables.int(),
        lengths=torch.tensor(batch.context_lens, dtype=torch.int32, device=device),
        first_rows=torch.tensor(first_rows, dtype=torch.int32, device=device),
        block_size=block_size,
        window=window,
        is_decode=max(batch.query_lens) == 1,
    )


class Attention:
    """The attention of one layer; q, k and v come from one matrix where their storage allows.

    ``norms`` are those of queries and of keys, each as wide as a head or as all of them; empty where there are none.
    """

    def __init__(
        self,
        config: ModelConfig,
        backend: Backend,
        qkv: tuple[Linear, ...],
        norms: tuple[RMSNorm, ...],
        output: Linear,
    ) -> None:
        self._backend = backend
        self._qkv = qkv
        self._norms = norms
        self.output = output
        self._head_dim = config.head_dim
        self._num_heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self._max = config.max_qkv

    @classmethod
    def load(cls, specs: Specs, loader: WeightLoader) -> "Attention":
        """Read the attention of the layer of ``specs``."""
        read, backend = loader.source.weight, loader.backend
        parts = [read(spec) for spec in (specs["q"], specs["k"], specs["v"])]
        joined = stack_outputs(parts)
        qkv = tuple(backend.linear(weight) for weight in ([joined] if joined else parts))
        norms = tuple(loader.norm(specs[role]) for role in QK_NORMS if role in specs)
        return cls(loader.config, backend, qkv, norms, backend.linear(read(specs["o"])))

    def __call__(self, x: torch.Tensor, layer: int, plan: AttentionPlan, cache: KVCache) -> torch.Tensor:
        """Store the keys and values of ``x`` [T, D] and attend; returns [T, D]."""
        return self.output(self.attend(x, layer, plan, cache))

    def attend(self, x: torch.Tensor, layer: int, plan: AttentionPlan, cache: KVCache) -> torch.Tensor:
        """Do it all but for the output matrix; returns [T, H * d]."""
        joined = torch.cat([linear(x) for linear in self._qkv], dim=-1) if len(self._qkv) > 1 else self._qkv[0](x)
        heads = joined.view(x.shape[0], -1, self._head_dim)  # [T, H + 2K, d]
        self._normalise_and_clip(heads)
        keys, values = cache.keys[layer], cache.values[layer]
        query = self._backend.step_ops.rotate_and_store(heads, plan.angles, plan.slot_mapping, keys, values)
        return self._backend.attend(query, keys, values, plan.contexts).flatten(1)

    def _normalise_and_clip(self, heads: torch.Tensor) -> None:
        """Normalise queries and keys of ``heads`` [T, H + 2K, d] in place, then clip all, as the model asks for it."""
        for part, norm in zip(heads.split(self._num_heads, dim=1), self._norms, strict=False):
            whole = part.view(len(part), -1, len(norm.weight))
            self._backend.step_ops.normalise_heads(whole, norm.weight, norm.eps)
        if self._max is not None:
            heads.clamp_(-self._max, self._max)
