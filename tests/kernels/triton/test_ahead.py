"""Kernels compiled for GPUs that are not here: they compile, spill no register, and fit the shared memory."""

import pytest
import torch

from expertmesh.kernels.triton import tuning
from expertmesh.kernels.triton.ahead import (
    FORMATS,
    MAX_SHARED_BYTES,
    NO_TENSOR_CORES,
    TARGETS,
    StepShape,
    compile_attention,
    compile_combine,
    compile_dequantize,
    compile_grouped_linear,
    compile_schedule,
    compile_step_ops,
    list_tiles,
)
from expertmesh.kernels.triton.attention_kernels import Heads
from expertmesh.kernels.triton.layout import PackedMatrices

HIDDEN, FFN = 4096, 14336
# Every tile size with 4-bit and dense weights, the largest with the other formats.
LAUNCHES = [
    (target, name, tiles)
    for target in TARGETS
    for name, form in FORMATS.items()
    for tiles in list_tiles(form, target)[0 if name in ("4 bits g128", "bfloat16") else -1 :]
]
# Width of a head, and how many query heads share a key-value head: of Mixtral 8x7B and 8x22B, Qwen3-MoE, OLMoE, others.
HEADS = [(128, 4), (128, 6), (128, 8), (128, 1), (64, 4), (96, 1), (256, 16)]


def dtype_of(target: str) -> torch.dtype:
    return torch.float16 if target in NO_TENSOR_CORES else torch.bfloat16


@pytest.mark.parametrize(("target", "name", "tiles"), LAUNCHES, ids=lambda value: getattr(value, "block_rows", value))
def test_the_first_launch_of_a_layer_fits_its_gpu(target, name, tiles):
    matrices = FORMATS[name].lay_out(2 * FFN, HIDDEN)
    resources = compile_grouped_linear(matrices, dtype_of(target), tiles, swiglu=True, target=target)
    assert resources.num_registers > 0
    assert resources.spilled_bytes == 0
    assert resources.shared_bytes <= MAX_SHARED_BYTES[target]


@pytest.mark.parametrize(
    ("target", "name", "tiles"),
    [launch for launch in LAUNCHES if launch[1].startswith("4 bits g128")],
    ids=lambda value: getattr(value, "block_rows", value),
)
def test_the_second_launch_of_a_layer_fits_its_gpu(target, name, tiles):
    form = FORMATS[name]
    resources = compile_grouped_linear(form.lay_out(HIDDEN, FFN), dtype_of(target), tiles, swiglu=False, target=target)
    assert resources.spilled_bytes == 0
    assert resources.shared_bytes <= MAX_SHARED_BYTES[target]


@pytest.mark.parametrize("target", TARGETS)
def test_unpacking_fits_its_gpu(target):
    matrices = FORMATS["3 bits g128"].lay_out(HIDDEN, FFN)
    assert isinstance(matrices, PackedMatrices)
    assert compile_dequantize(matrices, dtype_of(target), target).spilled_bytes == 0


@pytest.mark.parametrize("name", ["4 bits g128", "bfloat16"])
@pytest.mark.parametrize("target", [target for target in TARGETS if target not in NO_TENSOR_CORES])
def test_tensor_cores_run_one_instruction_whatever_the_tile(target, name):
    form = FORMATS[name]
    matrices = form.lay_out(2 * FFN, HIDDEN)
    found = {
        compile_grouped_linear(matrices, dtype_of(target), tiles, swiglu=True, target=target).matrix_instructions
        for tiles in list_tiles(form, target)
    }
    assert len(found) == 1
    assert len(found.pop()) == 1


