"""Which version of GPTQ's format AutoRound packs, as its own code does it, where it is installed."""

import importlib
import importlib.util

import pytest
import torch

from expertmesh.checkpoint.auto_round import GPTQ_PACKINGS
from expertmesh.kernels import gptq
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import QuantizedWeight

NUM_OUT, NUM_IN = 64, 128


def pack(weight: QuantizedWeight, packing: str) -> torch.nn.Module:
    """Let AutoRound pack ``weight``, which it takes as values, scales and zero points."""
    export = importlib.import_module("auto_round.export.export_to_autoround.export")
    linear = torch.nn.Linear(NUM_IN, NUM_OUT, bias=False)
    linear.weight.data = dequantize(weight)
    kind = export.dynamic_import_quant_linear_for_packing(packing, weight.bits, weight.group_size, sym=False)
    packed = kind(weight.bits, weight.group_size, NUM_IN, NUM_OUT, bias=False)
    packed.device = "cpu"
    packed.pack(linear, weight.scales.float(), weight.zeros.float(), None, device="cpu")
    return packed


@pytest.mark.skipif(importlib.util.find_spec("auto_round") is None, reason="auto-round is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("packing", sorted(GPTQ_PACKINGS))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 128])
def test_auto_round_packs_what_is_read(packing, bits, group_size):
    matrix = torch.randn(NUM_OUT, NUM_IN, generator=torch.Generator().manual_seed(bits))
    weight = round_to_nearest(matrix, bits, group_size)
    # The first version cannot store a zero point of 0, which these values on both sides of 0 do not have.
    assert weight.zeros.all()
    theirs = pack(weight, packing)
    tensors = gptq.GptqTensors(theirs.qweight, theirs.qzeros, theirs.scales)
    read = gptq.read(tensors, gptq.GptqFormat(bits, is_symmetric=False, is_v2=GPTQ_PACKINGS[packing]))
    assert dequantize(read).equal(dequantize(weight))
