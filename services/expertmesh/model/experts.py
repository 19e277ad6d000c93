"""The door between a decoder layer and its experts, and the experts that live in this process.

Alphabet: T rows, A experts chosen per row, D hidden width.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from expertmesh.architectures.model_config import ModelConfig
from expertmesh.errors import ComputeError
from expertmesh.kernels.backend import Backend, GroupedFFN
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.moe import run_chosen
from expertmesh.model.weight_loader import ExpertSource


@dataclass(frozen=True)
class LayerCall:
    """Rows of one layer and the experts that the gate chose for them.

    ``hidden`` [T, D], ``topk_ids`` [T, A] int64, ``topk_weights`` [T, A] float32. ``traceparent`` names the span that
    this is a part of, for servers that make spans of their own; empty when it is not traced.
    """

    layer: int
    hidden: torch.Tensor
    topk_ids: torch.Tensor
    topk_weights: torch.Tensor
    traceparent: str = ""


class Experts(Protocol):
    """Where the chosen experts of a layer are run: in this process or on expert servers."""

    async def __call__(self, call: LayerCall) -> torch.Tensor:
        """Return, for each row, the sum of weight x expert(row) [T, D] float32."""
        ...


class LocalExperts:
    """All experts of all layers in this process: what remote experts must equal."""

    def __init__(self, layers: Sequence[GroupedFFN], num_experts: int) -> None:
        self._layers = layers
        self._num_experts = num_experts

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        source: ExpertSource,
        backend: Backend,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> "LocalExperts":
        """Read every expert, layer by layer; ``report`` is told (layers done, layers in all)."""
        layers = []
        for layer in range(config.num_layers):
            layers.append(backend.experts(source.expert(layer, expert) for expert in range(config.num_experts)))
            report(layer + 1, config.num_layers)
        return cls(layers, config.num_experts)

    async def __call__(self, call: LayerCall) -> torch.Tensor:
        """Run the layer's experts in a thread, so that the event loop hears its clients meanwhile.

        ComputeError when what they produce is not finite.
        """
        return await asyncio.to_thread(self._run, call)

    @torch.inference_mode()
    def _run(self, call: LayerCall) -> torch.Tensor:
        ids, weights = call.topk_ids.cpu().numpy(), call.topk_weights.cpu().numpy()
        total = run_chosen(self._layers[call.layer], self._num_experts, call.hidden, ids, weights)
        if not is_finite(total):
            bad_rows = ~total.isfinite().all(dim=1)  # [T]
            experts = sorted(set(call.topk_ids[bad_rows].flatten().tolist()))
            raise ComputeError(f"layer {call.layer}, experts {experts}: values that are not finite")
        return total
