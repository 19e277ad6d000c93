import json
from dataclasses import replace

import pytest
import torch
from number_formats import four_bit, llm_int8

from expertmesh.kernels.bitsandbytes import FourBitTensors, unpack_4bit, unpack_int8
from expertmesh.kernels.quantize import dequantize

SHAPE = (48, 80)
MATRIX = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def stored(quant_type: str = "nf4", is_nested: bool = False, dtype=torch.float32, **how) -> tuple:
    """Return the tensors that files hold of MATRIX, and what they mean."""
    parts, values = four_bit(quant_type, is_nested, **how).encode(MATRIX.to(dtype))
    return FourBitTensors(
        codes=parts["weight"],
        absmax=parts["weight.absmax"],
        quant_map=parts["weight.quant_map"],
        state=parts[f"weight.quant_state.bitsandbytes__{quant_type}"],
        nested_absmax=parts.get("weight.nested_absmax"),
        nested_quant_map=parts.get("weight.nested_quant_map"),
    ), values


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_codes_mean_what_their_definition_says(quant_type, is_nested, dtype, block_size):
    tensors, values = stored(quant_type, is_nested, dtype, block_size=block_size)
    found = unpack_4bit(tensors, SHAPE, dtype)
    assert found.data.dtype == dtype
    assert found.data.equal(values)


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32, torch.int8])
def test_bytes_may_be_said_to_be_of_any_dtype(storage):
    tensors, values = stored(storage=storage)
    assert unpack_4bit(tensors, SHAPE, torch.float32).data.equal(values)


def test_values_are_rounded_as_bitsandbytes_does_first():
    tensors, values = stored(dtype=torch.float16)
    assert unpack_4bit(tensors, SHAPE, torch.bfloat16).data.equal(values.to(torch.bfloat16))


def test_the_last_block_and_the_last_byte_may_be_smaller():
    codes = torch.tensor([[0x12], [0x34], [0x50]], dtype=torch.uint8)
    state = {"blocksize": 4, "shape": [1, 5], "dtype": "float32"}
    tensors = FourBitTensors(codes, torch.tensor([2.0, 10.0]), torch.arange(16.0), encoded(state))
    assert unpack_4bit(tensors, (1, 5), torch.float32).data.tolist() == [[2, 4, 6, 8, 50]]


def encoded(state: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(state).encode())).byte()


STATE = {"blocksize": 64, "shape": list(SHAPE), "dtype": "float32", "nested_blocksize": 256, "nested_offset": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": encoded({**STATE, "shape": [80, 48]})}, r"quant_state says shape \[80, 48\]; \[48, 80\] would be"),
        ({"state": encoded({**STATE, "dtype": "int8"})}, "quant_state says dtype 'int8'; one of float32"),
        ({"state": encoded({**STATE, "blocksize": 0})}, "quant_state says blocksize 0; a positive integer would be"),
        ({"state": encoded({**STATE, "blocksize": 32})}, r"absmax is uint8 \[60\]; uint8 \[120\] would be right"),
        ({"state": encoded({**STATE, "nested_blocksize": None})}, "quant_state says nested_blocksize None"),
        ({"state": encoded({**STATE, "nested_offset": 1e99})}, r"quant_state says nested_offset 1e\+99; a number"),
        ({"state": encoded([1])}, "quant_state is list; a JSON object would be right"),
        ({"state": torch.ones(9).byte()}, "quant_state is no JSON"),
        ({"state": torch.tensor(list(b"[" * 99999)).byte()}, "quant_state is no JSON"),
        ({"state": torch.ones(9)}, r"quant_state is float32 \[9\]; JSON in uint8 would be right"),
        ({"codes": torch.ones(9, 1).byte()}, r"weight is uint8 \[9, 1\], of 9 bytes; 1920 would be right"),
        ({"quant_map": torch.ones(15)}, r"quant_map is float32 \[15\]; floating point \[16\] would be right"),
        ({"quant_map": torch.full((16,), torch.nan)}, "quant_map holds NaN or Inf"),
        ({"nested_absmax": torch.full((1,), torch.inf)}, "nested_absmax holds NaN or Inf"),
        ({"nested_quant_map": None}, r"absmax is uint8 \[60\]; floating point \[60\] would be right"),
        ({"absmax": torch.ones(60)}, r"absmax is float32 \[60\]; uint8 \[60\] would be right"),
        ({"bias": torch.ones(3)}, r"bias is float32 \[3\]; floating point \[48\]"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    tensors, _ = stored(is_nested=True)
    with pytest.raises(ValueError, match=message):
        unpack_4bit(replace(tensors, **changes), SHAPE, torch.float32)


def test_llm_int8_keeps_its_integers():
    parts, values = llm_int8().encode(MATRIX)
    found = unpack_int8(parts["weight"], parts["SCB"], parts["weight_format"], None)
    assert (found.codes.int() - 128).equal(parts["weight"].int())
    # The scale, a 127th, is rounded to float32 before it is multiplied by.
    torch.testing.assert_close(dequantize(found), values, rtol=2**-23, atol=0)


def test_integers_that_do_not_lie_row_by_row_are_refused():
    parts, _ = llm_int8().encode(MATRIX)
    with pytest.raises(ValueError, match="weight_format is 2; 0, row by row, would be right"):
        unpack_int8(parts["weight"], parts["SCB"], torch.tensor(2, dtype=torch.uint8), None)
    with pytest.raises(ValueError, match=r"SCB is int32 \[48\]; floating point would be right"):
        unpack_int8(parts["weight"], parts["SCB"].int(), None, None)
