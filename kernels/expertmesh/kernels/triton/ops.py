"""The ops that the backend is made of, each with its torch twin. Knows launches, not experts.

Alphabet: T rows, A experts chosen for each, C = T * A choices; E experts, N output features, K input features,
S sums that are stored for each product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton.language as tl
from torch.nn.functional import linear, silu

from expertmesh.kernels.triton import kernels
from expertmesh.kernels.triton.launching import on_device
from expertmesh.kernels.triton.layout import DenseMatrices, Matrices, PackedMatrices, unpack
from expertmesh.kernels.triton.routing import Schedule, combine
from expertmesh.kernels.triton.tuning import Tiles, choose_split, list_tiles, spreads_parts

DEQUANTIZE_OUTPUTS = 64  # outputs per program of the dequantize kernel
MAX_VALUES = 2**31  # kernels count the values of rows in 32 bits
TRITON_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Device:
    """What launches depend on: whether Triton finds tensor cores, whether they are NVIDIA's, tiles for packed weights.

    ``packed`` is a table as ``tile_tables`` keeps them.
    """

    has_tensor_cores: bool
    has_ptx: bool
    packed: Sequence[Tiles]


@dataclass(frozen=True)
class Product:
    """What a launch multiplies by, how it is cut, and whether silu(gate) * up is stored, which gathers its rows."""

    matrices: Matrices
    tiles: Tiles
    device: Device
    swiglu: bool = False


def swiglu(x: torch.Tensor, matrices: Matrices, order: Schedule, tiles: Tiles, device: Device) -> torch.Tensor:
    """Multiply rows of ``x`` [T, K] by their experts' matrices; returns silu(gate) * up [C, N/2] as ``order`` has it.

    Outputs 2f and 2f + 1 are gate and up of feature f. The result has the dtype of ``x``; past the last choice of an
    expert it is undefined. ValueError for 2^31 values of ``x`` or more.
    """
    if x.numel() >= MAX_VALUES:
        raise ValueError(f"x {list(x.shape)} has {x.numel()} values; give fewer than {MAX_VALUES}, in several calls")
    y = torch.empty(len(order.rows), matrices.num_out // 2, dtype=x.dtype, device=x.device)
    _launch(x.contiguous(), order, y.unsqueeze(0), Product(matrices, tiles, device, swiglu=True))
    return y


def swiglu_torch(x: torch.Tensor, matrices: Matrices, order: Schedule, tiles: Tiles, device: Device) -> torch.Tensor:
    """Do what ``swiglu`` does, in float32."""
    y = _multiply_torch(x.float()[order.rows.long()], matrices, order)
    return (silu(y[:, 0::2]) * y[:, 1::2]).to(x.dtype)


def products(x: torch.Tensor, matrices: Matrices, order: Schedule, tiles: Tiles, device: Device) -> torch.Tensor:
    """Multiply ``x`` [C, K], which lies as ``order`` has it, by the experts' matrices.

    Returns [S, C, N] float32, of which the sum is wanted. Past the last choice of an expert they are undefined.
    """
    num_parts = count_stored_parts(matrices, tiles)
    parts = torch.empty(num_parts, len(x), matrices.num_out, dtype=torch.float32, device=x.device)
    _launch(x, order, parts, Product(matrices, tiles, device))
    return parts


def products_torch(x: torch.Tensor, matrices: Matrices, order: Schedule, tiles: Tiles, device: Device) -> torch.Tensor:
    """Do what ``products`` does, in one part."""
    return _multiply_torch(x.float(), matrices, order).unsqueeze(0)


def multiply(x: torch.Tensor, matrices: Matrices, tiles: Tiles, device: Device) -> torch.Tensor:
    """Multiply ``x`` [M, K] by the one matrix there is; returns [M, N] in the dtype of ``x``."""
    num_parts = count_stored_parts(matrices, tiles)
    dtype = x.dtype if num_parts == 1 else torch.float32
    parts = torch.empty(num_parts, len(x), matrices.num_out, dtype=dtype, device=x.device)
    _launch(x.contiguous(), None, parts, Product(matrices, tiles, device))
    return parts[0] if num_parts == 1 else combine(parts, None, torch.empty_like(parts[0], dtype=x.dtype))


def multiply_torch(x: torch.Tensor, matrices: Matrices, tiles: Tiles, device: Device) -> torch.Tensor:
    """Do what ``multiply`` does, in float32."""
    return _multiply_expert_torch(x.float(), matrices, 0).to(x.dtype)


def dequantize(matrices: PackedMatrices, expert: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix [N, K] of one expert in ``dtype``, columns as stored."""
    values = torch.empty(matrices.num_out, matrices.num_in, dtype=dtype, device=matrices.words.device)
    num_spans = matrices.words.shape[1] // matrices.plane_rows
    grid = (num_spans, -(-matrices.num_out // DEQUANTIZE_OUTPUTS))
    tensors = matrices.words[expert], matrices.scales[expert], matrices.zeros[expert]
    with on_device(values.device):
        kernels.dequantize[grid](*tensors, values, **dequantize_constants(matrices))
    return values


def dequantize_torch(matrices: PackedMatrices, expert: int, dtype: torch.dtype) -> torch.Tensor:
    """Do what ``dequantize`` does."""
    return unpack(matrices)[expert].to(dtype)


def choose_dot_dtype(dtype: torch.dtype, device: Device) -> tl.dtype:
    """Multiply in the dtype of the rows; without tensor cores for bfloat16 in float32, which holds all its values."""
    return tl.float32 if dtype == torch.bfloat16 and not device.has_tensor_cores else TRITON_DTYPES[dtype]


def has_tensor_cores(dot_dtype: tl.dtype, device: Device) -> bool:
    """Whether products of ``dot_dtype`` run on tensor cores: float32 ones are computed exactly, so never."""
    return device.has_tensor_cores and dot_dtype != tl.float32


def choose_unpack_dtype(matrices: PackedMatrices, dot_dtype: tl.dtype, device: Device) -> tl.dtype | None:
    """Unpack in 16 bits where that costs nothing but the rounding of scales and values, else in float32 (None).

    float16 needs float16 scales. bfloat16 holds any scale, but is not what AMD's processors compute in. Neither tells
    zeros between codes from codes.
    """
    if matrices.zeros.dtype != torch.uint8:
        return None
    if dot_dtype == tl.float16 and matrices.scales.dtype == torch.float16:
        return dot_dtype
    return dot_dtype if dot_dtype == tl.bfloat16 and device.has_ptx else None


def tiles_of(matrices: Matrices, dtype: torch.dtype, device: Device) -> Sequence[Tiles]:
    """Return the tiles to choose from for rows of ``dtype``."""
    bits = matrices.bits if isinstance(matrices, PackedMatrices) else 0
    return list_tiles(device.packed, bits, has_tensor_cores(choose_dot_dtype(dtype, device), device))


def count_stored_parts(matrices: Matrices, tiles: Tiles) -> int:
    """Return how many sums are stored for each product: one for each part of K, or one for all."""
    gathers_inputs = isinstance(matrices, PackedMatrices) and matrices.order is not None
    return choose_split(matrices.num_out, matrices.num_in) if spreads_parts(tiles, gathers_inputs) else 1


def constants(matrices: Matrices, tiles: Tiles, swiglu: bool, dot_dtype: tl.dtype, device: Device) -> dict[str, object]:
    """Name the compile-time arguments of the ``grouped_linear`` kernel."""
    packed = matrices if isinstance(matrices, PackedMatrices) else None
    num_parts = 1 if swiglu else choose_split(matrices.num_out, matrices.num_in)
    return {
        "NUM_IN": matrices.num_in,
        "NUM_OUT": matrices.num_out,
        "NUM_WORDS": packed.words.shape[1] if packed else 0,
        "NUM_GROUPS": packed.scales.shape[1] if packed else 0,
        "BITS": packed.bits if packed else 0,
        "GROUP_SIZE": packed.group_size if packed else 0,
        "PLANE": packed.plane_rows if packed else 0,
        "SWIGLU": swiglu,
        "DOT": dot_dtype,
        "HALF": choose_unpack_dtype(packed, dot_dtype, device) if packed else None,
        "PTX": device.has_ptx,
        "NUM_PARTS": num_parts,
        "PARTS_PER_PROGRAM": 1 if swiglu else num_parts // count_stored_parts(matrices, tiles),
        "BLOCK_M": tiles.block_rows,
        "BLOCK_N": tiles.block_outputs,
        "BLOCK_K": tiles.block_inputs,
    }


def launch_options(tiles: Tiles, device: Device) -> dict[str, int]:
    """Name the compiler's options for the ``grouped_linear`` kernel."""
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    # AMD's matrix instructions have 16 or 32 columns: all tiles take those that the smallest one can.
    return options if device.has_ptx else {**options, "matrix_instr_nonkdim": 16}


def dequantize_constants(matrices: PackedMatrices) -> dict[str, object]:
    """Name the compile-time arguments of the ``dequantize`` kernel."""
    return {
        "NUM_IN": matrices.num_in,
        "NUM_OUT": matrices.num_out,
        "BITS": matrices.bits,
        "GROUP_SIZE": matrices.group_size,
        "PLANE": matrices.plane_rows,
        "BLOCK_N": DEQUANTIZE_OUTPUTS,
    }


def _launch(x: torch.Tensor, order: Schedule | None, y: torch.Tensor, product: Product) -> None:
    """Write to ``y`` [S, positions, columns] the product of rows of ``x``; without ``order`` there is one expert."""
    matrices, tiles, device = product.matrices, product.tiles, product.device
    num_parts, num_positions, _ = y.shape
    if not num_positions:
        return
    num_tiles = len(order.tiles) if order else -(-num_positions // tiles.block_rows)
    grid = (num_tiles, -(-matrices.num_out // tiles.block_outputs), num_parts)
    dot_dtype = choose_dot_dtype(x.dtype, device)
    with on_device(x.device):
        kernels.grouped_linear[grid](
            x, order.rows if order and product.swiglu else None, *_pointers(matrices), matrices.bias,
            order.tiles if order else None, y, num_positions,
            **constants(matrices, tiles, product.swiglu, dot_dtype, device), **launch_options(tiles, device),
        )  # fmt: skip


def _multiply_torch(x: torch.Tensor, matrices: Matrices, order: Schedule) -> torch.Tensor:
    """Multiply each position of ``x`` [C, K] by its expert's matrix, in float32; nothing where there is no expert."""
    y = torch.zeros(len(x), matrices.num_out, device=x.device)
    for expert, first, end in order.tiles.tolist():
        if expert >= 0:
            y[first:end] = _multiply_expert_torch(x[first:end], matrices, expert)
    return y


def _multiply_expert_torch(x: torch.Tensor, matrices: Matrices, expert: int) -> torch.Tensor:
    if isinstance(matrices, DenseMatrices):
        values = matrices.data[expert].float()  # [N, K]
    else:
        values = unpack(matrices)[expert]
        x = x if matrices.order is None else x[:, matrices.order[expert]]
    return linear(x, values, None if matrices.bias is None else matrices.bias[expert])


def _pointers(matrices: Matrices) -> tuple[torch.Tensor | None, ...]:
    if isinstance(matrices, PackedMatrices):
        return matrices.words, matrices.scales, matrices.zeros, matrices.order
    return matrices.data, None, None, None
