"""Blocks of GGUF files against the gguf package, which llama.cpp's authors keep."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as dequantize_gguf
from gguf.quants import quantize
from gguf_blocks import random_blocks

from expertmesh.kernels.formats import GGML_BLOCKS
from expertmesh.kernels.ggml import unpack
from expertmesh.kernels.quantize import dequantize

NUM_OUT, NUM_IN = 7, 512


def expected_values(data: np.ndarray, kind: str) -> torch.Tensor:
    return torch.from_numpy(dequantize_gguf(data, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", GGML_BLOCKS)
def test_blocks_have_the_sizes_of_the_package(kind):
    block = GGML_BLOCKS[kind]
    assert (block.num_values, block.num_bytes) == GGML_QUANT_SIZES[GGMLQuantizationType[kind]]


@pytest.mark.parametrize("kind", GGML_BLOCKS)
def test_values_are_those_of_the_package(kind):
    data, block = random_blocks(kind, NUM_OUT, NUM_IN), GGML_BLOCKS[kind]
    weight, expected = unpack(torch.from_numpy(data), kind), expected_values(data, kind)
    assert (weight.shape, weight.bits, weight.group_size) == ((NUM_OUT, NUM_IN), block.bits, block.group_size)
    assert weight.codes.max().item() < 2**weight.bits
    assert 8 * (weight.scales.itemsize + weight.zeros.itemsize) == block.group_bits
    if block.has_minima:
        assert weight.zeros.dtype == torch.float32
        # Values next to 0 are differences of much larger ones.
        assert (dequantize(weight) - expected).abs().max() < 3e-7 * expected.abs().max()
    else:
        assert weight.zeros.dtype == torch.uint8
        assert dequantize(weight).equal(expected)


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"])
def test_groups_without_a_scale_are_their_minimum(kind):
    data = random_blocks(kind, NUM_OUT, NUM_IN, has_scales=False)
    expected = expected_values(data, kind)
    assert expected.any()
    assert dequantize(unpack(torch.from_numpy(data), kind)).equal(expected)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_values_that_the_package_quantized_come_back(kind):
    values = np.random.default_rng(0).normal(size=(NUM_OUT, NUM_IN)).astype(np.float32)
    data = quantize(values, GGMLQuantizationType[kind])
    torch.testing.assert_close(dequantize(unpack(torch.from_numpy(data), kind)), expected_values(data, kind))


def test_other_types_and_shapes_are_refused():
    with pytest.raises(ValueError, match="type IQ4_XS is not read; one of Q4_0, Q4_1, .* would be right"):
        unpack(torch.zeros(2, 136, dtype=torch.uint8), "IQ4_XS")
    with pytest.raises(ValueError, match=r"Q4_K blocks are uint8 \[2, 145\]; uint8 \[outputs, blocks x 144\] is right"):
        unpack(torch.zeros(2, 145, dtype=torch.uint8), "Q4_K")
