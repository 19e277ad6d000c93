"""Scales for the experts of one layer: from the norm to what reads it, and from w_up to w_down of each expert.

Alphabet: C candidates, T calibration tokens, E experts, M rows of one expert, D hidden width, F FFN width.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from expertmesh.architectures.tensor_table import Role, Specs
from expertmesh.calibration.activations import ForwardPass, Routed, Tap
from expertmesh.calibration.search import (
    Round,
    best_scales,
    candidate_scales,
    output_errors,
    round_scaled,
    storable_scales,
)
from expertmesh.checkpoint.rescale import Rescale
from expertmesh.kernels.backend import Linear
from expertmesh.kernels.ffn import SwiGLU
from expertmesh.kernels.weights import DenseWeight, Weight

# Fewer rows say too little about which channels of an expert matter.
MIN_ROWS = 32
# The matrices that read what the norm gives, and all of them.
IN: tuple[Role, ...] = ("w_gate", "w_up")
ALL: tuple[Role, ...] = (*IN, "w_down")

Parts = Mapping[Role, DenseWeight]


def rescale_experts(forward: ForwardPass, layer: int, rounding: Round) -> dict[str, Rescale]:
    """Find the factors for the experts of ``layer``, by the names of matrices, and run them."""
    specs, experts = forward.tensors.layer(layer), range(forward.config.num_experts)
    norm = forward.weights.tensor(specs["expert_norm"])
    x = forward.normalised(norm)  # [T, D]
    matrices = [forward.tensors.expert(layer, expert) for expert in experts]
    candidates = storable_scales(candidate_scales(matrices[0]["w_gate"].name, x), norm)
    search = _Search(x, candidates, forward.backend.linear, rounding)
    inner = {}
    for expert, routed in forward.route(specs, x).items():
        parts = {role: forward.weights.weight(matrices[expert][role]) for role in ALL}
        inner[expert] = search.see(matrices[expert], parts, routed)
    forward.hidden = forward.hidden + search.outputs
    shared = search.best()
    rescales = {specs["expert_norm"].name: Rescale(outputs=shared)}
    if "gate" in specs:
        rescales[specs["gate"].name] = Rescale(inputs=shared)
    for expert in experts:
        rescales |= _rescale_expert(matrices[expert], shared, inner.get(expert))
    return rescales


def _rescale_expert(specs: Specs, shared: torch.Tensor, inner: torch.Tensor | None) -> dict[str, Rescale]:
    return {
        specs["w_gate"].name: Rescale(inputs=shared),
        specs["w_up"].name: Rescale(inputs=shared, outputs=inner),
        specs["w_down"].name: Rescale(inputs=inner),
    }


class _Search:
    """Sees one expert after the other, so that only one is in memory, and picks at the end the scales they share."""

    def __init__(
        self, x: torch.Tensor, candidates: torch.Tensor, linear: Callable[[Weight], Linear], rounding: Round
    ) -> None:
        self._x = x  # [T, D]
        self._candidates = candidates  # [C, D]
        self._linear = linear
        self._rounding = rounding
        self._differences = torch.zeros((len(candidates), *x.shape), device=x.device)  # [C, T, D]
        self.outputs = torch.zeros_like(x)  # [T, D]

    def see(self, specs: Specs, parts: Parts, routed: Routed) -> torch.Tensor | None:
        """Run an expert on its rows, as it is and rounded; returns the scales [F] between its w_up and w_down.

        None where it has too few rows to tell.
        """
        x = self._x[routed.rows]  # [M, D]
        expert = self._build(parts)
        down = Tap(expert.down)
        answers = replace(expert, down=down)(x)  # [M, D]
        self.outputs.index_add_(0, routed.rows, routed.weights * answers)
        for difference, scales in zip(self._differences, self._candidates, strict=True):
            rounded = self._build(
                {**parts, **{role: self._round(specs[role].name, parts[role], scales) for role in IN}}
            )
            difference.index_add_(0, routed.rows, routed.weights * (rounded(x) - answers))
        return self._inner_scales(specs["w_down"].name, parts["w_down"], down.rows) if len(x) >= MIN_ROWS else None

    def best(self) -> torch.Tensor:
        """Return the scales [D] that leave the smallest error in the routed, weighted sums of all experts."""
        return best_scales(self._candidates, torch.stack([each.square().sum() for each in self._differences]))

    def _inner_scales(self, name: str, down: DenseWeight, rows: torch.Tensor) -> torch.Tensor:
        candidates = candidate_scales(name, rows)  # [C, F]
        return best_scales(candidates, output_errors({name: down.data}, rows, candidates, self._rounding))

    def _round(self, name: str, plain: DenseWeight, scales: torch.Tensor) -> DenseWeight:
        return DenseWeight(round_scaled(name, plain.data, scales, self._rounding), plain.bias)

    def _build(self, parts: Parts) -> SwiGLU:
        # Not ``SwiGLU.build``: joining gate and up would hold both twice.
        w_gate, w_up, w_down = (self._linear(parts[role]) for role in ALL)
        return SwiGLU((w_gate, w_up), w_down)
