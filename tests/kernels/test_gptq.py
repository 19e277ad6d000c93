from dataclasses import replace

import pytest
import torch

from expertmesh.kernels.bitstream import unpack_stream
from expertmesh.kernels.formats import GPTQ_BITS, GptqFormat
from expertmesh.kernels.gptq import GptqTensors, pack, read
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import QuantizedWeight

NUM_OUT, NUM_IN = 32, 128


def random_weight(bits: int, group_size: int = 32, has_perm: bool = False) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(bits)
    weight = round_to_nearest(torch.randn(NUM_OUT, NUM_IN, generator=generator), bits, group_size)
    perm = torch.randperm(NUM_IN, generator=generator) if has_perm else None
    return replace(weight, zeros=weight.zeros.clamp(min=1), perm=perm)


def symmetric(weight: QuantizedWeight) -> QuantizedWeight:
    return replace(weight, zeros=torch.full_like(weight.zeros, 2 ** (weight.bits - 1)))


@pytest.mark.parametrize("bits", GPTQ_BITS)
@pytest.mark.parametrize("is_v2", [False, True])
@pytest.mark.parametrize("has_perm", [False, True])
def test_the_tensors_mean_what_the_format_says(bits, is_v2, has_perm):
    """The formula of the format: W[k, n] = scales[g_idx[k], n] * (code[k, n] - zero[g_idx[k], n])."""
    weight = random_weight(bits, has_perm=has_perm)
    packed = pack(weight, is_v2)
    codes = unpack_stream(packed.qweight, bits).float()  # [K, N]
    zeros = unpack_stream(packed.qzeros.T.contiguous(), bits).T.float() + (not is_v2)  # [G, N]
    values = packed.scales.float()[packed.g_idx] * (codes - zeros[packed.g_idx])
    assert values.T.equal(dequantize(weight))


@pytest.mark.parametrize("bits", GPTQ_BITS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("has_perm", [False, True])
@pytest.mark.parametrize("is_v2", [False, True])
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_read_reads_what_pack_wrote(bits, group_size, has_perm, is_v2, is_symmetric):
    weight = random_weight(bits, group_size, has_perm)
    weight = symmetric(weight) if is_symmetric else weight
    again = read(pack(weight, is_v2), GptqFormat(bits, is_symmetric, is_v2))
    assert dequantize(again).equal(dequantize(weight))
    assert (again.bits, again.group_size) == (bits, group_size)
    assert (again.perm is None) == (not has_perm or group_size == NUM_IN)


@pytest.mark.parametrize(
    ("bits", "words"), [(4, {0x77777777}), (8, {0x7F7F7F7F}), (3, {0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D})]
)
def test_symmetric_zero_points_are_the_words_that_published_files_hold(bits, words):
    qzeros = pack(symmetric(random_weight(bits))).qzeros
    assert {word & 0xFFFFFFFF for word in qzeros.flatten().tolist()} == words


def test_zeros_that_belong_to_no_symmetric_file_are_refused():
    with pytest.raises(ValueError, match="qzeros are not all 8, as sym: true would have it"):
        read(pack(random_weight(4)), GptqFormat(4, is_symmetric=True))


def test_symmetric_files_may_store_z_or_z_minus_one_or_nothing():
    weight = symmetric(random_weight(4))
    old, new = pack(weight), pack(weight, is_v2=True)
    for tensors in (old, new, replace(old, qzeros=None)):
        for is_v2 in (False, True):
            assert read(tensors, GptqFormat(4, True, is_v2)).zeros.equal(weight.zeros)


def test_a_zero_point_of_zero_needs_v2():
    weight = replace(random_weight(4), zeros=torch.zeros(NUM_OUT, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="cannot hold a zero point of 0; use v2"):
        pack(weight)
    assert read(pack(weight, is_v2=True), GptqFormat(4, False, True)).zeros.equal(weight.zeros)
    wrapped = replace(pack(weight, is_v2=True), qzeros=torch.full((4, 4), -1, dtype=torch.int32))
    assert read(wrapped, GptqFormat(4, False)).zeros.equal(weight.zeros)


@pytest.mark.parametrize("bias", [torch.zeros(NUM_OUT), torch.arange(1.0, NUM_OUT + 1).half()])
def test_a_bias_is_kept_unless_it_is_all_zero(bias):
    again = read(replace(pack(random_weight(4)), bias=bias), GptqFormat(4, False))
    assert (again.bias is None) if not bias.any() else torch.equal(again.bias, bias)


def test_an_order_is_read_from_the_groups_of_the_features():
    tensors = pack(random_weight(4))
    assert read(replace(tensors, g_idx=None), GptqFormat(4, False)).perm is None
    reordered = read(replace(tensors, g_idx=tensors.g_idx.flip(0)), GptqFormat(4, False))
    assert reordered.perm.tolist() == [*range(96, 128), *range(64, 96), *range(32, 64), *range(32)]


def test_pack_refuses_a_width_that_gptq_does_not_know():
    with pytest.raises(ValueError, match="bits, these have 5"):
        pack(random_weight(5))


GOOD = pack(random_weight(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(qweight=GOOD.qweight.long()), r"qweight is int64 \[12, 32\]"),
        (dict(qweight=GOOD.qweight[:0]), r"qweight is int32 \[0, 32\]"),
        (dict(qweight=GOOD.qweight[:11]), "qweight has 11 rows, which hold no whole number of 3-bit codes"),
        (dict(scales=GOOD.scales[:, :31]), r"scales is float16 \[4, 31\]; floating point \[groups, 32\]"),
        (dict(scales=GOOD.scales[:3]), "scales has 3 groups"),
        (dict(scales=GOOD.scales[:0]), "scales has 0 groups"),
        (dict(scales=GOOD.scales.int()), "scales is int32"),
        (dict(qzeros=GOOD.qzeros[:3]), r"qzeros is int32 \[3, 3\]; int32 \[4, 3\] would be right"),
        (dict(qzeros=None), "qzeros is missing"),
        (dict(g_idx=GOOD.g_idx[:5]), r"g_idx is int32 \[5\]; int32 \[128\] would be right"),
        (dict(g_idx=GOOD.g_idx.float()), r"g_idx is float32"),
        (dict(g_idx=torch.zeros_like(GOOD.g_idx)), "g_idx does not put 32 input features into each of 4 groups"),
        (dict(g_idx=GOOD.g_idx - 1), "g_idx does not put"),
        (dict(bias=torch.ones(3)), r"bias is float32 \[3\]; floating point \[32\] would be right"),
    ],
)
def test_read_names_the_tensor_that_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        read(GptqTensors(**{**vars(GOOD), **change}), GptqFormat(3, False))
