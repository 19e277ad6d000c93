"""Whole experts in C against float64, and the equalities that they promise."""

from dataclasses import replace

import pytest
import torch
from rows import run_each_alone
from torch.nn.functional import silu

from expertmesh.kernels.native.library import Library
from expertmesh.kernels.native.matrix import STORED_BITS
from expertmesh.kernels.native.swiglu import NativeSwiGLU, silu_gate
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight

# Activations keep 15 bits of the largest of each block, before gate and up and before down.
MAX_ERROR = 2e-4
MAX_INT8_ERROR = 1.5e-2
ROWS = (1, 2, 5, 17, 101)


def random_expert(hidden: int, ffn: int, bits: int = 4, group_size: int = 32) -> ExpertWeights:
    generator = torch.Generator().manual_seed(bits * hidden + ffn)

    def matrix(num_out: int, num_in: int) -> QuantizedWeight:
        values = torch.randn(num_out, num_in, generator=generator) / num_in**0.5
        return round_to_nearest(values, bits, group_size)

    return ExpertWeights(matrix(ffn, hidden), matrix(ffn, hidden), matrix(hidden, ffn))


def pack(library: Library, weights: ExpertWeights, activation_bits: int = 16) -> NativeSwiGLU:
    expert = NativeSwiGLU.pack(library, weights, activation_bits)
    assert expert is not None
    return expert


def random_rows(num_rows: int, hidden: int) -> torch.Tensor:
    return torch.randn(num_rows, hidden, generator=torch.Generator().manual_seed(hidden))


def exact(weights: ExpertWeights, x: torch.Tensor) -> torch.Tensor:
    gate, up, down = (
        part.data.double() if isinstance(part, DenseWeight) else dequantize(part, torch.float64)
        for part in (weights.w_gate, weights.w_up, weights.w_down)
    )
    return (silu(x.double() @ gate.T) * (x.double() @ up.T)) @ down.T


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("bits", STORED_BITS)
@pytest.mark.parametrize(
    ("hidden", "ffn", "group_size"), [(64, 96, 32), (256, 384, 128), (96, 41, 1), (40, 300, 20), (384, 640, 64)]
)
def test_experts_are_close_and_rows_do_not_depend_on_each_other(library, bits, hidden, ffn, group_size):
    weights = random_expert(hidden, ffn, bits, group_size)
    expert, x = pack(library, weights), random_rows(max(ROWS), hidden)
    assert relative_error(run_each_alone(expert, x, ROWS), exact(weights, x)) < MAX_ERROR


def random_dense_expert(hidden: int, ffn: int, dtype: torch.dtype) -> ExpertWeights:
    quantized = random_expert(hidden, ffn, 8, 1)
    parts = (quantized.w_gate, quantized.w_up, quantized.w_down)
    return ExpertWeights(*(DenseWeight(dequantize(part).to(dtype)) for part in parts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("row_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("hidden", "ffn"), [(64, 96), (40, 300), (33, 41), (384, 640)])
def test_dense_experts_are_close_and_rows_do_not_depend_on_each_other(library, dtype, row_dtype, hidden, ffn):
    weights = random_dense_expert(hidden, ffn, dtype)
    expert, x = pack(library, weights), random_rows(max(ROWS), hidden).to(row_dtype)
    # Before the last matrix values have the type of the rows.
    max_error = 1e-6 if row_dtype == torch.float32 else torch.finfo(row_dtype).eps
    assert relative_error(run_each_alone(expert, x, ROWS), exact(weights, x)) < max_error


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(
    ("hidden", "ffn", "group_size"), [(64, 96, 32), (256, 384, 128), (384, 640, 64), (40, 300, 20)]
)
def test_int8_experts_are_close_and_rows_do_not_depend_on_each_other(library, bits, hidden, ffn, group_size):
    weights = random_expert(hidden, ffn, bits, group_size)
    expert, x = pack(library, weights, activation_bits=8), random_rows(max(ROWS), hidden)
    assert relative_error(run_each_alone(expert, x, ROWS), exact(weights, x)) < MAX_INT8_ERROR


def test_threads_do_not_change_a_bit(library):
    expert, x = pack(library, random_expert(256, 1000, group_size=8)), random_rows(9, 256)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = expert(x)
        torch.set_num_threads(3)
        assert expert(x).equal(alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 1, 9])
def test_rows_of_every_type_give_float32(library, dtype, num_rows):
    expert, x = pack(library, random_expert(64, 96)), random_rows(num_rows, 64).to(dtype)
    found = expert(x)
    assert found.dtype == torch.float32
    assert found.equal(expert(x.float()))


def test_features_in_another_order(library):
    weights = random_expert(64, 96)
    order, ffn_order = torch.randperm(64), torch.randperm(96)
    stored = ExpertWeights(
        replace(weights.w_gate, perm=order), replace(weights.w_up, perm=order), replace(weights.w_down, perm=ffn_order)
    )
    x = random_rows(5, 64)
    assert relative_error(pack(library, stored)(x), exact(stored, x)) < MAX_ERROR


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 30.0, 1e4, 1e12])
def test_gates_of_every_size(library, scale):
    weights = random_expert(64, 96)
    gate, up = (replace(part, scales=part.scales.float()) for part in (weights.w_gate, weights.w_up))
    weights = replace(weights, w_gate=replace(gate, scales=gate.scales * scale), w_up=up)
    x = random_rows(7, 64)
    assert relative_error(pack(library, weights)(x), exact(weights, x)) < MAX_ERROR


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_leaves_the_others_alone(library, value):
    expert, x = pack(library, random_expert(64, 96)), random_rows(5, 64)
    broken = x.clone()
    broken[2, 3] = value
    found = expert(broken)
    assert found[2].isnan().all()
    others = [0, 1, 3, 4]
    assert found[others].equal(expert(x)[others])


def test_rows_of_another_width_are_refused(library):
    with pytest.raises(ValueError, match=r"x is \[2, 63\] on cpu; \[M, 64\] on the CPU is right"):
        pack(library, random_expert(64, 96))(torch.zeros(2, 63))


def test_what_it_does_not_take(library):
    weights = random_expert(64, 96)
    for changed in (
        replace(weights, w_up=DenseWeight(torch.zeros(96, 64))),
        replace(weights, w_down=replace(weights.w_down, bias=torch.zeros(64))),
        replace(weights, w_up=replace(weights.w_up, perm=torch.randperm(64))),
        replace(weights, w_gate=random_expert(64, 96, group_size=16).w_gate),
        replace(weights, w_gate=random_expert(64, 96, bits=8).w_gate),
    ):
        assert NativeSwiGLU.pack(library, changed) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ffn", [1, 41, 64, 300])
def test_gates_of_odd_width_do_not_depend_on_each_other(library, dtype, ffn):
    gate_up = random_rows(40, 2 * ffn).to(dtype)

    def run(rows: torch.Tensor) -> torch.Tensor:
        return silu_gate(library, *rows.chunk(2, dim=-1))

    before = torch.get_num_threads()
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            single = run_each_alone(run, gate_up, (2, 3, 7, 40))
    finally:
        torch.set_num_threads(before)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert relative_error(single, silu(gate) * up) < max(1e-6, torch.finfo(dtype).eps)


def test_its_size_is_that_of_its_matrices(library):
    expert = pack(library, random_expert(64, 96))
    assert expert.num_bytes == expert.gate.num_bytes + expert.up.num_bytes + expert.down.num_bytes
