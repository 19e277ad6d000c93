"""4-bit codes and LLM.int8() against bitsandbytes' own code, where it is installed."""

import importlib
import importlib.util
import warnings
from types import ModuleType

import pytest
import torch

from expertmesh.kernels.bitsandbytes import FourBitTensors, unpack_4bit, unpack_int8
from expertmesh.kernels.quantize import dequantize

# On a CPU bitsandbytes 0.50.2 reads blocks that reach over several rows otherwise than it wrote them.
SHAPE = (48, 256)
MATRIX = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def functional() -> ModuleType:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("bitsandbytes.functional")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("block_size", [64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_4_bits_mean_the_same(functional, quant_type, is_nested, block_size, dtype):
    codes, state = functional.quantize_4bit(
        MATRIX.to(dtype), blocksize=block_size, quant_type=quant_type, compress_statistics=is_nested
    )
    parts = state.as_dict(packed=True)
    tensors = FourBitTensors(
        codes=codes,
        absmax=parts["absmax"],
        quant_map=parts["quant_map"],
        state=parts[f"quant_state.bitsandbytes__{quant_type}"],
        nested_absmax=parts.get("nested_absmax"),
        nested_quant_map=parts.get("nested_quant_map"),
    )
    assert unpack_4bit(tensors, SHAPE, dtype).data.equal(functional.dequantize_4bit(codes, state))


@pytest.mark.filterwarnings("ignore")
def test_integers_mean_the_same(functional):
    codes, scb, _ = functional.int8_vectorwise_quant(MATRIX.half())
    ours = dequantize(unpack_int8(codes, scb, None, None))
    torch.testing.assert_close(ours, functional.int8_vectorwise_dequant(codes, scb), rtol=2**-22, atol=0)
