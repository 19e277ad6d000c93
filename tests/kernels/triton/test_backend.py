"""The Triton backend against the reference, by relative error: interpreted on the CPU, and on a GPU if there is one."""

import subprocess
import sys

import pytest
import torch
from letting_go import assert_each_is_gone_before_the_next
from triton_cases import (
    EXPERTS,
    LINEAR,
    MAX_ERRORS,
    Case,
    experts_error,
    linear_error,
    mixed_storage_error,
    random_expert,
)

from expertmesh.kernels.triton.backend import TritonBackend, interleave_outputs
from expertmesh.kernels.triton.ops import Device
from expertmesh.kernels.weights import DenseWeight

BACKEND = TritonBackend(torch.device("cpu"), Device(num_processors=4, has_tensor_cores=True, has_ptx=False))


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_close_to_the_reference(name, interpreted):
    assert interpreted(experts_error, EXPERTS[name], "cpu") < EXPERTS[name].max_error


@pytest.mark.parametrize("name", LINEAR)
def test_a_matrix_is_close_to_the_reference(name, interpreted):
    assert interpreted(linear_error, LINEAR[name], "cpu") < LINEAR[name].max_error


def test_experts_of_different_storage_are_close_to_the_reference(interpreted):
    assert interpreted(mixed_storage_error, "cpu") < MAX_ERRORS["bfloat16"]


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
