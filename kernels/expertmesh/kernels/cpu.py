"""The CPU backend: quantized weights stay packed, dense ones keep their dtype. Knows torch's CPU ops and their costs.

Alphabet: M rows, N output features, K input features, G groups, B outputs of a tile of the packed layout.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch.nn.functional import linear

from expertmesh.kernels.affine import complete
from expertmesh.kernels.backend import Contexts, GroupedFFN, Linear
from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.ffn import Expert, GroupedSwiGLU, SwiGLU
from expertmesh.kernels.int4pack import GROUP_SIZES, PackedInt4, has_fast_bfloat16
from expertmesh.kernels.native.isa import AUTO
from expertmesh.kernels.native.library import load_default
from expertmesh.kernels.native.matrix import NativeMatrix, can_pack
from expertmesh.kernels.native.paged_attention import attend_paged as attend_paged_natively
from expertmesh.kernels.native.swiglu import NativeSwiGLU, silu_gate
from expertmesh.kernels.paged_attention import attend_by_blocks, attend_paged
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.step_ops import TORCH_STEP_OPS
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, Quantized, Weight

# Outputs cast or dequantized at once: 1024 x 4096 in float32 is 16 MB, which the caches of a server still hold.
BLOCK_OUTPUTS = 1024
# Without bfloat16 instructions a bfloat16 product costs the same per row, while float32 pays once for the cast:
# 14336 x 4096 on two AVX2 cores takes 5.9 ms against 10 at 1 row, 43 against 38 at 8.
MAX_ROWS_SLOW_BFLOAT16 = 4
# The int4pack op costs the same for every row, dequantizing costs once: on two AVX2 cores 14336 x 4096 takes
# 190 ms against 458 at 128 rows, 405 against 573 at 256, 767 against 605 at 512.
MIN_ROWS_TO_DEQUANTIZE = 384
# Whose kernels multiply bfloat16 at twice the rate of float32.
BFLOAT16_ISAS = ("avx512-bf16", "amx")


class DenseLinear:
    """A matrix [N, K] on torch's operations: bfloat16 where that is fast, else float32, cast block by block."""

    def __init__(self, data: torch.Tensor) -> None:
        self._data = data
        self.num_bytes = data.nbytes
        self._is_bfloat16 = data.dtype == torch.bfloat16

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, return the dtype of ``x``."""
        if self._is_bfloat16 and (has_fast_bfloat16() or x.shape[0] <= MAX_ROWS_SLOW_BFLOAT16):
            return linear(x.to(torch.bfloat16), self._data).to(x.dtype)
        wide = x.float()
        if self._data.dtype == torch.float32:
            return linear(wide, self._data).to(x.dtype)
        blocks = [linear(wide, block.float()) for block in torch.split(self._data, BLOCK_OUTPUTS)]
        return torch.cat(blocks, dim=-1).to(x.dtype)


class Int4Linear:
    """4-bit codes in the layout of torch's int4pack op."""

    def __init__(self, packed: PackedInt4) -> None:
        self._packed = packed
        self.num_bytes = packed.num_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, return the dtype of ``x``; inside, activations are bfloat16."""
        if x.shape[0] >= MIN_ROWS_TO_DEQUANTIZE and self._packed.can_dequantize:
            return self._packed.dequantize_and_multiply(x, BLOCK_OUTPUTS).to(x.dtype)
        return self._packed.multiply(x.to(torch.bfloat16)).to(x.dtype)


class NativeLinear:
    """Codes of any width, or a matrix of floats, in the layout of the C kernels."""

    def __init__(self, matrix: NativeMatrix) -> None:
        self._matrix = matrix
        self.num_bytes = matrix.num_bytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, return the dtype of ``x``."""
        return self._matrix.multiply(x)


class CpuBackend:
    """Runs on the CPU: on the C kernels if ``is_native`` and they can be built, else on torch's.

    The C kernels round activations to ``activation_bits``, 16 or 8, before codes of up to 4 bits. They are those of the
    instruction set ``isa``, "auto" for the best of this machine; ValueError when it has none of that name.
    """

    can_be_recorded = False
    step_ops = TORCH_STEP_OPS

    def __init__(self, is_native: bool = True, activation_bits: int = 16, isa: str = AUTO) -> None:
        self.name = "cpu" if activation_bits == 16 else "cpu-a8"
        self.device = torch.device("cpu")
        self._activation_bits = activation_bits
        self._library = load_default(isa) if is_native else None

    @property
    def isa(self) -> str:
        """The instruction set of the C kernels, empty without them."""
        return "" if self._library is None else self._library.isa

    @property
    def is_deterministic(self) -> bool:
        """Whether a row's result is the same bits in any company: so it is on the C kernels, not on torch's."""
        return self._library is not None

    @property
    def activation_dtype(self) -> torch.dtype:
        """bfloat16 where that is multiplied faster than float32."""
        is_fast = has_fast_bfloat16() if self._library is None else self._library.isa in BFLOAT16_ISAS
        return torch.bfloat16 if is_fast else torch.float32

    def linear(self, weight: Weight) -> Linear:
        """Keep weights as they are stored where a kernel takes them; other codes become a bfloat16 matrix."""
        if not (isinstance(weight, DenseWeight) or self._is_native(weight) or _fits_int4pack(weight)):
            weight = DenseWeight(dequantize(weight, torch.bfloat16), weight.bias)
        return complete(self._matrix(weight), weight, self.device)

    def _is_native(self, weight: Weight) -> bool:
        return self._library is not None and can_pack(weight)

    def _matrix(self, weight: Weight) -> Linear:
        if self._library is not None and can_pack(weight):
            return NativeLinear(NativeMatrix.pack(self._library, weight, self._activation_bits))
        return DenseLinear(weight.data) if isinstance(weight, DenseWeight) else Int4Linear(PackedInt4.pack(weight))

    def experts(self, experts: Iterable[ExpertWeights]) -> GroupedFFN:
        """Take over the experts of a layer."""
        # A loop would hold the weights of one expert while the next are read.
        return GroupedSwiGLU(list(map(self._expert, experts)))

    def _expert(self, weights: ExpertWeights) -> Expert:
        """Run an expert in one call where a kernel takes it, else matrix by matrix."""
        if self._library is None:
            return SwiGLU.build(weights, self.linear)
        packed = NativeSwiGLU.pack(self._library, weights, self._activation_bits)
        return packed or SwiGLU.build(weights, self.linear, partial(silu_gate, self._library))

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, contexts: Contexts) -> torch.Tensor:
        """Attend where the cache lies; without the C kernels, gather the contexts first."""
        if isinstance(contexts, BlockContexts):
            return attend_by_blocks(self.attend, query, keys, values, contexts)
        if self._library is None:
            return attend_paged(query, keys, values, contexts)
        return attend_paged_natively(self._library, query, keys, values, contexts)


def _fits_int4pack(weight: Quantized) -> bool:
    return weight.bits == 4 and weight.group_size in GROUP_SIZES and weight.shape[0] % 16 == 0
