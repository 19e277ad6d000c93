"""8-bit numbers with scales against compressed-tensors' own code, where it is installed."""

import importlib
import importlib.util
import warnings
from types import ModuleType

import pytest
import torch
from number_formats import WHOLE, floats, integers, strategy

from expertmesh.kernels.formats import Block
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.scaled import ScaledTensors, unpack_floats, unpack_integers

MATRIX = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def compressed_tensors() -> ModuleType:
    if importlib.util.find_spec("compressed_tensors") is None:
        pytest.skip("compressed-tensors is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("compressed_tensors.quantization")
        return importlib.import_module("compressed_tensors.compressors.naive_quantized")


def compress(module: ModuleType, scale: torch.Tensor, zero: torch.Tensor, **args) -> tuple[dict, torch.Tensor]:
    """Let them store MATRIX with given scales; returns their tensors, and the values that they read from these."""
    quantization = importlib.import_module("compressed_tensors.quantization")
    weights = quantization.QuantizationArgs(num_bits=8, **args)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    state = {"weight": MATRIX.to(scale.dtype), "weight_scale": scale, "weight_zero_point": zero}
    theirs = module.NaiveQuantizationCompressor.compress(state, scheme)
    return theirs, module.NaiveQuantizationCompressor.decompress(theirs, scheme)["weight"]


@pytest.mark.parametrize("block", [WHOLE, (1, -1), (16, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floats_mean_the_same(compressed_tensors, block, dtype):
    scale = floats(MATRIX, block, dtype)[0]["scale"]
    scale = scale.flatten() if block == WHOLE else scale
    theirs, values = compress(compressed_tensors, scale, torch.zeros_like(scale), type="float", **strategy(block))
    read = unpack_floats(ScaledTensors(theirs["weight"], theirs["weight_scale"]), Block(*block), dtype)
    assert read.data.equal(values)


@pytest.mark.parametrize("block", [WHOLE, (1, -1), (1, 32)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_mean_the_same(compressed_tensors, block, symmetric):
    stored = integers(MATRIX, block, 0 if symmetric else 9)[0]
    scale, zero = (stored[part].flatten() if block == WHOLE else stored[part] for part in ("scale", "zero"))
    theirs, values = compress(compressed_tensors, scale, zero, type="int", symmetric=symmetric, **strategy(block))
    tensors = ScaledTensors(theirs["weight"], theirs["weight_scale"], theirs.get("weight_zero_point"))
    assert dequantize(unpack_integers(tensors, Block(*block))).equal(values)
