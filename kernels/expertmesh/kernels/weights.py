"""The weights that kernels start from, whatever file they came from. Knows shapes, not files or devices.

Alphabet: N output features, K input features, G = K / group_size groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class DenseWeight:
    """A matrix as it is: ``data`` [N, K], float32, float16 or bfloat16; ``bias`` [N] is added to its outputs."""

    data: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features (N, K)."""
        return self.data.shape[0], self.data.shape[1]

    def take_outputs(self, rows: torch.Tensor) -> "DenseWeight":
        """Return the matrix with its output features in the order of ``rows`` [N] int64."""
        return DenseWeight(self.data[rows], None if self.bias is None else self.bias[rows])


@dataclass(frozen=True)
class QuantizedWeight:
    """Integer codes with a scale and a zero point per group: ``w[n, j] = (codes[n, j] - zeros[n, g]) * scales[n, g]``.

    ``codes`` [N, K] uint8 below 2**bits, ``scales`` [N, G] floating point; ``zeros`` [N, G] uint8, or float32 where
    they lie between codes or beyond; g = j // group_size.
    Column j belongs to input feature ``perm[j]`` ([K] int64, GPTQ's act-order), or to feature j where ``perm`` is None.
    ``bias`` [N] is added to the outputs.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int
    group_size: int
    perm: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features (N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    def take_outputs(self, rows: torch.Tensor) -> "QuantizedWeight":
        """Return the matrix with its output features in the order of ``rows`` [N] int64."""
        return replace(
            self,
            codes=self.codes[rows],
            scales=self.scales[rows],
            zeros=self.zeros[rows],
            bias=None if self.bias is None else self.bias[rows],
        )


Weight = DenseWeight | QuantizedWeight


@dataclass(frozen=True)
class ExpertWeights:
    """One SwiGLU expert: y = w_down(silu(w_gate x) * (w_up x)); gate and up are [F, D], down is [D, F]."""

    w_gate: Weight
    w_up: Weight
    w_down: Weight


def stack_outputs(weights: Sequence[Weight]) -> Weight | None:
    """Join matrices over the same input along their outputs, or return None where their storage differs."""
    if not all(is_stored_alike(weight, weights[0]) for weight in weights):
        return None
    bias, first = _stack_biases(weights), weights[0]
    if isinstance(first, DenseWeight):
        return DenseWeight(torch.cat([weight.data for weight in weights if isinstance(weight, DenseWeight)]), bias)
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    return replace(
        first,
        codes=torch.cat([weight.codes for weight in quantized]),
        scales=torch.cat([weight.scales for weight in quantized]),
        zeros=torch.cat([weight.zeros for weight in quantized]),
        bias=bias,
    )


def is_stored_alike(one: Weight, other: Weight) -> bool:
    """Tell whether values, or codes, scales and input features, of two matrices have the same form and order."""
    if isinstance(one, DenseWeight):
        return isinstance(other, DenseWeight) and one.data.dtype == other.data.dtype
    if isinstance(other, DenseWeight):
        return False
    if _form(one) != _form(other):
        return False
    if one.perm is None or other.perm is None:
        return one.perm is other.perm
    return torch.equal(one.perm, other.perm)


def fold_down_order(expert: ExpertWeights) -> ExpertWeights:
    """Let gate and up produce the FFN features in the order in which ``w_down`` stores them, at no cost per row."""
    down = expert.w_down
    if not isinstance(down, QuantizedWeight) or down.perm is None:
        return expert
    return ExpertWeights(
        expert.w_gate.take_outputs(down.perm), expert.w_up.take_outputs(down.perm), replace(down, perm=None)
    )


def describe(tensor: torch.Tensor) -> str:
    """Name dtype and shape of a tensor, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _form(weight: QuantizedWeight) -> tuple[object, ...]:
    return weight.bits, weight.group_size, weight.scales.dtype, weight.zeros.dtype


def _stack_biases(weights: Sequence[Weight]) -> torch.Tensor | None:
    device = next((weight.bias.device for weight in weights if weight.bias is not None), None)
    if device is None:
        return None
    zeros = (torch.zeros(weight.shape[0], device=device) for weight in weights)
    return torch.cat(
        [zero if weight.bias is None else weight.bias for weight, zero in zip(weights, zeros, strict=True)]
    )
