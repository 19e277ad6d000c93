"""The decoder: token ids in, logits out, experts awaited in between. Knows layers, not where experts run.

Alphabet: T tokens of the step, E experts, S' rows whose logits are wanted, D hidden width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import embedding

from expertmesh.errors import ComputeError
from expertmesh.kernels.backend import Backend, Linear
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.weights import DenseWeight, Weight, stack_outputs
from expertmesh.model.attention import Attention, AttentionPlan, plan_contexts
from expertmesh.model.batch import StepBatch
from expertmesh.model.compute import Compute, compute_inline
from expertmesh.model.config import ModelConfig
from expertmesh.model.experts import Experts, LayerCall
from expertmesh.model.gate import choose_experts, choose_only_expert
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.norm import RMSNorm
from expertmesh.model.rope import RotaryEmbedding


class WeightSource(Protocol):
    """Where tensors are read from by their HF names without ".weight", for example a checkpoint."""

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read a tensor that must have ``shape``."""
        ...

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        """Read a matrix, quantized or not, that must have ``shape`` (outputs, inputs)."""
        ...


@dataclass(frozen=True)
class Layer:
    """One decoder layer without its experts; ``gate`` [E, D] is None where a dense model has a single expert."""

    input_norm: RMSNorm
    attention: Attention
    expert_norm: RMSNorm
    gate: Linear | None


class Decoder:
    """All layers of a model but their experts."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: torch.Tensor,
        layers: list[Layer],
        norm: RMSNorm,
        head: Linear,
        rotary: RotaryEmbedding,
    ) -> None:
        self.config = config
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rotary = rotary

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        source: WeightSource,
        backend: Backend,
        dtype: torch.dtype,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Decoder":
        """Read the weights; activations will be ``dtype`` on the backend's device. ``report`` is told (layers, of)."""
        loader = _Loader(config, source, backend, dtype)
        table = loader.dense("model.embed_tokens", (config.vocab_size, config.hidden_size))
        layers = []
        for index in range(config.num_layers):
            layers.append(loader.layer(index))
            report(index + 1, config.num_layers)
        head = DenseWeight(table) if config.is_embedding_tied else loader.weight("lm_head", *table.shape)
        rotary = RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope_theta, backend.device)
        return cls(config, table, layers, loader.norm("model.norm"), backend.linear(head), rotary)

    async def forward(
        self, batch: StepBatch, cache: KVCache, experts: Experts, compute: Compute = compute_inline
    ) -> torch.Tensor:
        """Run one step; returns the logits [S', V] float32 of ``batch.sample_rows``.

        Raises ComputeError when a logit is not finite, and whatever ``experts`` raises.
        """
        num_rows = len(batch.token_ids)
        hidden, plan = self._embed(batch, cache)  # [T, D]
        for index, layer in enumerate(self._layers):
            hidden, call = await compute(num_rows, self._attend_and_choose, index, layer, hidden, plan, cache)
            hidden = hidden + (await experts(call)).to(hidden.dtype)
        return await compute(len(batch.sample_rows), self._logits, hidden[batch.sample_rows])

    @torch.inference_mode()
    def _embed(self, batch: StepBatch, cache: KVCache) -> tuple[torch.Tensor, AttentionPlan]:
        hidden = embedding(batch.token_ids, self._embedding)
        cos, sin = self._rotary.at(batch.positions, hidden.dtype)
        contexts = plan_contexts(batch, cache.block_size, self.config.sliding_window)
        return hidden, AttentionPlan(batch.slot_mapping, contexts, cos, sin)

    @torch.inference_mode()
    def _attend_and_choose(
        self, index: int, layer: Layer, hidden: torch.Tensor, plan: AttentionPlan, cache: KVCache
    ) -> tuple[torch.Tensor, LayerCall]:
        """Return the hidden states after attention [T, D], and what the gate chose for them."""
        hidden = hidden + layer.attention(layer.input_norm(hidden), index, plan, cache)
        rows = layer.expert_norm(hidden)
        if layer.gate is None:
            return hidden, LayerCall(index, rows, *choose_only_expert(rows))
        logits = layer.gate(rows)  # [T, E]
        return hidden, LayerCall(index, rows, *choose_experts(logits, self.config.num_experts_per_token))

    @torch.inference_mode()
    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._head(self._norm(hidden)).float()  # [S', V]
        if not is_finite(logits):
            raise ComputeError("the logits hold NaN or Inf; the checkpoint's attention or head weights may be broken")
        return logits


class _Loader:
    """Reads weights by their HF names and hands the matrices to the backend."""

    def __init__(self, config: ModelConfig, source: WeightSource, backend: Backend, dtype: torch.dtype) -> None:
        self._config = config
        self._source = source
        self._backend = backend
        self._dtype = dtype

    def layer(self, index: int) -> Layer:
        prefix = f"model.layers.{index}"
        return Layer(
            input_norm=self.norm(f"{prefix}.input_layernorm"),
            attention=self._attention(f"{prefix}.self_attn"),
            expert_norm=self.norm(f"{prefix}.post_attention_layernorm"),
            gate=None if self._config.is_dense else self._gate(f"{prefix}.block_sparse_moe.gate"),
        )

    def dense(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self._source.tensor(name, shape).to(self._backend.device, self._dtype)

    def norm(self, prefix: str) -> RMSNorm:
        return RMSNorm(self.dense(prefix, (self._config.hidden_size,)), self._config.rms_norm_eps)

    def weight(self, name: str, num_out: int, num_in: int) -> Weight:
        return self._source.weight(name, (num_out, num_in))

    def _gate(self, name: str) -> Linear:
        shape = (self._config.num_experts, self._config.hidden_size)
        # In the dtype of the activations, as transformers has it: values of the file that it cannot hold are rounded.
        return self._backend.linear(DenseWeight(self.dense(name, shape)))

    def _attention(self, prefix: str) -> Attention:
        config = self._config
        width = config.hidden_size
        num_q, num_kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        parts = [
            self.weight(f"{prefix}.{name}_proj", num_out, width)
            for name, num_out in (("q", num_q), ("k", num_kv), ("v", num_kv))
        ]
        joined = stack_outputs(parts)
        qkv = tuple(self._backend.linear(weight) for weight in ([joined] if joined else parts))
        output = self._backend.linear(self.weight(f"{prefix}.o_proj", width, num_q))
        return Attention(config, self._backend, qkv, output)
