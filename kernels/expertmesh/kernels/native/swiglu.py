"""A SwiGLU expert that the C kernels run in one call. Knows its matrices and arguments, not how they are multiplied.

Alphabet: R rows, D hidden width, F FFN width.
"""

import ctypes
from ctypes import byref, c_void_p
from dataclasses import dataclass
from typing import Any

import torch

from expertmesh.kernels.native.matrix import STORED_BITS, NativeMatrix, as_rows
from expertmesh.kernels.weights import ExpertWeights, QuantizedWeight, fold_down_order, is_stored_alike


class ExpertArguments(ctypes.Structure):
    """``expert_t`` of the C source."""

    _fields_ = (("gate", c_void_p), ("up", c_void_p), ("down", c_void_p))


@dataclass(frozen=True)
class NativeSwiGLU:
    """y = w_down(silu(gate) * up), float32 between the matrices; ``perm`` [D] is the order of the input features.

    ``run`` and ``scratch_bytes`` are functions of the library.
    """

    gate: NativeMatrix
    up: NativeMatrix
    down: NativeMatrix
    perm: torch.Tensor | None
    arguments: ExpertArguments
    run: Any
    scratch_bytes: Any

    @classmethod
    def pack(cls, library: ctypes.CDLL, weights: ExpertWeights, activation_bits: int = 16) -> "NativeSwiGLU | None":
        """Lay out the matrices of an expert; None where they are not quantized, not alike, or need more than that.

        ``activation_bits`` as in ``NativeMatrix.pack``.
        """
        weights = fold_down_order(weights)
        parts = (weights.w_gate, weights.w_up, weights.w_down)
        quantized = [part for part in parts if isinstance(part, QuantizedWeight) and _is_plain(part)]
        if len(quantized) < len(parts) or not is_stored_alike(*quantized[:2]) or quantized[2].perm is not None:
            return None
        gate, up, down = (NativeMatrix.pack(library, part, activation_bits) for part in quantized)
        arguments = ExpertArguments(*(ctypes.addressof(matrix.arguments) for matrix in (gate, up, down)))
        run, scratch_bytes = library.swiglu_run, library.swiglu_scratch_bytes
        return cls(gate, up, down, quantized[0].perm, arguments, run, scratch_bytes)

    @property
    def num_bytes(self) -> int:
        """Bytes of the matrices."""
        order = 0 if self.perm is None else self.perm.nbytes
        return self.gate.num_bytes + self.up.num_bytes + self.down.num_bytes + order

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the expert on ``x`` [R, D] of any float type; returns [R, D] float32, exact as ``NativeMatrix`` is."""
        x = self.gate.readable(x if self.perm is None else x.index_select(1, self.perm))
        y = torch.empty(x.shape[0], self.down.num_out)  # [R, D]
        expert = byref(self.arguments)
        scratch = torch.empty(self.scratch_bytes(expert, x.shape[0]), dtype=torch.uint8)
        self.run(expert, byref(as_rows(x)), byref(as_rows(y)), scratch.data_ptr(), torch.get_num_threads())
        return y


def _is_plain(weight: QuantizedWeight) -> bool:
    return weight.bits in STORED_BITS and weight.bias is None
