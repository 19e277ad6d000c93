"""Matrices that the C kernels multiply. Knows their layout and calls; not how they are compiled.

Alphabet: M rows, N output features, K input features, G groups, B outputs of a tile.
"""

import ctypes
from ctypes import byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import torch

from expertmesh.kernels.native.library import Library
from expertmesh.kernels.pages import empty_on_huge_pages
from expertmesh.kernels.weights import DenseWeight, Quantized, QuantizedWeight, StoredWeight, Weight

# Bits that a code takes in the packed layout, for every width of codes, beside activations of 16 and of 8 bits.
STORED_BITS = {2: 2, 3: 3, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
STORED_BITS_BESIDE_INT8 = {2: 2, 3: 4, 4: 4}
INT8_PART = 32  # features of a row that share a scale when they are rounded to 8 bits: PART of int8dot.c
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# Kinds of matrices: beside rows of 16-bit integers, of 8-bit integers, and dense ones.
INT16DOT, INT8DOT, DENSE = range(3)


class MatrixArguments(ctypes.Structure):
    """``matrix_t`` of the C source."""

    _fields_ = (
        ("num_out", c_int64),
        ("num_in", c_int64),
        ("group_size", c_int64),
        ("kind", c_int32),
        ("bits", c_int32),
        ("type", c_int32),
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("offsets", c_void_p),
    )


class RowsArguments(ctypes.Structure):
    """``rows_t`` of the C source."""

    _fields_ = (("data", c_void_p), ("num_rows", c_int64), ("stride", c_int64), ("type", c_int32))


class StreamArguments(ctypes.Structure):
    """``stream_t`` of the C source."""

    _fields_ = (
        ("words", c_void_p),
        ("order", c_void_p),
        ("word_stride", c_int64),
        ("output_stride", c_int64),
        ("bits", c_int32),
        ("is_awq", c_int32),
    )


@dataclass(frozen=True)
class NativeMatrix:
    """A matrix [N, K] in the layout of the C kernels, which depends on the CPU: it is made at load and never stored.

    ``tensors`` own the memory that ``arguments`` points to.
    """

    library: Library
    num_out: int
    num_in: int
    arguments: MatrixArguments
    tensors: tuple[torch.Tensor, ...]

    @classmethod
    def pack(cls, library: Library, weight: Weight, activation_bits: int = 16) -> "NativeMatrix":
        """Lay out a matrix; its ``perm`` and ``bias`` are left to the caller. ValueError when it cannot be.

        Before quantized matrices rows are rounded to ``activation_bits``, 16 or 8; beside codes of more than 4 bits,
        and in groups that are no multiple of 32, always to 16.
        """
        if isinstance(weight, DenseWeight):
            return cls._pack_dense(library, weight)
        _check(weight)
        stored_bits, kind = _stored_bits(weight, activation_bits)
        num_lanes = library.matrix_tile_outputs()
        scales = _tile(weight.scales if weight.scales.dtype in TYPES else weight.scales.float(), num_lanes)
        whole_zeros, offsets = _tell_apart(weight)
        zeros, *offsets = (_tile(values, num_lanes) for values in (whole_zeros, *offsets))
        arguments = MatrixArguments(*weight.shape, weight.group_size, kind, stored_bits, TYPES[scales.dtype])
        arguments.scales, arguments.zeros = scales.data_ptr(), zeros.data_ptr()
        arguments.offsets = next((values.data_ptr() for values in offsets), None)
        return cls._fill(library, arguments, weight, (scales, zeros, *offsets))

    @classmethod
    def _pack_dense(cls, library: Library, weight: DenseWeight) -> "NativeMatrix":
        data = weight.data
        if data.dtype not in TYPES:
            raise ValueError(f"the matrix is {data.dtype}; one of {', '.join(map(str, TYPES))} would be right")
        return cls._fill(library, MatrixArguments(*data.shape, 0, DENSE, 0, TYPES[data.dtype]), weight, ())

    @classmethod
    def _fill(
        cls, library: Library, arguments: MatrixArguments, weight: Weight, tensors: tuple[torch.Tensor, ...]
    ) -> "NativeMatrix":
        packed = empty_on_huge_pages(library.matrix_bytes(byref(arguments)))
        arguments.weights = packed.data_ptr()
        if isinstance(weight, StoredWeight):
            library.matrix_pack_streams(byref(arguments), byref(as_streams(weight)), torch.get_num_threads())
        else:
            source = (weight.data if isinstance(weight, DenseWeight) else weight.codes).contiguous()
            library.matrix_pack(byref(arguments), source.data_ptr(), torch.get_num_threads())
        return cls(library, arguments.num_out, arguments.num_in, arguments, (packed, *tensors))

    @property
    def num_bytes(self) -> int:
        """Bytes of all that is read for a product."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` [M, K] of any float type and return [M, N] in the type of ``x``.

        Other rows and the number of threads do not change a row's result. For a quantized matrix each row is rounded to
        16 bits of the largest value of every 128 features, or to 8 bits of the largest of every 32 (or of a group,
        where groups are smaller), and a row with NaN or Inf gives NaN. ValueError when ``x`` does not fit.
        """
        if x.dtype not in TYPES:
            return self.multiply(x.float()).to(x.dtype)
        x = self.readable(x)
        y = torch.empty(x.shape[0], self.num_out, dtype=x.dtype)  # [M, N]
        matrix, rows = byref(self.arguments), as_rows(x)
        scratch = torch.empty(self.library.matrix_scratch_bytes(matrix, byref(rows)), dtype=torch.uint8)
        self.library.matrix_multiply(
            matrix, byref(rows), byref(as_rows(y)), scratch.data_ptr(), torch.get_num_threads()
        )
        return y

    def readable(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` [M, K] as the kernels can read it; ValueError when it does not fit the matrix."""
        if x.dim() != 2 or x.shape[1] != self.num_in or not x.is_cpu:
            raise ValueError(f"x is {list(x.shape)} on {x.device}; [M, {self.num_in}] on the CPU is right")
        x = x if x.dtype in TYPES else x.float()
        return x if x.stride(1) == 1 else x.contiguous()


def can_pack(weight: Weight) -> bool:
    """Tell whether the C kernels have a layout for the values or codes of ``weight``."""
    return weight.data.dtype in TYPES if isinstance(weight, DenseWeight) else weight.bits in STORED_BITS


def _stored_bits(weight: Quantized, activation_bits: int) -> tuple[int, int]:
    """Return the bits that a code takes, and the kind of the matrix."""
    if activation_bits not in (8, 16):
        raise ValueError(f"activations cannot have {activation_bits} bits; 8 or 16 would be right")
    if activation_bits == 8 and weight.bits in STORED_BITS_BESIDE_INT8 and weight.group_size % INT8_PART == 0:
        return STORED_BITS_BESIDE_INT8[weight.bits], INT8DOT
    return STORED_BITS[weight.bits], INT16DOT


def _check(weight: Quantized) -> None:
    num_out, num_in = weight.shape
    if weight.bits not in STORED_BITS:
        raise ValueError(f"codes have {weight.bits} bits; {min(STORED_BITS)} to {max(STORED_BITS)} would be right")
    if weight.group_size < 1 or num_in % weight.group_size:
        raise ValueError(f"{num_in} input features are no multiple of the group size {weight.group_size}")
    expected = (num_out, num_in // weight.group_size)
    if weight.scales.shape != expected or weight.zeros.shape != expected:
        found = [list(tensor.shape) for tensor in (weight.scales, weight.zeros)]
        raise ValueError(f"scales and zeros are {found[0]} and {found[1]}; {list(expected)} would be right")
    are_bytes = not isinstance(weight, QuantizedWeight) or weight.codes.dtype == torch.uint8
    if not are_bytes or weight.zeros.dtype not in (torch.uint8, torch.float32):
        dtypes = f"{weight.codes.dtype} and {weight.zeros.dtype}"
        raise ValueError(f"codes and zeros are {dtypes}; uint8, and uint8 or float32, would be right")


def _tell_apart(weight: Quantized) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return zeros [N, G] uint8, and offsets [N, G] float32 instead of them where they lie between codes."""
    if weight.zeros.dtype == torch.uint8:
        return weight.zeros, []
    return torch.zeros_like(weight.zeros, dtype=torch.uint8), [-weight.zeros * weight.scales.float()]


def as_streams(weight: StoredWeight) -> StreamArguments:
    """Describe the codes of ``weight``, which must outlive the call, to the C kernels."""
    order = None if weight.order is None else weight.order.data_ptr()
    return StreamArguments(weight.words.data_ptr(), order, *weight.words.stride(), weight.bits, weight.is_awq)


def as_rows(values: torch.Tensor) -> RowsArguments:
    """Describe ``values`` [M, K] of a type in ``TYPES``, features side by side, to the C kernels."""
    return RowsArguments(values.data_ptr(), values.shape[0], values.stride(0), TYPES[values.dtype])


def _tile(values: torch.Tensor, num_lanes: int) -> torch.Tensor:
    """Turn [N, G] into [tiles, G, num_lanes], filled up with zeros."""
    num_out, num_groups = values.shape
    num_tiles = -(-num_out // num_lanes)
    padded = torch.nn.functional.pad(values, (0, 0, 0, num_tiles * num_lanes - num_out))
    return padded.view(num_tiles, num_lanes, num_groups).transpose(1, 2).contiguous()
