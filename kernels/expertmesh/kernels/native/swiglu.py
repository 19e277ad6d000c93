"""A SwiGLU expert that the C kernels run in one call. Knows its matrices and arguments, not how they are multiplied.

Alphabet: R rows, D hidden width, F FFN width.
"""

import ctypes
from ctypes import byref, c_void_p
from dataclasses import dataclass

import torch

from expertmesh.kernels.native.library import Library
from expertmesh.kernels.native.matrix import NativeMatrix, as_rows, can_pack
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, Weight, fold_down_order, is_stored_alike


class ExpertArguments(ctypes.Structure):
    """``expert_t`` of the C source."""

    _fields_ = (("gate", c_void_p), ("up", c_void_p), ("down", c_void_p))


@dataclass(frozen=True)
class NativeSwiGLU:
    """y = w_down(silu(gate) * up); ``perm`` [D] is the order of the input features.

    Between the matrices values are float32, before a dense one of the dtype of the rows.
    """

    library: Library
    gate: NativeMatrix
    up: NativeMatrix
    down: NativeMatrix
    perm: torch.Tensor | None
    arguments: ExpertArguments

    @classmethod
    def pack(cls, library: Library, weights: ExpertWeights, activation_bits: int = 16) -> "NativeSwiGLU | None":
        """Lay out the matrices of an expert; None where gate and up are not stored alike, or more is needed.

        ``activation_bits`` as in ``NativeMatrix.pack``.
        """
        weights = fold_down_order(weights)
        parts = (weights.w_gate, weights.w_up, weights.w_down)
        is_plain = all(can_pack(part) and part.bias is None for part in parts)
        if not (is_plain and is_stored_alike(*parts[:2])) or _order(weights.w_down) is not None:
            return None
        gate, up, down = (NativeMatrix.pack(library, part, activation_bits) for part in parts)
        arguments = ExpertArguments(*(ctypes.addressof(matrix.arguments) for matrix in (gate, up, down)))
        return cls(library, gate, up, down, _order(weights.w_gate), arguments)

    @property
    def num_bytes(self) -> int:
        """Bytes of the matrices."""
        order = 0 if self.perm is None else self.perm.nbytes
        return self.gate.num_bytes + self.up.num_bytes + self.down.num_bytes + order

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the expert on ``x`` [R, D] of any float type; returns [R, D] float32, exact as ``NativeMatrix`` is."""
        x = self.gate.readable(x if self.perm is None else x.index_select(1, self.perm))
        y = torch.empty(x.shape[0], self.down.num_out)  # [R, D]
        expert, rows = byref(self.arguments), as_rows(x)
        scratch = torch.empty(self.library.swiglu_scratch_bytes(expert, byref(rows)), dtype=torch.uint8)
        self.library.swiglu_run(expert, byref(rows), byref(as_rows(y)), scratch.data_ptr(), torch.get_num_threads())
        return y


def silu_gate(library: Library, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up, all [R, F] of one float type, for experts whose matrices are multiplied one by one.

    Unlike torch's, the result of a row does not depend on the others.
    """
    y = torch.empty(gate.shape, dtype=gate.dtype)
    rows = (byref(as_rows(values)) for values in (gate, up, y))
    library.swiglu_activate(*rows, gate.shape[1], torch.get_num_threads())
    return y


def _order(weight: Weight) -> torch.Tensor | None:
    return None if isinstance(weight, DenseWeight) else weight.perm