@pytest.mark.parametrize("name", ["4 bits g128", "bfloat16"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_matrix_alone_fits_its_gpu(target, name):
    form = FORMATS[name]
    matrices, dtype = form.lay_out(HIDDEN, HIDDEN), dtype_of(target)
    for tiles in (list_tiles(form, target)[0], list_tiles(form, target)[-1]):
        resources = compile_grouped_linear(matrices, dtype, tiles, swiglu=False, target=target, is_alone=True)
        assert resources.spilled_bytes == 0
        assert resources.shared_bytes <= MAX_SHARED_BYTES[target]
    assert compile_combine(4, HIDDEN, None, target).spilled_bytes == 0


@pytest.mark.parametrize("name", ["8 bits g128", "bfloat16"])
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_matrices_of_more_values_than_32_bits_count_compile(target, name):
    form = FORMATS[name]
    matrices = form.lay_out(1 << 20, 8192)
    tiles = list_tiles(form, target)[0]
    assert compile_grouped_linear(matrices, dtype_of(target), tiles, swiglu=False, target=target).spilled_bytes == 0
    if isinstance(matrices, PackedMatrices):
        assert compile_dequantize(matrices, dtype_of(target), target).spilled_bytes == 0


@pytest.mark.parametrize("target", TARGETS)
def test_what_surrounds_the_products_of_a_layer_fits_its_gpu(target):
    for num_chosen, num_experts, block_rows in ((2, 8, 16), (6, 64, 128)):
        for resources in (
            compile_schedule(num_chosen, num_experts, block_rows, target),
            compile_combine(4, HIDDEN, num_chosen, target),
        ):
            assert resources.spilled_bytes == 0
            assert resources.shared_bytes <= MAX_SHARED_BYTES[target]


@pytest.mark.parametrize("name", ["4 bits g128", "bfloat16"])
@pytest.mark.parametrize("target", TARGETS)
def test_rows_that_tensor_cores_do_not_take_compile(target, name):
    form = FORMATS[name]
    dtype = torch.bfloat16 if target in NO_TENSOR_CORES else torch.float32
    (tiles,) = tuning.list_tiles((), 0 if form.bits == 16 else form.bits, has_tensor_cores=False)
    resources = compile_grouped_linear(form.lay_out(2 * FFN, HIDDEN), dtype, tiles, swiglu=True, target=target)
    assert resources.spilled_bytes == 0
    assert resources.shared_bytes <= MAX_SHARED_BYTES[target]


def heads_of(width: int, sharing: int) -> Heads:
    """Eight key-value heads, with all tensors contiguous."""
    return Heads(width, sharing, 8 * sharing * width, 8 * width, 8 * width, block_size=16)


@pytest.mark.parametrize(("width", "sharing"), HEADS)
@pytest.mark.parametrize("target", TARGETS)
def test_attention_fits_its_gpu(target, width, sharing):
    for resources in compile_attention(heads_of(width, sharing), dtype_of(target), target).values():
        assert resources.spilled_bytes == 0
        assert resources.shared_bytes <= MAX_SHARED_BYTES[target]


@pytest.mark.parametrize("target", TARGETS)
def test_attention_in_float32_fits_its_gpu(target):
    for resources in compile_attention(heads_of(128, 4), torch.float32, target).values():
        assert resources.spilled_bytes == 0
        assert resources.shared_bytes <= MAX_SHARED_BYTES[target]


@pytest.mark.parametrize(("width", "sharing"), HEADS)
@pytest.mark.parametrize("target", TARGETS)
def test_decode_steps_attend_by_the_instructions_of_others(target, width, sharing):
    programs = compile_attention(heads_of(width, sharing), dtype_of(target), target)
    instructions = programs["attend_split"].matrix_instructions
    assert instructions == programs["attend_tiles"].matrix_instructions
    assert len(instructions) == (target not in NO_TENSOR_CORES)


@pytest.mark.parametrize(
    "shape",
    [
        StepShape(4096, (32, 8, 128), 8, 2),
        StepShape(6144, (48, 8, 128), 8, 2),
        StepShape(2048, (16, 16, 80), 64, 8),
        StepShape(2048, (32, 4, 128), 128, 8),
        StepShape(2048, (16, 16, 128), 64, 8, is_renormalised=False, normed_width=2048),
    ],
    ids=["Mixtral", "wide", "many experts", "Qwen3-MoE", "OLMoE"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_what_lies_between_matrices_spills_nothing(target, shape):
    programs = compile_step_ops(shape, dtype_of(target), target)
    assert set(programs) == {"add_and_normalise", "normalise_heads", "rotate_and_store", "choose_experts"}
    assert all(program.spilled_bytes == 0 for program in programs.values())
