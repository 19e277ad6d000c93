"""The ops that the backend is made of, each with its torch twin. Knows launches, not experts.

Alphabet: R rows sorted by expert, E experts, N output features, K input features.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton.language as tl
from torch.nn.functional import linear, silu

from expertmesh.kernels.triton import kernels
from expertmesh.kernels.triton.layout import DenseMatrices, Matrices, PackedMatrices, unpack
from expertmesh.kernels.triton.schedule import schedule_tiles
from expertmesh.kernels.triton.tuning import Tiles, Workload, choose_tiles

DEQUANTIZE_OUTPUTS = 64  # outputs per program of the dequantize kernel
TRITON_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Device:
    """What launches depend on: processors, whether Triton finds tensor cores in them, whether they are NVIDIA's."""

    num_processors: int
    has_tensor_cores: bool
    has_ptx: bool


@dataclass(frozen=True)
class Epilogue:
    """What happens to a product before it is stored.

    ``swiglu``: outputs 2f and 2f + 1 are gate and up of feature f, and silu(gate) * up is stored. ``row_weights`` [R]
    float32 scale the rows. ``dtype`` is that of the result.
    """

    dtype: torch.dtype
    swiglu: bool = False
    row_weights: torch.Tensor | None = None


def grouped_linear(
    x: torch.Tensor, matrices: Matrices, num_rows: Sequence[int], epilogue: Epilogue, device: Device
) -> torch.Tensor:
    """Multiply the rows of each expert by its matrix, in one launch.

    ``x`` [R, K] contiguous holds the rows of the first expert, then of the second, and so on; ``num_rows`` [E]. Returns
    [R, N], or [R, N/2] with ``swiglu``.
    """
    dot_dtype = choose_dot_dtype(x.dtype, device)
    tiles = choose_tiles(_describe(len(x), matrices, num_rows, epilogue, device, dot_dtype), device.num_processors)
    num_columns = matrices.num_out // 2 if epilogue.swiglu else matrices.num_out
    parts_dtype = epilogue.dtype if tiles.split == 1 else torch.float32
    parts = torch.empty(tiles.split, len(x), num_columns, dtype=parts_dtype, device=x.device)
    if len(x):
        # Not pinned, so the copy is staged before this returns; non_blocking keeps it from waiting for the device.
        schedule = schedule_tiles(num_rows, tiles.block_rows).to(x.device, non_blocking=True)
        grid = (len(schedule), -(-matrices.num_out // tiles.block_outputs), tiles.split)
        with _current(x.device):
            kernels.grouped_linear[grid](
                x, *_pointers(matrices), matrices.bias, epilogue.row_weights, schedule, parts, len(x),
                **constants(matrices, tiles, epilogue.swiglu, dot_dtype, device),
                num_warps=tiles.num_warps, num_stages=tiles.num_stages,
            )  # fmt: skip
    return parts[0] if tiles.split == 1 else parts.sum(0).to(epilogue.dtype)


def grouped_linear_torch(
    x: torch.Tensor, matrices: Matrices, num_rows: Sequence[int], epilogue: Epilogue, device: Device
) -> torch.Tensor:
    """Do what ``grouped_linear`` does, in float32, expert by expert."""
    values = unpack(matrices) if isinstance(matrices, PackedMatrices) else matrices.data.float()  # [E, N, K]
    rows = torch.split(x.float(), list(num_rows))
    parts = []
    for expert, part in enumerate(rows):
        order = None if isinstance(matrices, DenseMatrices) or matrices.order is None else matrices.order[expert]
        y = linear(part if order is None else part[:, order], values[expert])
        parts.append(y if matrices.bias is None else y + matrices.bias[expert])
    y = torch.cat(parts)
    if epilogue.swiglu:
        y = silu(y[:, 0::2]) * y[:, 1::2]
    return (y if epilogue.row_weights is None else y * epilogue.row_weights[:, None]).to(epilogue.dtype)


def dequantize(matrices: PackedMatrices, expert: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix [N, K] of one expert in ``dtype``, columns as stored."""
    values = torch.empty(matrices.num_out, matrices.num_in, dtype=dtype, device=matrices.words.device)
    num_spans = matrices.words.shape[1] // matrices.plane_rows
    grid = (num_spans, -(-matrices.num_out // DEQUANTIZE_OUTPUTS))
    tensors = matrices.words[expert], matrices.scales[expert], matrices.zeros[expert]
    with _current(values.device):
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

    float16 needs float16 scales. bfloat16 holds any scale, but is not what AMD's processors compute in.
    """
    if dot_dtype == tl.float16 and matrices.scales.dtype == torch.float16:
        return dot_dtype
    return dot_dtype if dot_dtype == tl.bfloat16 and device.has_ptx else None


def constants(matrices: Matrices, tiles: Tiles, swiglu: bool, dot_dtype: tl.dtype, device: Device) -> dict[str, object]:
    """Name the compile-time arguments of the ``grouped_linear`` kernel."""
    packed = matrices if isinstance(matrices, PackedMatrices) else None
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
        "BLOCK_M": tiles.block_rows,
        "BLOCK_N": tiles.block_outputs,
        "BLOCK_K": tiles.block_inputs,
    }


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


def _current(device: torch.device) -> AbstractContextManager[object]:
    # Triton launches on the current device, whatever device its arguments are on.
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _describe(
    total_rows: int,
    matrices: Matrices,
    num_rows: Sequence[int],
    epilogue: Epilogue,
    device: Device,
    dot_dtype: tl.dtype,
) -> Workload:
    num_active = sum(count > 0 for count in num_rows)
    return Workload(
        rows_per_expert=-(-total_rows // max(num_active, 1)),
        num_active=num_active,
        num_out=matrices.num_out,
        num_in=matrices.num_in,
        bits=matrices.bits if isinstance(matrices, PackedMatrices) else 0,
        has_tensor_cores=has_tensor_cores(dot_dtype, device),
        can_split=not epilogue.swiglu,
    )


def _pointers(matrices: Matrices) -> tuple[torch.Tensor | None, ...]:
    if isinstance(matrices, PackedMatrices):
        return matrices.words, matrices.scales, matrices.zeros, matrices.order
    return matrices.data, None, None, None
