import pytest
import torch
from number_formats import WHOLE, floats, integers, meaning

from expertmesh.kernels.formats import Block
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.scaled import ScaledTensors, unpack_floats, unpack_integers

NUM_OUT, NUM_IN = 48, 80
MATRIX = torch.randn(NUM_OUT, NUM_IN, generator=torch.Generator().manual_seed(0))
BLOCKS = [WHOLE, (1, -1), (1, 16), (16, 16), (32, 128), (7, 9)]


def test_every_float_means_what_its_bits_say():
    codes = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    is_number = ~codes.float().isnan()
    assert is_number.sum() == 254
    values = unpack_floats(ScaledTensors(codes[None], torch.tensor(3.0)), Block(*WHOLE), torch.float32).data[0]
    assert values[is_number].equal((3 * meaning(codes))[is_number].float())
    assert values[~is_number].isnan().all()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_floats_are_multiplied_and_rounded_once(block, scales, dtype):
    stored, values = floats(MATRIX.to(dtype), block, scales)
    found = unpack_floats(ScaledTensors(stored["weight"], stored["scale"]), Block(*block), dtype)
    assert found.data.dtype == dtype
    assert found.data.equal(values)


@pytest.mark.parametrize("block", [WHOLE, (1, -1), (1, 16), (16, 16), (7, 40)])
@pytest.mark.parametrize("zero", [0, -128, 127])
def test_integers_stay_as_they_are(block, zero):
    stored, _ = integers(MATRIX, block, 0)
    codes = stored["weight"]
    zeros = torch.full_like(stored["scale"], zero, dtype=torch.int8)
    found = unpack_integers(ScaledTensors(codes, stored["scale"], zeros if zero else None), Block(*block))
    assert (found.bits, found.codes.dtype, found.group_size) == (8, torch.uint8, Block(*block).inputs_of(NUM_IN))
    scales = stored["scale"].repeat_interleave(Block(*block).outputs_of(NUM_OUT), 0)[:NUM_OUT]
    spread = scales.repeat_interleave(found.group_size, 1)
    assert dequantize(found).equal((codes.float() - zero) * spread)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_only_scale_of_a_matrix_may_have_dimensions(shape):
    stored, values = floats(MATRIX, WHOLE, torch.float32)
    scale = stored["scale"].reshape(shape)
    assert unpack_floats(ScaledTensors(stored["weight"], scale), Block(*WHOLE), torch.float32).data.equal(values)


def test_a_bias_is_kept():
    stored, _ = floats(MATRIX, WHOLE, torch.float32)
    bias = torch.arange(float(NUM_OUT))
    tensors = ScaledTensors(stored["weight"], stored["scale"], bias=bias)
    assert unpack_floats(tensors, Block(*WHOLE), torch.float32).bias is bias


FLOATS, INTEGERS = MATRIX.to(torch.float8_e4m3fn), MATRIX.to(torch.int8)
CHANNELS = torch.ones(NUM_OUT, 1)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (ScaledTensors(FLOATS, CHANNELS), r"weight is float8_e4m3fn \[48, 80\]; int8 with two dimensions"),
        (ScaledTensors(INTEGERS[0], CHANNELS), r"weight is int8 \[80\]; int8 with two dimensions"),
        (ScaledTensors(INTEGERS, torch.ones(47, 1)), r"scales is float32 \[47, 1\]; floating point \[48, 1\]"),
        (ScaledTensors(INTEGERS, CHANNELS.int()), r"scales is int32 \[48, 1\]; floating point \[48, 1\]"),
        (ScaledTensors(INTEGERS, CHANNELS, torch.ones(48, 1)), r"zeros is float32 \[48, 1\]; int8 \[48, 1\]"),
        (ScaledTensors(INTEGERS, CHANNELS, bias=torch.ones(3)), r"bias is float32 \[3\]; floating point \[48\]"),
    ],
)
def test_what_does_not_fit_is_named(tensors, message):
    with pytest.raises(ValueError, match=message):
        unpack_integers(tensors, Block(1, -1))


def test_integers_need_blocks_that_divide_the_inputs():
    with pytest.raises(ValueError, match="blocks of 64 do not divide 80 input features"):
        unpack_integers(ScaledTensors(INTEGERS, torch.ones(48, 2)), Block(1, 64))
