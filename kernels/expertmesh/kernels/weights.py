"""The weights that kernels start from, whatever file they came from. Knows shapes, not files or devices.

Alphabet: N output features, K input features, G = K / group_size groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DenseWeight:
    """A matrix as it is: ``data`` [N, K], float32, float16 or bfloat16."""

    data: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features (N, K)."""
        return self.data.shape[0], self.data.shape[1]


@dataclass(frozen=True)
class QuantizedWeight:
    """Integer codes with a scale and a zero point per group: ``w[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g]``.

    ``codes`` [N, K] uint8 below 2**bits, ``scales`` [N, G] floating point, ``zeros`` [N, G] uint8; g = k // group_size.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features (N, K)."""
        return self.codes.shape[0], self.codes.shape[1]


Weight = DenseWeight | QuantizedWeight


@dataclass(frozen=True)
class ExpertWeights:
    """One SwiGLU expert: y = w_down(silu(w_gate x) * (w_up x)); gate and up are [F, D], down is [D, F]."""

    w_gate: Weight
    w_up: Weight
    w_down: Weight


def stack_outputs(weights: Sequence[Weight]) -> Weight | None:
    """Join matrices over the same input along their outputs, or return None where their storage differs."""
    dense = [weight for weight in weights if isinstance(weight, DenseWeight)]
    if len(dense) == len(weights) and len({weight.data.dtype for weight in dense}) == 1:
        return DenseWeight(torch.cat([weight.data for weight in dense]))
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if len(quantized) < len(weights) or len({(weight.bits, weight.group_size) for weight in quantized}) > 1:
        return None
    return QuantizedWeight(
        codes=torch.cat([weight.codes for weight in quantized]),
        scales=torch.cat([weight.scales for weight in quantized]),
        zeros=torch.cat([weight.zeros for weight in quantized]),
        bits=quantized[0].bits,
        group_size=quantized[0].group_size,
    )
