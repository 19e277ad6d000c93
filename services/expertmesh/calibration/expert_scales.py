"""Scales for the experts of one layer: between the norm and gate, w1 and w3, and between w3 and w2 of each expert.

Alphabet: C candidates, T calibration tokens, E experts, M rows of one expert, D hidden width, F FFN width.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

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
IN, ALL = ("w1", "w3"), ("w1", "w2", "w3")


def rescale_experts(forward: ForwardPass, layer: str, rounding: Round) -> dict[str, Rescale]:
    """Find the factors for the experts of ``layer`` ("model.layers.3"), by matrix name, and run them."""
    norm_name, moe = f"{layer}.post_attention_layernorm", f"{layer}.block_sparse_moe"
    norm = forward.weights.values(norm_name)
    x = forward.normalised(norm)  # [T, D]
    search = _Search(x, storable_scales(candidate_scales(moe, x), norm), forward.backend.linear, rounding)
    inner = {}
    for expert, routed in forward.route(moe, x).items():
        prefix = f"{moe}.experts.{expert}"
        parts = {part: forward.weights.matrix(f"{prefix}.{part}") for part in ALL}
        inner[expert] = search.see(prefix, parts, routed)
    forward.hidden = forward.hidden + search.outputs
    shared = search.best()
    rescales = {norm_name: Rescale(outputs=shared)}
    if not forward.config.is_dense:
        rescales[f"{moe}.gate"] = Rescale(inputs=shared)
    for expert in range(forward.config.num_experts):
        rescales |= _rescale_expert(f"{moe}.experts.{expert}", shared, inner.get(expert))
    return rescales


def _rescale_expert(prefix: str, shared: torch.Tensor, inner: torch.Tensor | None) -> dict[str, Rescale]:
    return {
        f"{prefix}.w1": Rescale(inputs=shared),
        f"{prefix}.w3": Rescale(inputs=shared, outputs=inner),
        f"{prefix}.w2": Rescale(inputs=inner),
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

    def see(self, prefix: str, parts: Mapping[str, DenseWeight], routed: Routed) -> torch.Tensor | None:
        """Run an expert on its rows, as it is and rounded; returns the scales [F] between its w3 and w2.

        None where it has too few rows to tell.
        """
        x = self._x[routed.rows]  # [M, D]
        expert = self._build(parts)
        down = Tap(expert.down)
        answers = replace(expert, down=down)(x)  # [M, D]
        self.outputs.index_add_(0, routed.rows, routed.weights * answers)
        for difference, scales in zip(self._differences, self._candidates, strict=True):
            rounded = self._build({**parts, **{part: self._round(prefix, part, parts[part], scales) for part in IN}})
            difference.index_add_(0, routed.rows, routed.weights * (rounded(x) - answers))
        return self._inner_scales(f"{prefix}.w2", parts["w2"], down.rows) if len(x) >= MIN_ROWS else None

    def best(self) -> torch.Tensor:
        """Return the scales [D] that leave the smallest error in the routed, weighted sums of all experts."""
        return best_scales(self._candidates, torch.stack([each.square().sum() for each in self._differences]))

    def _inner_scales(self, name: str, down: DenseWeight, rows: torch.Tensor) -> torch.Tensor:
        candidates = candidate_scales(name, rows)  # [C, F]
        return best_scales(candidates, output_errors({name: down.data}, rows, candidates, self._rounding))

    def _round(self, prefix: str, part: str, plain: DenseWeight, scales: torch.Tensor) -> DenseWeight:
        return DenseWeight(round_scaled(f"{prefix}.{part}", plain.data, scales, self._rounding), plain.bias)

    def _build(self, parts: Mapping[str, DenseWeight]) -> SwiGLU:
        # Not ``SwiGLU.build``: joining w1 and w3 would hold both twice.
        w1, w2, w3 = (self._linear(parts[part]) for part in ALL)
        return SwiGLU((w1, w3), w2)
