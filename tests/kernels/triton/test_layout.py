from dataclasses import replace

import pytest
import torch

from expertmesh.kernels import awq
from expertmesh.kernels.bitstream import pack_stream
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.triton.layout import DenseMatrices, PackedMatrices, lay_out, num_slots, unpack
from expertmesh.kernels.weights import DenseWeight, StoredWeight

CPU = torch.device("cpu")


def random_matrix(num_out: int, num_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("num_in", "group_size"), [(256, 32), (640, 128), (96, 16), (37, 37), (1, 1), (320, 64)])
def test_unpacked_matrices_are_the_dequantized_ones(bits, num_in, group_size):
    weights = [round_to_nearest(random_matrix(6, num_in, seed), bits, group_size) for seed in range(3)]
    packed = lay_out(weights, CPU)
    assert isinstance(packed, PackedMatrices)
    assert unpack(packed).equal(torch.stack([dequantize(weight) for weight in weights]))


@pytest.mark.parametrize(
    ("bits", "slot", "word"), [(2, 7, -(1 << 14)), (3, 4, 7 << 12), (4, 2, 0xF << 8), (8, 0, 0xFF)]
)
def test_a_code_lies_where_the_layout_says(bits, slot, word):
    codes = torch.zeros(1, 1024, dtype=torch.uint8)
    row, plane_rows = 7, 32
    codes[0, (num_slots(bits) + slot) * plane_rows + row] = 2**bits - 1  # in the second span
    packed = lay_out([replace(round_to_nearest(torch.ones(1, 1024), bits, 128), codes=codes)], CPU)
    assert isinstance(packed, PackedMatrices)
    expected = torch.zeros_like(packed.words)
    expected[0, plane_rows + row, 0] = word
    assert packed.words.equal(expected)


def test_order_and_bias_are_kept_per_expert():
    plain, ordered = (round_to_nearest(random_matrix(4, 64, seed), 4, 32) for seed in range(2))
    perm = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    packed = lay_out([plain, replace(ordered, perm=perm, bias=torch.arange(4.0))], CPU)
    assert isinstance(packed, PackedMatrices)
    assert packed.order is not None
    assert packed.order.tolist() == [list(range(64)), perm.tolist()]
    assert packed.bias is not None
    assert packed.bias.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (round_to_nearest(random_matrix(4, 64), 4, 32), DenseWeight(random_matrix(4, 64))),
        (round_to_nearest(random_matrix(4, 64), 4, 32), round_to_nearest(random_matrix(4, 64), 4, 64)),
        (round_to_nearest(random_matrix(4, 64), 4, 32), round_to_nearest(random_matrix(4, 64), 3, 32)),
        (round_to_nearest(random_matrix(4, 64), 4, 8), round_to_nearest(random_matrix(4, 64), 4, 8)),
    ],
    ids=["dense and packed", "groups differ", "bits differ", "groups smaller than a plane"],
)
def test_what_fits_no_packed_layout_becomes_dense(one, other):
    dense = lay_out([one, other], CPU)
    assert isinstance(dense, DenseMatrices)
    values = [weight.data if isinstance(weight, DenseWeight) else dequantize(weight) for weight in (one, other)]
    torch.testing.assert_close(dense.data.float(), torch.stack(values), rtol=2**-8, atol=0)


def test_scales_of_different_dtypes_become_float32():
    weight = round_to_nearest(random_matrix(4, 64), 4, 32)
    packed = lay_out([weight, replace(weight, scales=weight.scales.bfloat16())], CPU)
    assert isinstance(packed, PackedMatrices)
    assert packed.scales.dtype == torch.float32
    assert packed.scales[0].equal(weight.scales.float().T)


def test_zeros_between_the_codes_of_one_expert_stay_there():
    codes = round_to_nearest(random_matrix(16, 64), 4, 32)
    between = replace(codes, zeros=codes.zeros + 0.25)
    found = lay_out([codes, between], torch.device("cpu"))
    assert isinstance(found, PackedMatrices)
    assert unpack(found).equal(torch.stack([dequantize(codes), dequantize(between)]))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("num_out", "num_in", "group_size"), [(6, 256, 32), (6, 96, 16), (5, 96, 96), (8, 2240, 64), (1024, 8192, 128)]
)
def test_streams_are_laid_out_as_their_codes_are(bits, num_out, num_in, group_size):
    weight = round_to_nearest(random_matrix(num_out, num_in), bits, group_size)
    words = pack_stream(weight.codes.T, bits)
    streams = StoredWeight(words, weight.scales, weight.zeros, bits, group_size)
    found, expected = lay_out([streams], CPU), lay_out([weight], CPU)
    assert isinstance(found, PackedMatrices)
    assert isinstance(expected, PackedMatrices)
    assert found.words.equal(expected.words)


def test_streams_in_another_order_are_laid_out_as_their_codes_are():
    weight = round_to_nearest(random_matrix(6, 256), 4, 32)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    words = pack_stream(weight.codes[:, order.argsort()].T, 4)
    found = lay_out([StoredWeight(words, weight.scales, weight.zeros, 4, 32, order, order)], CPU)
    expected = lay_out([replace(weight, perm=order)], CPU)
    assert isinstance(found, PackedMatrices)
    assert isinstance(expected, PackedMatrices)
    assert found.words.equal(expected.words)
    assert torch.equal(found.order, expected.order)


def test_words_of_awq_are_laid_out_as_their_codes_are():
    weight = round_to_nearest(random_matrix(48, 256), 4, 32)
    found, expected = lay_out([awq.read(awq.pack(weight))], CPU), lay_out([weight], CPU)
    assert isinstance(found, PackedMatrices)
    assert isinstance(expected, PackedMatrices)
    assert all(torch.equal(*pair) for pair in ((found.words, expected.words), (found.zeros, expected.zeros)))
