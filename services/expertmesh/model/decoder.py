"""The decoder: token ids in, logits out, experts asked in between. Knows layers, not where experts run.

Alphabet: T tokens of the step, S' rows whose logits are wanted, D hidden width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import tensors_of
from expertmesh.architectures.tensor_table import Specs
from expertmesh.errors import ComputeError
from expertmesh.kernels.backend import Backend, Linear
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.weights import DenseWeight
from expertmesh.model.attention import Attention, AttentionPlan, plan_contexts
from expertmesh.model.batch import StepBatch
from expertmesh.model.experts import Experts, LayerCall
from expertmesh.model.gate import Gate, load_gate
from expertmesh.model.kv_cache import KVCache
from expertmesh.model.norm import RMSNorm
from expertmesh.model.rope import RotaryEmbedding
from expertmesh.model.turns import Part, in_turns
from expertmesh.model.weight_loader import WeightLoader, WeightSource


@dataclass(frozen=True)
class Layer:
    """One decoder layer without its experts."""

    input_norm: RMSNorm
    attention: Attention
    expert_norm: RMSNorm
    gate: Gate


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
        loader, tensors = WeightLoader(config, source, backend, dtype), tensors_of(config)
        ends = tensors.ends
        table = loader.values(ends["embedding"])
        layers = []
        for index in range(config.num_layers):
            layers.append(_load_layer(tensors.layer(index), loader))
            report(index + 1, config.num_layers)
        head = source.weight(ends["head"]) if "head" in ends else DenseWeight(table)
        rotary = RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope_theta, backend.device)
        return cls(config, table, layers, loader.norm(ends["final_norm"]), backend.linear(head), rotary)

    def forward(self, batch: StepBatch, cache: KVCache, experts: Experts) -> torch.Tensor:
        """Run one step; returns the logits [S', V] float32 of ``batch.sample_rows``.

        Raises ComputeError when a logit is not finite, and whatever ``experts`` raises.
        """
        [logits] = in_turns([self.part(batch, cache, experts)])
        return logits

    def part(self, batch: StepBatch, cache: KVCache, experts: Experts) -> "Part[torch.Tensor]":
        """Do what ``forward`` does, with a pause while the experts of each layer are asked."""
        hidden, plan = self._embed(batch, cache)  # [T, D]
        for index, layer in enumerate(self._layers):
            hidden, call = self._attend_and_choose(index, layer, hidden, plan, cache)
            pending = experts.begin(call)
            try:
                yield
            except GeneratorExit:
                pending.abandon()
                raise
            hidden = hidden + pending.finish().to(hidden.dtype)
        return self._logits(hidden[batch.sample_rows])

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
        return hidden, LayerCall(index, rows, *layer.gate(rows))

    @torch.inference_mode()
    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._head(self._norm(hidden)).float()  # [S', V]
        if not is_finite(logits):
            raise ComputeError("the logits hold NaN or Inf; the checkpoint's attention or head weights may be broken")
        return logits


def _load_layer(specs: Specs, loader: WeightLoader) -> Layer:
    return Layer(
        input_norm=loader.norm(specs["input_norm"]),
        attention=Attention.load(specs, loader),
        expert_norm=loader.norm(specs["expert_norm"]),
        gate=load_gate(specs, loader),
    )
