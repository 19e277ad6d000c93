"""The Triton backend against the reference, by relative error: interpreted on the CPU, and on a GPU if there is one."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from letting_go import assert_each_is_gone_before_the_next
from triton_cases import (
    EXPERTS,
    LINEAR,
    MAX_ERRORS,
    Case,
    chosen_error,
    experts_error,
    linear_error,
    mixed_storage_error,
    random_expert,
    replayed_and_run,
    sizes_that_change_bits,
    sizes_that_change_products,
)

from expertmesh.kernels.triton.backend import TritonBackend, interleave_outputs
from expertmesh.kernels.triton.ops import Device
from expertmesh.kernels.triton.tile_tables import DEFAULT_GPU, SHIPPED, find_tiles
from expertmesh.kernels.weights import DenseWeight

FACTS = Device(has_tensor_cores=True, has_ptx=False, packed=find_tiles(DEFAULT_GPU, SHIPPED))
BACKEND = TritonBackend(torch.device("cpu"), FACTS)
CHOSEN = {
    "4 bits": Case(num_rows=(0,) * 8),
    "dense, bias": Case(bits=16, bias=True, num_rows=(0,) * 8),
    "3 bits, act-order": Case(bits=3, act_order=True, num_rows=(0,) * 3),
    "one expert": Case(num_rows=(0,)),
}
COMPANY = {
    "4 bits": Case(group_size=64, hidden=256, inner=256, num_rows=(0, 0)),
    "dense": Case(bits=16, hidden=256, inner=256, num_rows=(0, 0)),
}
# Rows in tiles of 128, and how many of them alone are in tiles of 16, 32 and 64.
TOGETHER, ALONE = 70, (1, 20, 40)


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_close_to_the_reference(name, interpreted):
    assert interpreted(experts_error, EXPERTS[name], "cpu") < EXPERTS[name].max_error


@pytest.mark.parametrize("name", LINEAR)
def test_a_matrix_is_close_to_the_reference(name, interpreted):
    assert interpreted(linear_error, LINEAR[name], "cpu") < LINEAR[name].max_error


def test_experts_of_different_storage_are_close_to_the_reference(interpreted):
    assert interpreted(mixed_storage_error, "cpu") < MAX_ERRORS["bfloat16"]


@pytest.mark.parametrize("name", CHOSEN)
def test_chosen_experts_are_close_to_the_reference(name, interpreted):
    case = CHOSEN[name]
    assert interpreted(chosen_error, case, 21, min(2, len(case.num_rows)), "cpu") < case.max_error


@pytest.mark.parametrize("name", COMPANY)
def test_a_row_has_the_same_bits_in_any_company(name, interpreted):
    case = replace(COMPANY[name], dtype="float16")
    assert interpreted(sizes_that_change_bits, case, TOGETHER, ALONE, "cpu") == []


@pytest.mark.parametrize("name", COMPANY)
def test_a_product_has_the_same_bits_in_any_company(name, interpreted):
    case = replace(COMPANY[name], dtype="float16")
    assert interpreted(sizes_that_change_products, case, TOGETHER, ALONE, "cpu") == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", COMPANY)
def test_a_row_on_a_gpu_has_the_same_bits_in_any_company(name, dtype):
    case = replace(COMPANY[name], dtype=dtype, hidden=4096, inner=2048)
    assert sizes_that_change_bits(case, 1500, (*ALONE, 400, 700), "cuda") == []
    assert sizes_that_change_products(case, 1500, (*ALONE, 400, 700), "cuda") == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["4 bits", "dense, bias"])
def test_a_graph_on_a_gpu_runs_other_rows_and_choices(name):
    replayed, run = replayed_and_run(CHOSEN[name])
    assert replayed.equal(run)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHOSEN)
def test_chosen_experts_on_a_gpu_are_close_to_the_reference(name):
    case = CHOSEN[name]
    assert chosen_error(case, 300, min(2, len(case.num_rows)), "cuda") < case.max_error


@pytest.mark.gpu
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_on_a_gpu_are_close_to_the_reference(name):
    assert experts_error(EXPERTS[name], "cuda") < EXPERTS[name].max_error


@pytest.mark.gpu
@pytest.mark.parametrize("name", LINEAR)
def test_a_matrix_on_a_gpu_is_close_to_the_reference(name):
    assert linear_error(LINEAR[name], "cuda") < LINEAR[name].max_error


@pytest.mark.parametrize("num_rows", [[1, 1], [3, 1], [3], [1, 1, 1]])
def test_counts_that_do_not_fit_the_rows_or_experts_are_refused(num_rows):
    generator = torch.Generator().manual_seed(0)
    case = Case()
    experts = BACKEND.experts([random_expert(case, generator) for _ in range(2)])
    with pytest.raises(ValueError, match="there are 3 rows and 2 experts"):
        experts(torch.ones(3, case.hidden), num_rows, torch.ones(3))


@pytest.mark.parametrize(("bits", "bits_per_weight"), [(2, 2), (3, 3.2), (4, 4), (8, 8), (16, 16)])
def test_weights_take_as_many_bits_as_they_have(bits, bits_per_weight):
    case = Case(bits=bits, group_size=0, hidden=1280, inner=1280)
    experts = BACKEND.experts([random_expert(case, torch.Generator().manual_seed(0))] * 2)
    num_weights, num_outputs = 2 * 3 * 1280 * 1280, 2 * 3 * 1280
    scales_and_zeros = num_outputs * 3 if bits < 16 else 0
    assert experts.num_bytes == num_weights * bits_per_weight / 8 + scales_and_zeros


@pytest.mark.parametrize("bits", [4, 16])
def test_the_weights_of_an_expert_are_gone_before_the_next_are_read(bits):
    generator = torch.Generator().manual_seed(0)
    assert_each_is_gone_before_the_next(BACKEND.experts, lambda _: random_expert(Case(bits=bits), generator))


def test_gate_and_up_become_neighbours():
    gate, up = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    joined = interleave_outputs(DenseWeight(gate), DenseWeight(up))
    assert isinstance(joined, DenseWeight)
    assert joined.data[0::2].equal(gate)
    assert joined.data[1::2].equal(up)


def test_importing_the_package_and_opening_other_backends_leaves_triton_alone():
    code = (
        "import sys, torch, expertmesh.kernels.triton\n"
        "from expertmesh.kernels.backends import create_backend\n"
        "create_backend('auto', torch.device('cpu'))\n"
        "assert 'triton' not in sys.modules\n"
        "import expertmesh.kernels.triton.backend\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
