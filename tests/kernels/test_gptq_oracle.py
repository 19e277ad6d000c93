"""GPTQ packing against gptqmodel's own, where it is installed (pip install --no-deps gptqmodel and what it imports)."""

import importlib.util
import os
import warnings
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from expertmesh.kernels import gptq
from expertmesh.kernels.formats import GptqFormat
from expertmesh.kernels.quantize import dequantize, round_to_nearest

NUM_OUT, NUM_IN = 64, 128


@pytest.fixture(scope="module")
def qlinear() -> ModuleType:
    if importlib.util.find_spec("gptqmodel") is None:
        pytest.skip("gptqmodel is not installed")
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("gptqmodel.nn_modules.qlinear.torch")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("sym", [False, True])
def test_gptqmodel_packs_and_reads_the_same(qlinear, bits, group_size, desc_act, sym):
    generator = torch.Generator().manual_seed(bits)
    matrix = torch.randn(NUM_OUT, NUM_IN, generator=generator)
    perm = torch.randperm(NUM_IN, generator=generator) if desc_act else None
    weight = replace(round_to_nearest(matrix, bits, group_size, is_symmetric=sym), perm=perm)
    ours = gptq.pack(weight, is_v2=True)

    linear = torch.nn.Linear(NUM_IN, NUM_OUT, bias=False)
    linear.weight.data = dequantize(weight)
    theirs = qlinear.TorchLinear(bits, group_size, sym, desc_act, NUM_IN, NUM_OUT)
    theirs.pack_original(linear, weight.scales.float(), weight.zeros.float(), ours.g_idx)
    assert theirs.qweight.equal(ours.qweight)
    assert theirs.qzeros.equal(ours.qzeros)
    assert theirs.scales.equal(ours.scales)

    tensors = gptq.GptqTensors(theirs.qweight, theirs.qzeros, theirs.scales, theirs.g_idx)
    unpacked = gptq.read(tensors, GptqFormat(bits, sym, is_v2=True))
    assert dequantize(unpacked).equal(dequantize(weight))
    theirs.post_init()
    found = theirs.dequantize_weight().T.float()
    torch.testing.assert_close(found, dequantize(weight), rtol=2e-3, atol=1e-4)
