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
from expertmesh.kernels.step_ops import Choices, StepOps
from expertmesh.kernels.weights import DenseWeight
from expertmesh.model.attention import Attention, AttentionPlan, plan_contexts
from expertmesh.model.batch import StepBatch
from expertmesh.model.experts import Experts, LayerCall, Pending
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


@dataclass(frozen=True)
class RoutedRows:
    """Rows [T, D] and the experts that they go to; rows of padding, whose ``lengths`` [T] are 0, go to none."""

    rows: torch.Tensor
    choices: Choices
    lengths: torch.Tensor | None = None


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
        ops: StepOps,
    ) -> None:
        self.config = config
        self.dtype = embedding.dtype
        self._ops = ops
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
        rotary = RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope, backend.device)
        norm = loader.norm(ends["final_norm"])
        return cls(config, table, layers, norm, backend.linear(head), rotary, backend.step_ops)

    def forward(self, batch: StepBatch, cache: KVCache, experts: Experts) -> torch.Tensor:
        """Run one step; returns the logits [S', V] float32 of ``batch.sample_rows``.

        Raises ComputeError when a logit is not finite, and whatever ``experts`` raises.
        """
        [logits] = in_turns([self.part(batch, cache, experts)])
        return logits

    def part(self, batch: StepBatch, cache: KVCache, experts: Experts) -> "Part[torch.Tensor]":
        """Do what ``forward`` does, with a pause while the experts of each layer are asked."""
        hidden = self.embed(batch.token_ids)  # [T, D]
        contexts = plan_contexts(batch, cache.block_size, self.config.sliding_window)
        plan = AttentionPlan(batch.slot_mapping, contexts, self.angles(batch.positions))
        delta = None
        for index in range(self.config.num_layers):
            routed = self.attend_and_choose(index, hidden, delta, plan, cache)
            pending = experts.begin(LayerCall(index, routed.rows, *routed.choices))
            yield from pause(pending)
            delta = pending.finish()  # [T, D]
        assert delta is not None, "a model has layers"
        rows = batch.sample_rows
        logits = self.logits(hidden[rows], delta[rows])
        check_logits(logits)
        return logits

    @torch.inference_mode()
    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Look up ``token_ids`` [T]; returns [T, D]."""
        return embedding(token_ids, self._embedding)

    @torch.inference_mode()
    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines [T, 1, d] of ``positions`` [T]."""
        return self._rotary.at(positions, self.dtype)

    @torch.inference_mode()
    def attend_and_choose(
        self,
        index: int,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        plan: AttentionPlan,
        cache: KVCache,
        out: RoutedRows | None = None,
    ) -> RoutedRows:
        """Go through a layer up to its experts.

        ``delta`` [T, D] is what the experts of the layer before said, None for the first; it and what attention says
        are added to ``hidden`` [T, D] in place. Returns the rows for the experts, in ``out`` if given.
        """
        layer, add_and_normalise = self._layers[index], self._ops.add_and_normalise
        normed = add_and_normalise(hidden, delta, layer.input_norm.weight, layer.input_norm.eps)
        attended = layer.attention(normed, index, plan, cache)
        into = out.rows if out else None
        rows = add_and_normalise(hidden, attended, layer.expert_norm.weight, layer.expert_norm.eps, into)
        return RoutedRows(rows, layer.gate(rows, out.lengths, out.choices) if out else layer.gate(rows))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """Return the logits [S', V] float32 of ``hidden`` with ``delta`` [S', D] of the last layer's experts."""
        normed = self._ops.add_and_normalise(hidden, delta, self._norm.weight, self._norm.eps)
        return self._head(normed).float()


def check_logits(logits: torch.Tensor) -> None:
    """Raise ComputeError when a logit is not finite."""
    if not is_finite(logits):
        raise ComputeError("the logits hold NaN or Inf; the checkpoint's attention or head weights may be broken")


def pause(pending: Pending) -> "Part[None]":
    """Let others work while experts are asked; where nobody comes back, nobody waits for them any more."""
    try:
        yield
    except GeneratorExit:
        pending.abandon()
        raise


def _load_layer(specs: Specs, loader: WeightLoader) -> Layer:
    return Layer(
        input_norm=loader.norm(specs["input_norm"]),
        attention=Attention.load(specs, loader),
        expert_norm=loader.norm(specs["expert_norm"]),
        gate=load_gate(specs, loader),
    )
