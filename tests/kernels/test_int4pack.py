import pytest
import torch

from expertmesh.kernels.int4pack import PackedInt4, tile_layout
from expertmesh.kernels.quantize import dequantize, round_to_nearest


def test_the_layout_of_this_cpu_is_known():
    layout = tile_layout()
    assert layout is not None
    assert layout.positions.sort().values.tolist() == list(range(layout.num_outputs))


@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
@pytest.mark.parametrize(("start", "stop"), [(0, 64), (64, 192), (0, 192)])
def test_dequantize_reads_back_every_code(group_size, start, stop):
    """Scales and shifts that bfloat16 holds exactly leave nothing to round: the values must be equal."""
    weight = round_to_nearest(torch.randn(192, 512, generator=torch.Generator().manual_seed(0)), 4, group_size)
    exponents = torch.randint(-3, 4, weight.scales.shape, generator=torch.Generator().manual_seed(1))
    weight = type(weight)(weight.codes, (2.0**exponents).half(), weight.zeros, 4, group_size)
    packed = PackedInt4.pack(weight)
    assert packed.can_dequantize
    assert packed.dequantize(start, stop, torch.float32).equal(dequantize(weight)[start:stop].T)


def test_both_ways_to_multiply_agree():
    generator = torch.Generator().manual_seed(0)
    packed = PackedInt4.pack(round_to_nearest(torch.randn(192, 256, generator=generator), 4, 64))
    x = torch.randn(5, 256, generator=generator).bfloat16()
    whole = packed.dequantize_and_multiply(x, block_outputs=192)
    assert packed.dequantize_and_multiply(x, block_outputs=128).allclose(whole, rtol=1e-2, atol=1e-2)
    assert ((packed.multiply(x) - whole).norm() / whole.norm()).item() < 0.01


def test_input_may_be_a_slice():
    packed = PackedInt4.pack(round_to_nearest(torch.randn(64, 64), 4, 32))
    x = torch.randn(64, 6).bfloat16().T
    assert packed.multiply(x).equal(packed.multiply(x.contiguous()))


def test_outputs_that_fill_no_tile_are_not_dequantized_in_tiles():
    packed = PackedInt4.pack(round_to_nearest(torch.ones(48, 32), 4, 32))
    assert not packed.can_dequantize
