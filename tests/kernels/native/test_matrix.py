"""The C kernels against float64 products of the dequantized weights, and the equalities that they promise."""

from dataclasses import replace

import pytest
import torch
from isas import USABLE, load_variant, open_library
from rows import run_each_alone

from expertmesh.kernels import awq
from expertmesh.kernels.bitstream import pack_stream
from expertmesh.kernels.native.library import Library
from expertmesh.kernels.native.matrix import INT8_PART, STORED_BITS, STORED_BITS_BESIDE_INT8, NativeMatrix
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, StoredWeight

# Activations keep 15 bits of the largest of each block.
MAX_ERROR = 2e-4
MAX_INT8_ERROR = 8e-3
ROWS = (1, 2, 3, 5, 8, 17, 64, 101)


def random_weight(
    bits: int, num_out: int, num_in: int, group_size: int, dtype: torch.dtype = torch.float16
) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(bits * num_out + num_in)
    num_groups = num_in // group_size
    return QuantizedWeight(
        codes=torch.randint(0, 2**bits, (num_out, num_in), dtype=torch.uint8, generator=generator),
        scales=(torch.rand(num_out, num_groups, generator=generator) - 0.3).to(dtype),
        zeros=torch.randint(0, 2**bits, (num_out, num_groups), dtype=torch.uint8, generator=generator),
        bits=bits,
        group_size=group_size,
    )


def pack(library: Library, weight: QuantizedWeight, activation_bits: int = 16) -> NativeMatrix:
    return NativeMatrix.pack(library, weight, activation_bits)


def rounded_to_int8(x: torch.Tensor) -> torch.Tensor:
    """Round each 32 features to 8 bits of the largest."""
    parts = x.unflatten(1, (-1, INT8_PART))
    largest = parts.abs().amax(dim=-1, keepdim=True)
    return ((parts * (127 / largest)).round().double() * (largest.double() / 127)).flatten(1)


def random_rows(num_rows: int, num_in: int) -> torch.Tensor:
    return torch.randn(num_rows, num_in, generator=torch.Generator().manual_seed(num_rows))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


# Outputs that fill no tile; groups smaller and larger than a block of 128, one over all features, odd and prime ones.
SHAPES = [
    *((37, 256, group_size) for group_size in (32, 64, 128, 256)),
    (1, 32, 32),
    (16, 384, 384),
    (50, 1000, 1000),
    (33, 131, 131),
    (17, 41, 41),
    (9, 96, 3),
    (5, 7, 1),
    (300, 640, 320),
]


def with_threads(num_threads: int, matrix: NativeMatrix, x: torch.Tensor) -> torch.Tensor:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads)
        return matrix.multiply(x)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", STORED_BITS)
@pytest.mark.parametrize(("num_out", "num_in", "group_size"), SHAPES)
def test_products_are_close_and_rows_do_not_depend_on_each_other(library, bits, num_out, num_in, group_size):
    weight = random_weight(bits, num_out, num_in, group_size)
    matrix, exact = pack(library, weight), dequantize(weight, torch.float64)
    x = random_rows(max(ROWS), num_in)
    single = run_each_alone(matrix.multiply, x, ROWS)
    assert relative_error(single, x.double() @ exact.T) < MAX_ERROR


@pytest.mark.parametrize("bits", STORED_BITS_BESIDE_INT8)
@pytest.mark.parametrize(
    ("num_out", "num_in", "group_size"),
    [*((37, 256, group_size) for group_size in (32, 64, 128, 256)), (1, 32, 32), (50, 992, 992), (300, 640, 320)],
)
def test_int8_products_are_those_of_rounded_rows(library, bits, num_out, num_in, group_size):
    weight = random_weight(bits, num_out, num_in, group_size)
    matrix, exact = pack(library, weight, activation_bits=8), dequantize(weight, torch.float64)
    x = random_rows(max(ROWS), num_in)
    single = run_each_alone(matrix.multiply, x, ROWS)
    assert relative_error(single, rounded_to_int8(x) @ exact.T) < 2e-6
    assert relative_error(single, x.double() @ exact.T) < MAX_INT8_ERROR


