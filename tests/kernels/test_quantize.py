import math

import pytest
import torch

from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import QuantizedWeight


def test_dequantize_follows_the_formula():
    weight = QuantizedWeight(
        codes=torch.tensor([[0, 5, 15, 3]], dtype=torch.uint8),
        scales=torch.tensor([[0.5, 2.0]]).half(),
        zeros=torch.tensor([[4, 8]], dtype=torch.uint8),
        bits=4,
        group_size=2,
    )
    assert dequantize(weight).tolist() == [[-2.0, 0.5, 14.0, -10.0]]
    assert dequantize(weight, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [1, 32, 96])
def test_no_value_moves_by_more_than_half_a_step(bits, group_size):
    weight = torch.randn(24, 96, generator=torch.Generator().manual_seed(bits))
    quantized = round_to_nearest(weight, bits, group_size)
    steps = quantized.scales.float().repeat_interleave(group_size, dim=1)
    # A value is off by half a step for its own rounding, and at the ends of a group by up to another half for the
    # zero point's and by the rounding of the scale to float16.
    assert ((dequantize(quantized) - weight).abs() <= steps * (1 + 2**bits * 2.0**-11)).all()
    inner = (quantized.codes > 0) & (quantized.codes.int() < 2**bits - 1)
    assert ((dequantize(quantized) - weight).abs() <= steps * 0.501)[inner].all()
    assert quantized.codes.max().item() < 2**bits
    assert quantized.zeros.max().item() < 2**bits
    assert quantized.scales.dtype == torch.float16
    assert quantized.shape == (24, 96)


@pytest.mark.parametrize("value", [0.0, 0.75, -0.75, 1e-9, 300.0])
def test_groups_of_one_value_keep_it(value):
    quantized = round_to_nearest(torch.full((2, 8), value), 4, 4)
    assert quantized.scales.isfinite().all()
    assert (quantized.scales > 0).all()
    assert torch.allclose(dequantize(quantized), torch.full((2, 8), value), rtol=2**-10, atol=1e-8)


@pytest.mark.parametrize(
    ("shape", "bits", "group_size", "message"),
    [
        ((4, 8), 4, 0, "no multiple of the group size 0"),
        ((4, 8), 4, -1, "no multiple of the group size -1"),
        ((4, 8), 1, 8, "cannot quantize to 1 bits"),
        ((4, 8), 9, 8, "cannot quantize to 9 bits"),
        ((0, 8), 4, 8, r"the weight is empty: \[0, 8\]"),
        ((4, 0), 4, 8, r"the weight is empty: \[4, 0\]"),
    ],
)
def test_what_cannot_be_quantized_is_named(shape, bits, group_size, message):
    with pytest.raises(ValueError, match=message):
        round_to_nearest(torch.ones(shape), bits, group_size)


def test_values_on_the_grid_survive():
    grid = QuantizedWeight(
        codes=torch.arange(16, dtype=torch.uint8).repeat(4, 1),
        scales=torch.tensor([[0.25], [1.0], [2.0], [0.03125]]).half(),
        zeros=torch.tensor([[0], [8], [15], [3]], dtype=torch.uint8),
        bits=4,
        group_size=16,
    )
    again = round_to_nearest(dequantize(grid), 4, 16)
    assert again.codes.equal(grid.codes)
    assert again.zeros.equal(grid.zeros)
    assert again.scales.equal(grid.scales)


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(ValueError, match="100 input features are no multiple of the group size 32"):
        round_to_nearest(torch.ones(2, 100), 4, 32)
    with pytest.raises(ValueError, match="NaN or Inf"):
        round_to_nearest(torch.tensor([[1.0, math.nan]]), 4, 2)
    with pytest.raises(ValueError, match="a group spans 3e\\+06; float16 scales of 4-bit codes reach 982560"):
        round_to_nearest(torch.tensor([[1.0, 3e6]]), 4, 2)
