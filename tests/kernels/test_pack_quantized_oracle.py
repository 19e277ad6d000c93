"""Pack-quantized codes against compressed-tensors' own code, where it is installed."""

import importlib
import importlib.util
import warnings
from types import ModuleType

import pytest
import torch

from expertmesh.kernels import pack_quantized
from expertmesh.kernels.quantize import dequantize, round_to_nearest

NUM_OUT, NUM_IN = 64, 128


@pytest.fixture(scope="module")
def compressed_tensors() -> ModuleType:
    if importlib.util.find_spec("compressed_tensors") is None:
        pytest.skip("compressed-tensors is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("compressed_tensors.quantization")
        return importlib.import_module("compressed_tensors.compressors.pack_quantized")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compressed_tensors_packs_and_reads_the_same(compressed_tensors, bits, group_size, symmetric, dtype):
    quantization = importlib.import_module("compressed_tensors.quantization")
    groups = {"strategy": "channel"} if group_size == NUM_IN else {"strategy": "group", "group_size": group_size}
    args = quantization.QuantizationArgs(num_bits=bits, symmetric=symmetric, **groups)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)
    matrix = torch.randn(NUM_OUT, NUM_IN, generator=torch.Generator().manual_seed(bits))
    rounded = round_to_nearest(matrix, bits, group_size, is_symmetric=symmetric)
    middle = 2 ** (bits - 1)
    theirs = compressed_tensors.PackedQuantizationCompressor.compress(
        {
            "weight": matrix.to(dtype),
            "weight_scale": rounded.scales.to(dtype),
            "weight_zero_point": (rounded.zeros.int() - middle).to(torch.int8),
        },
        scheme,
    )
    read = pack_quantized.read(pack_quantized.PackQuantizedTensors(**theirs), bits)
    values = compressed_tensors.PackedQuantizationCompressor.decompress(theirs, scheme)["weight"]
    # Theirs are multiplied in the dtype of the scales: the product in float32, rounded to it once.
    assert dequantize(read, dtype).equal(values)
    ours = pack_quantized.pack(read, symmetric).as_dict()
    assert set(ours) == set(theirs)
    assert all(ours[part].equal(tensor) for part, tensor in theirs.items())