def between_codes(weight: QuantizedWeight) -> QuantizedWeight:
    """Move each zero point by up to half a step, and some beyond all codes."""
    moved = weight.zeros + torch.rand(weight.zeros.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return replace(weight, zeros=torch.where(weight.zeros == 0, -3 * moved, moved))


@pytest.mark.parametrize("bits", STORED_BITS)
@pytest.mark.parametrize(("num_out", "num_in", "group_size"), [(37, 256, 32), (37, 256, 16), (33, 131, 131)])
def test_zeros_may_lie_between_codes(library, bits, num_out, num_in, group_size):
    weight = between_codes(random_weight(bits, num_out, num_in, group_size, torch.float32))
    matrix, exact = pack(library, weight), dequantize(weight, torch.float64)
    x = random_rows(max(ROWS), num_in)
    single = run_each_alone(matrix.multiply, x, ROWS)
    assert relative_error(single, x.double() @ exact.T) < MAX_ERROR


@pytest.mark.parametrize("bits", STORED_BITS_BESIDE_INT8)
def test_zeros_may_lie_between_codes_beside_int8_rows(library, bits):
    weight = between_codes(random_weight(bits, 37, 256, 64))
    matrix, exact = pack(library, weight, activation_bits=8), dequantize(weight, torch.float64)
    x = random_rows(max(ROWS), 256)
    single = run_each_alone(matrix.multiply, x, ROWS)
    assert relative_error(single, rounded_to_int8(x) @ exact.T) < 2e-6


@pytest.mark.parametrize(("bits", "group_size"), [(8, 128), (5, 32), (4, 16), (3, 48), (2, 1)])
def test_codes_and_groups_that_int8_rows_do_not_suit_get_16_bits(library, bits, group_size):
    weight, x = random_weight(bits, 40, 8 * group_size, group_size), random_rows(9, 8 * group_size)
    found = pack(library, weight, activation_bits=8)
    assert found.multiply(x).equal(pack(library, weight).multiply(x))
    assert found.num_bytes == pack(library, weight).num_bytes


def test_activations_of_other_widths_are_refused(library):
    with pytest.raises(ValueError, match="activations cannot have 4 bits; 8 or 16 would be right"):
        pack(library, random_weight(4, 8, 64, 32), activation_bits=4)


@pytest.mark.parametrize(("bits", "activation_bits"), [(3, 16), (4, 16), (8, 16), (2, 8), (4, 8)])
@pytest.mark.parametrize("num_rows", [1, 4, 7, 100])
def test_threads_do_not_change_a_bit(library, bits, activation_bits, num_rows):
    matrix = pack(library, random_weight(bits, 1000, 512, 128), activation_bits)
    x = random_rows(num_rows, 512)
    assert with_threads(3, matrix, x).equal(with_threads(1, matrix, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scales", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 1, 9])
def test_every_type_of_rows_and_scales(library, dtype, scales, num_rows):
    weight = random_weight(4, 45, 96, 32, scales)
    x = random_rows(num_rows, 96).to(dtype)
    found = pack(library, weight).multiply(x)
    assert found.dtype == dtype
    assert found.shape == (num_rows, 45)
    # The outputs are those of float32 rows, rounded once.
    assert found.equal(pack(library, weight).multiply(x.float()).to(dtype))
    if num_rows:
        rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
        assert relative_error(found, x.double() @ dequantize(weight, torch.float64).T) < MAX_ERROR + rounding


def test_float64_rows_are_computed_in_float32(library):
    matrix, x = pack(library, random_weight(4, 20, 64, 32)), random_rows(3, 64)
    assert matrix.multiply(x.double()).equal(matrix.multiply(x).double())


def test_rows_may_be_a_slice_or_transposed(library):
    matrix, x = pack(library, random_weight(4, 20, 64, 32)), random_rows(6, 200)
    expected = matrix.multiply(x[:, 50:114].contiguous())
    assert matrix.multiply(x[:, 50:114]).equal(expected)
    assert matrix.multiply(x[:, 50:114].T.contiguous().T).equal(expected)
    assert matrix.multiply(x[::2, 50:114]).equal(expected[::2])


@pytest.mark.parametrize("activation_bits", [16, 8])
def test_rows_of_zeros_give_zeros(library, activation_bits):
    matrix = pack(library, random_weight(4, 20, 256, 128), activation_bits)
    x = random_rows(3, 256)
    x[1] = 0
    found = matrix.multiply(x)
    assert found[1].tolist() == [0.0] * 20
    assert found[::2].equal(matrix.multiply(x[::2]))


@pytest.mark.parametrize(("bits", "activation_bits"), [(4, 16), (8, 16), (2, 8), (4, 8)])
def test_the_largest_codes_and_rows_do_not_overflow(library, bits, activation_bits):
    top = 2**bits - 1
    weight = random_weight(bits, 40, 256, 256)
    weight = replace(weight, codes=torch.full_like(weight.codes, top), zeros=torch.zeros_like(weight.zeros))
    x = torch.ones(7, 256)  # each the largest integer once rounded
    expected = 256.0 * top * weight.scales.double().T.expand(7, 40)
    assert relative_error(pack(library, weight, activation_bits).multiply(x), expected) < 1e-6
    other = replace(weight, codes=weight.zeros.expand(40, 256), zeros=torch.full_like(weight.zeros, top))
    assert relative_error(pack(library, other, activation_bits).multiply(x), -expected) < 1e-6


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("num_rows", [1, 6])
@pytest.mark.parametrize(
    ("activation_bits", "max_error", "smallest"), [(16, MAX_ERROR, 1e-30), (8, MAX_INT8_ERROR, 1e-29)]
)
def test_rows_of_extreme_size(library, size, num_rows, activation_bits, max_error, smallest):
    weight = random_weight(4, 40, 256, 128, torch.float32)
    x = random_rows(num_rows, 256) * size
    found, expected = (
        pack(library, weight, activation_bits).multiply(x),
        x.double() @ dequantize(weight, torch.float64).T,
    )
    # Blocks whose largest value is below 2^-100 are rounded to steps of 2^-115, or 2^-107.
    assert (found.double() - expected).norm() <= max_error * max(expected.norm().item(), smallest)


@pytest.mark.parametrize("size", [2.0**-24, 1e-3, 65504.0])
def test_scales_of_extreme_size(library, size):
    weight = random_weight(4, 40, 256, 128)
    weight = replace(weight, scales=torch.full_like(weight.scales, size))
    x = random_rows(6, 256)
    assert (
        relative_error(pack(library, weight).multiply(x), x.double() @ dequantize(weight, torch.float64).T) < MAX_ERROR
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("num_rows", [2, 9])
@pytest.mark.parametrize("activation_bits", [16, 8])
def test_what_is_not_finite_comes_out_and_stays_in_its_row(library, dtype, value, num_rows, activation_bits):
    matrix, x = pack(library, random_weight(4, 40, 160, 32), activation_bits), random_rows(num_rows, 160).to(dtype)
    clean = matrix.multiply(x)
    x[1, 70] = value
    found = matrix.multiply(x)
    assert not found[1].isfinite().any()
    others = [row for row in range(num_rows) if row != 1]
    assert found[others].equal(clean[others])


def test_products_beyond_the_type_of_the_rows_become_infinite(library):
    matrix = pack(library, replace(random_weight(8, 4, 64, 64), scales=torch.full((4, 1), 65504.0)))
    assert matrix.multiply(torch.full((2, 64), 60000.0).half()).isinf().all()


@pytest.mark.parametrize(("bits", "bytes_per_code"), [(2, 0.25), (3, 0.40625), (4, 0.5), (5, 1), (8, 1)])
def test_packed_codes_take_their_bits(library, bits, bytes_per_code):
    matrix = pack(library, random_weight(bits, 64, 1024, 128))
    assert matrix.num_bytes == 64 * 1024 * bytes_per_code + 64 * 8 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 9}, "codes have 9 bits; 2 to 8 would be right"),
        ({"group_size": 48}, "64 input features are no multiple of the group size 48"),
        ({"group_size": 0}, "64 input features are no multiple of the group size 0"),
        ({"group_size": 64}, r"scales and zeros are \[8, 2\] and \[8, 2\]; \[8, 1\] would be right"),
        ({"codes": torch.zeros(8, 64, dtype=torch.int32)}, "codes and zeros are torch.int32 and torch.uint8"),
    ],
)
def test_weights_that_do_not_fit_are_refused(library, changes, message):
    with pytest.raises(ValueError, match=message):
        pack(library, replace(random_weight(4, 8, 64, 32), **changes))


