"""Compiling the kernels for a GPU that is not there, and what they take of it. Knows targets, runs nothing.

What comes out is the machine code that a launch would use, so registers, spills and shared memory can be read off.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from expertmesh.kernels.triton import (
    attention,
    attention_kernels,
    kernels,
    ops,
    routing,
    step_kernels,
    step_ops,
    tuning,
)
from expertmesh.kernels.triton.attention_kernels import Heads
from expertmesh.kernels.triton.attention_tuning import (
    NUM_STRIPES,
    AttentionTiles,
    Products,
    choose_attention_tiles,
    choose_combining_tiles,
)
from expertmesh.kernels.triton.layout import Matrices, PackedMatrices, lay_out
from expertmesh.kernels.triton.tile_tables import DEFAULT_GPU, SHIPPED, file_of, read_tiles
from expertmesh.kernels.triton.tuning import Tiles
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, Weight

TARGETS = {
    "sm_75": GPUTarget("cuda", 75, 32),
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
NO_TENSOR_CORES = ("sm_75",)
PRODUCTS = {"sm_75": Products.SCALAR, "sm_80": Products.MMA, "sm_90": Products.WGMMA, "gfx942": Products.MFMA}
# Shared memory of one program, bytes. 8.x of the desktop and 9.0 have 99 and 227 KiB, 8.0 has 163.
MAX_SHARED_BYTES = {"sm_75": 64 << 10, "sm_80": 99 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
}
Argument = TypeVar("Argument")


@dataclass(frozen=True)
class Resources:
    """What a program takes: registers per thread, bytes of spilled registers per thread, bytes of shared memory.

    ``matrix_instructions`` names those of tensor cores, with * for the number of columns of a wgmma.
    """

    num_registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: frozenset[str]


def device_of(target: str) -> ops.Device:
    """What launches on ``target`` depend on, with the tiles of GPUs that have no table of their own."""
    is_nvidia = TARGETS[target].backend == "cuda"
    packed = read_tiles(file_of(DEFAULT_GPU, SHIPPED))
    return ops.Device(has_tensor_cores=target not in NO_TENSOR_CORES, has_ptx=is_nvidia, packed=packed)


@dataclass(frozen=True)
class StepShape:
    """What the operations between matrices depend on; ``heads`` are query heads, key-value heads and their width.

    ``normed_width`` is what of queries and keys is normalised at a time.
    """

    width: int
    heads: tuple[int, int, int]
    num_experts: int
    num_chosen: int
    is_renormalised: bool = True
    normed_width: int = 128


@dataclass(frozen=True)
class Format:
    """How a matrix is stored: bits per weight (16: dense bfloat16), group size (0: one group), act-order, bias.

    Zeros are codes, or ``zeros_between`` them.
    """

    bits: int
    group_size: int = 0
    act_order: bool = False
    bias: bool = False
    zeros_between: bool = False

    def lay_out(self, num_out: int, num_in: int) -> Matrices:
        """Lay out a matrix [num_out, num_in] without values, on the meta device."""
        bias = torch.empty(num_out, device="meta") if self.bias else None
        if self.bits == 16:
            weight: Weight = DenseWeight(torch.empty(num_out, num_in, dtype=torch.bfloat16, device="meta"), bias)
        else:
            group_size = self.group_size or num_in
            groups = (num_out, num_in // group_size)
            weight = QuantizedWeight(
                codes=torch.empty(num_out, num_in, dtype=torch.uint8, device="meta"),
                scales=torch.empty(groups, dtype=torch.float16, device="meta"),
                zeros=torch.empty(groups, dtype=torch.float32 if self.zeros_between else torch.uint8, device="meta"),
                bits=self.bits,
                group_size=group_size,
                perm=torch.empty(num_in, dtype=torch.int64, device="meta") if self.act_order else None,
                bias=bias,
            )
        return lay_out([weight], torch.device("meta"))


FORMATS = {
    "2 bits g64": Format(2, 64),
    "3 bits g128": Format(3, 128),
    "4 bits g128": Format(4, 128),
    "4 bits g16": Format(4, 16),
    "4 bits g32, zeros between codes": Format(4, 32, zeros_between=True),
    "4 bits g128 act-order": Format(4, 128, act_order=True, bias=True),
    "8 bits g128": Format(8, 128),
    "bfloat16": Format(16),
}


def list_tiles(form: Format, target: str) -> Sequence[Tiles]:
    """Return the tile sizes that launches on ``target`` choose from, for rows of 16 bits."""
    device = device_of(target)
    return tuning.list_tiles(device.packed, 0 if form.bits == 16 else form.bits, device.has_tensor_cores)


def compile_grouped_linear(
    matrices: Matrices, dtype: torch.dtype, tiles: Tiles, swiglu: bool, target: str, is_alone: bool = False
) -> Resources:
    """Compile the launch of ``ops.swiglu`` or ``ops.products`` on rows of ``dtype``; ``matrices`` may be on meta.

    ``is_alone``: that of ``ops.multiply``, by one matrix.
    """
    device = device_of(target)
    dot_dtype = ops.choose_dot_dtype(dtype, device)
    packed = matrices if isinstance(matrices, PackedMatrices) else None
    pointers = {
        "x": dtype,
        "rows": torch.int32 if swiglu else None,
        "weights": packed.words.dtype if packed else matrices.data.dtype,  # type: ignore[union-attr]
        "scales": packed.scales.dtype if packed else None,
        "zeros": packed.zeros.dtype if packed else None,
        "order": torch.int32 if packed and packed.order is not None else None,
        "bias": None if matrices.bias is None else torch.float32,
        "tiles": None if is_alone else torch.int32,
        "y": dtype if swiglu else torch.float32,
    }
    constants = ops.constants(matrices, tiles, swiglu, dot_dtype, device)
    return _compile(kernels.grouped_linear, pointers, constants, ops.launch_options(tiles, device), target)


def compile_schedule(num_chosen: int, num_experts: int, block_rows: int, target: str) -> Resources:
    """Compile the launch of ``routing.schedule``."""
    names = ("slots", "rows", "positions", "tiles")
    constants = routing.schedule_constants(num_chosen, num_experts, block_rows)
    return _compile(kernels.schedule, dict.fromkeys(names, torch.int32), constants, {}, target)


def compile_combine(num_parts: int, num_columns: int, num_chosen: int | None, target: str) -> Resources:
    """Compile the launch of ``routing.combine``; with ``num_chosen`` None, that of ``ops.multiply``, to bfloat16."""
    has_choices = num_chosen is not None
    pointers = {
        "parts": torch.float32,
        "positions": torch.int32 if has_choices else None,
        "weights": torch.float32 if has_choices else None,
        "y": torch.float32 if has_choices else torch.bfloat16,
        "nonfinite": torch.int32 if has_choices else None,
    }
    constants = routing.combine_constants(num_parts, num_columns, num_chosen or 1)
    return _compile(kernels.combine, pointers, constants, routing.COMBINE_OPTIONS, target)


def compile_dequantize(matrices: PackedMatrices, dtype: torch.dtype, target: str) -> Resources:
    """Compile the launch of ``ops.dequantize`` to ``dtype``; ``matrices`` may be on the meta device."""
    pointers: dict[str, torch.dtype | None] = {
        "words": matrices.words.dtype,
        "scales": matrices.scales.dtype,
        "zeros": matrices.zeros.dtype,
        "y": dtype,
    }
    return _compile(kernels.dequantize, pointers, ops.dequantize_constants(matrices), {}, target)


def compile_attention(heads: Heads, dtype: torch.dtype, target: str) -> dict[str, Resources]:
    """Compile the launches of ``attention.attend_blocks`` on rows of ``dtype``; by name of the kernel."""
    products = Products.SCALAR if dtype == torch.float32 else PRODUCTS[target]
    tiles = choose_attention_tiles(products, heads.width, heads.sharing)
    launches = {
        attention_kernels.attend_split: tiles.decode,
        attention_kernels.combine_splits: choose_combining_tiles(tiles.decode, heads.width, heads.sharing),
        attention_kernels.attend_tiles: tiles.mixed,
    }
    return {
        kernel.__name__: _compile_attention(kernel, heads, tiles, dtype, products, target)
        for kernel, tiles in launches.items()
    }


def compile_step_ops(shape: StepShape, dtype: torch.dtype, target: str) -> dict[str, Resources]:
    """Compile the launches of ``TritonStepOps`` on rows of ``dtype``; by name of the kernel."""
    rows = dict.fromkeys(("hidden", "weight", "out"), dtype)
    heads = dict.fromkeys(("joined", "cos", "sin", "keys", "values", "query"), dtype)
    width, (num_heads, num_kv_heads, head_width) = shape.width, shape.heads
    launches: Sequence[tuple[triton.JITFunction[object], dict[str, torch.dtype], dict[str, object], int]] = (
        (
            step_kernels.add_and_normalise,
            {**rows, "delta": torch.float32},
            step_ops.norm_constants(width, 1e-5),
            step_ops.num_warps(width),
        ),
        (
            step_kernels.normalise_heads,
            {"heads": dtype, "weight": dtype},
            step_ops.norm_constants(shape.normed_width, 1e-6),
            step_ops.num_warps(shape.normed_width),
        ),
        (
            step_kernels.rotate_and_store,
            {**heads, "slots": torch.int64},
            step_ops.rotation_constants(num_heads, num_kv_heads, head_width),
            1,
        ),
        (
            step_kernels.choose_experts,
            {"logits": dtype, "lengths": torch.int32, "ids": torch.int32, "weights": torch.float32},
            step_ops.choice_constants(shape.num_experts, shape.num_chosen, shape.is_renormalised),
            1,
        ),
    )
    return {
        kernel.__name__: _compile(kernel, dict(pointers), constants, {"num_warps": warps}, target)
        for kernel, pointers, constants, warps in launches
    }


def _compile_attention(
    kernel: "triton.JITFunction[object]",
    heads: Heads,
    tiles: AttentionTiles,
    dtype: torch.dtype,
    products: Products,
    target: str,
) -> Resources:
    pointers: dict[str, torch.dtype | None] = {
        **dict.fromkeys(("query", "keys", "values", "out"), dtype),
        **dict.fromkeys(("highests", "totals", "sums"), torch.float32),
        **dict.fromkeys(("tables", "lengths", "first_rows"), torch.int32),
    }
    constants: dict[str, object] = {
        "PLAN": attention.make_plan(heads, tiles, attention.choose_dot_dtype(dtype, products)),
        "NUM_SPLITS": NUM_STRIPES,
    }
    options = attention.compiler_options(tiles, products)
    return _compile(kernel, _keep(pointers, kernel), _keep(constants, kernel), options, target)


def _keep(arguments: dict[str, Argument], kernel: "triton.JITFunction[object]") -> dict[str, Argument]:
    return {name: value for name, value in arguments.items() if name in kernel.arg_names}


def _compile(
    kernel: "triton.JITFunction[object]",
    pointers: dict[str, torch.dtype | None],
    constants: dict[str, object],
    options: Mapping[str, object],
    target: str,
) -> Resources:
    constants = {**constants, **{name: None for name, dtype in pointers.items() if dtype is None}}
    types = {name: POINTERS[dtype] for name, dtype in pointers.items() if dtype is not None}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    # Torch's allocations start at multiples of 16 bytes; a launch tells the compiler so.
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in types}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=TARGETS[target], options=dict(options))
    read = _read_cubin if "cubin" in compiled.asm else _read_amdgcn
    return read(compiled)


def _read_cubin(compiled: "triton.compiler.CompiledKernel") -> Resources:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "kernel.cubin")
        file.write_bytes(compiled.asm["cubin"])
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    # Local arrays would be on the stack too, but the kernels have none.
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = re.findall(r"\b(?:wgmma\.mma_async|mma\.sync)\S+", compiled.asm["ptx"])
    return Resources(
        num_registers=found["REG"],
        spilled_bytes=found["STACK"] + found["LOCAL"],
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=frozenset(re.sub(r"(?<=\.m64)n\d+", "n*", name) for name in instructions),
    )


def _read_amdgcn(compiled: "triton.compiler.CompiledKernel") -> Resources:
    found = {
        name: int(value)
        for name, value in re.findall(
            r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count): +(\d+)", compiled.asm["amdgcn"]
        )
    }
    return Resources(
        num_registers=found["vgpr_count"],
        spilled_bytes=4 * (found["vgpr_spill_count"] + found["sgpr_spill_count"]),
        shared_bytes=compiled.metadata.shared,
        matrix_instructions=frozenset(re.findall(r"\bv_mfma\S*", compiled.asm["amdgcn"])),
    )
