from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear

from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("has_perm", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_order_and_bias_are_applied(backend, bits, has_perm, has_bias):
    generator = torch.Generator().manual_seed(0)
    weight = replace(
        round_to_nearest(torch.randn(64, 96, generator=generator), bits, 32),
        perm=torch.randperm(96, generator=generator) if has_perm else None,
        bias=torch.randn(64, generator=generator).half() if has_bias else None,
    )
    x = torch.randn(5, 96, generator=generator)
    expected = linear(x, dequantize(weight), None if weight.bias is None else weight.bias.float())
    found = create_backend(backend, CPU).linear(weight)(x)
    assert ((found - expected).norm() / expected.norm()).item() < (1e-6 if backend == "reference" else 5e-3)


def test_columns_belong_to_the_features_that_perm_names():
    plain = round_to_nearest(torch.tensor([[1.0, 2.0, 3.0, 0.0]]), 8, 4)
    permuted = replace(plain, perm=torch.tensor([2, 0, 3, 1]))
    values = dequantize(plain)[0]
    assert dequantize(permuted)[0].tolist() == [values[1], values[3], values[0], values[2]]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dense_matrix_may_have_a_bias(backend, dtype):
    weight = DenseWeight(torch.eye(16, dtype=dtype), torch.arange(16.0, dtype=dtype))
    found = create_backend(backend, CPU).linear(weight)(torch.ones(2, 16))
    assert found.tolist() == [[1.0 + i for i in range(16)]] * 2
