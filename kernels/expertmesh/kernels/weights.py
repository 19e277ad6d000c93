"""The weights that kernels start from, whatever file they came from. Knows shapes, not files or devices.

Alphabet: N output features, K input features, G = K / group_size groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from expertmesh.kernels.bitstream import unpack_columns
from expertmesh.kernels.nibbles import CODES_PER_WORD, streams_of_awq


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


@dataclass(frozen=True)
class StoredWeight:
    """What ``QuantizedWeight`` is, with codes as files hold them: those of an output are a bit stream along its inputs.

    ``words`` [W, N] int32, in any strides: value i of output n is bits b * i to b * (i + 1) of column n, b = ``bits``.
    Code j is value ``order[j]`` of the stream ([K] int64), or value j where ``order`` is None. ``is_awq`` words are
    [K, N/8] instead, and hold eight outputs as AWQ does.
    """

    words: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int
    group_size: int
    order: torch.Tensor | None = None
    perm: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    is_awq: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input features (N, K)."""
        return self.words.shape[1] * (CODES_PER_WORD if self.is_awq else 1), self.scales.shape[1] * self.group_size

    @property
    def streams(self) -> torch.Tensor:
        """Words [W, N] of the outputs' streams, whatever the file has."""
        return streams_of_awq(self.words) if self.is_awq else self.words

    @property
    def codes(self) -> torch.Tensor:
        """The codes [N, K] uint8, unpacked anew each time."""
        num_out, num_in = self.shape
        codes = unpack_columns(self.streams, self.bits)[:, :num_in]
        # Takes a third of the time of codes[:, order].
        return codes if self.order is None else codes.gather(1, self.order.expand(num_out, -1))

    def take_outputs(self, rows: torch.Tensor) -> "StoredWeight":
        """Return the matrix with its output features in the order of ``rows`` [N] int64."""
        return replace(
            self,
            words=self.streams[:, rows],
            is_awq=False,
            scales=self.scales[rows],
            zeros=self.zeros[rows],
            bias=None if self.bias is None else self.bias[rows],
        )


Quantized = QuantizedWeight | StoredWeight
Weight = DenseWeight | Quantized


@dataclass(frozen=True)
class ExpertWeights:
    """One SwiGLU expert: y = w_down(silu(w_gate x) * (w_up x)); gate and up are [F, D], down is [D, F]."""

    w_gate: Weight
    w_up: Weight
    w_down: Weight


def stack_outputs(weights: Sequence[Weight]) -> Weight | None:
    """Join matrices over the same input along their outputs, or return None where their storage differs."""
    first = weights[0]
    if not all(is_stored_alike(weight, first) for weight in weights):
        return None
    bias = _stack_biases(weights)
    if isinstance(first, DenseWeight):
        return DenseWeight(torch.cat([weight.data for weight in weights if isinstance(weight, DenseWeight)]), bias)
    quantized = [weight for weight in weights if not isinstance(weight, DenseWeight)]
    scales, zeros = (torch.cat(parts) for parts in zip(*((one.scales, one.zeros) for one in quantized), strict=True))
    if isinstance(first, StoredWeight):
        words = torch.cat([weight.words for weight in quantized if isinstance(weight, StoredWeight)], dim=1)
        return replace(first, words=words, scales=scales, zeros=zeros, bias=bias)
    return replace(first, codes=torch.cat([one.codes for one in quantized]), scales=scales, zeros=zeros, bias=bias)


def is_stored_alike(one: Weight, other: Weight) -> bool:
    """Tell whether values, or codes, scales and input features, of two matrices have the same form and order."""
    if isinstance(one, DenseWeight):
        return isinstance(other, DenseWeight) and one.data.dtype == other.data.dtype
    if isinstance(other, DenseWeight) or type(one) is not type(other):
        return False
    if _form(one) != _form(other):
        return False
    return _is_same_order(one.perm, other.perm) and _are_words_alike(one, other)


def fold_down_order(expert: ExpertWeights) -> ExpertWeights:
    """Let gate and up produce the FFN features in the order in which ``w_down`` stores them, at no cost per row."""
    down = expert.w_down
    if isinstance(down, DenseWeight) or down.perm is None:
        return expert
    return ExpertWeights(
        expert.w_gate.take_outputs(down.perm), expert.w_up.take_outputs(down.perm), replace(down, perm=None)
    )


def describe(tensor: torch.Tensor) -> str:
    """Name dtype and shape of a tensor, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _form(weight: Quantized) -> tuple[object, ...]:
    return weight.bits, weight.group_size, weight.scales.dtype, weight.zeros.dtype


def _is_same_order(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _are_words_alike(one: Quantized, other: Quantized) -> bool:
    if not (isinstance(one, StoredWeight) and isinstance(other, StoredWeight)):
        return True
    return one.is_awq == other.is_awq and _is_same_order(one.order, other.order)


def _stack_biases(weights: Sequence[Weight]) -> torch.Tensor | None:
    device = next((weight.bias.device for weight in weights if weight.bias is not None), None)
    if device is None:
        return None
    zeros = (torch.zeros(weight.shape[0], device=device) for weight in weights)
    return torch.cat(
        [zero if weight.bias is None else weight.bias for weight, zero in zip(weights, zeros, strict=True)]
    )