@pytest.mark.parametrize("x", [torch.ones(2, 63), torch.ones(64), torch.ones(2, 64, device="meta")])
def test_rows_that_do_not_fit_are_refused(library, x):
    with pytest.raises(ValueError, match=r"\[M, 64\] on the CPU is right"):
        pack(library, random_weight(4, 8, 64, 32)).multiply(x)


def test_rounded_weights_multiply_like_their_values(library):
    values = torch.randn(80, 256, generator=torch.Generator().manual_seed(0))
    weight = round_to_nearest(values, 4, 64)
    x = random_rows(5, 256)
    assert (
        relative_error(pack(library, weight).multiply(x), x.double() @ dequantize(weight, torch.float64).T) < MAX_ERROR
    )


def pack_dense(library: Library, data: torch.Tensor) -> NativeMatrix:
    return NativeMatrix.pack(library, DenseWeight(data))


TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("row_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_out", "num_in"), [(1, 1), (37, 256), (16, 128), (50, 1000), (33, 131)])
def test_dense_products_are_close_and_rows_do_not_depend_on_each_other(library, dtype, row_dtype, num_out, num_in):
    data = random_rows(num_out, num_in).to(dtype)
    matrix, x = pack_dense(library, data), random_rows(max(ROWS), num_in).to(row_dtype)
    single = run_each_alone(matrix.multiply, x, (0, *ROWS))
    rounding = 0.0 if row_dtype == torch.float32 else torch.finfo(row_dtype).eps
    assert relative_error(single, x.double() @ data.double().T) < 1e-6 + rounding


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("row_dtype", TYPES)
def test_dense_matrices_take_rows_of_every_type(library, dtype, row_dtype):
    data, x = random_rows(40, 96).to(dtype), random_rows(5, 96).to(row_dtype)
    matrix = pack_dense(library, data)
    found, wide = matrix.multiply(x), matrix.multiply(x.float())
    assert found.dtype == row_dtype
    if dtype == row_dtype == torch.bfloat16:  # where the processor multiplies them, in another order
        torch.testing.assert_close(found.float(), wide, rtol=2**-8, atol=1e-5)
    else:
        assert found.equal(wide.to(row_dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_rows", [1, 20, 70])
def test_dense_products_do_not_depend_on_threads(library, dtype, num_rows):
    matrix, x = pack_dense(library, random_rows(1000, 512).to(dtype)), random_rows(num_rows, 512).to(dtype)
    assert with_threads(3, matrix, x).equal(with_threads(1, matrix, x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_in_a_dense_matrix_or_its_rows_comes_out(library, value, dtype):
    data, x = torch.ones(40, 160, dtype=dtype), torch.ones(3, 160, dtype=dtype)
    x[1, 70] = value
    expected = x.float() @ data.float().T
    assert pack_dense(library, data).multiply(x).float().allclose(expected, equal_nan=True)
    data[3, 5] = value
    assert not pack_dense(library, data).multiply(torch.ones(3, 160, dtype=dtype))[:, 3].isfinite().any()


@pytest.mark.parametrize(("dtype", "num_bytes"), [(torch.float32, 4), (torch.float16, 2), (torch.bfloat16, 2)])
def test_dense_matrices_take_their_bytes(library, dtype, num_bytes):
    assert pack_dense(library, torch.ones(64, 96, dtype=dtype)).num_bytes == 64 * 96 * num_bytes


def test_only_floats_are_taken(library):
    with pytest.raises(ValueError, match=r"the matrix is torch.int8; one of torch.float32, .* would be right"):
        pack_dense(library, torch.ones(2, 2, dtype=torch.int8))


@pytest.mark.parametrize("activation_bits", [16, 8])
@pytest.mark.parametrize("bits", STORED_BITS)
@pytest.mark.parametrize(("num_in", "group_size"), [(256, 128), (1000, 1000), (96, 32), (260, 130)])
def test_codes_give_the_same_bits_on_every_instruction_set(library, activation_bits, bits, num_in, group_size):
    weight, x = random_weight(bits, 70, num_in, group_size), random_rows(40, num_in)
    least = pack(open_library("avx2"), weight, activation_bits)
    assert pack(library, weight, activation_bits).multiply(x).equal(least.multiply(x))


@pytest.mark.parametrize("variant", USABLE, ids=lambda variant: variant.name)
@pytest.mark.parametrize("dtype", TYPES)
def test_variants_of_an_instruction_set_give_the_same_bits(variant, dtype):
    data, x = random_rows(70, 300).to(dtype), random_rows(40, 300).to(dtype)
    found = [pack_dense(library, data).multiply(x) for library in (load_variant(variant), open_library(variant.isa))]
    assert found[0].equal(found[1])


@pytest.mark.parametrize(("bits", "activation_bits"), [(2, 16), (3, 16), (4, 16), (8, 16), (2, 8), (3, 8), (4, 8)])
@pytest.mark.parametrize(
    ("num_out", "num_in", "group_size"), [(64, 256, 128), (45, 512, 256), (1, 96, 32), (70, 320, 160), (33, 288, 12)]
)
@pytest.mark.parametrize("is_ordered", [False, True])
@pytest.mark.parametrize("has_outputs_first", [False, True])
def test_streams_are_laid_out_as_their_codes_are(
    library, bits, activation_bits, num_out, num_in, group_size, is_ordered, has_outputs_first
):
    weight = random_weight(bits, num_out, num_in, group_size)
    order = torch.randperm(num_in, generator=torch.Generator().manual_seed(0)) if is_ordered else None
    in_file = weight.codes if order is None else weight.codes[:, order.argsort()]
    words = pack_stream(in_file.T, bits)
    words = words.T.contiguous().T if has_outputs_first else words
    streams = StoredWeight(words, weight.scales, weight.zeros, bits, group_size, order)
    assert streams.codes.equal(weight.codes)
    found, expected = (NativeMatrix.pack(library, one, activation_bits) for one in (streams, weight))
    assert all(one.equal(other) for one, other in zip(found.tensors, expected.tensors, strict=True))


@pytest.mark.parametrize("activation_bits", [16, 8])
@pytest.mark.parametrize(
    ("num_out", "num_in", "group_size"), [(64, 256, 128), (40, 512, 256), (8, 96, 32), (72, 320, 160), (32, 288, 12)]
)
def test_words_of_awq_are_laid_out_as_their_codes_are(library, activation_bits, num_out, num_in, group_size):
    weight = random_weight(4, num_out, num_in, group_size)
    stored = awq.read(awq.pack(weight))
    found, expected = (NativeMatrix.pack(library, one, activation_bits) for one in (stored, weight))
    assert all(one.equal(other) for one, other in zip(found.tensors, expected.tensors, strict=True))
