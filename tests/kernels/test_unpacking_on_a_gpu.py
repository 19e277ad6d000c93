"""From packed words to the GPU's layout nothing leaves the GPU: shown by torch's fake tensors, which need none."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from expertmesh.kernels import awq, gptq
from expertmesh.kernels.formats import GPTQ_BITS, GptqFormat

GPU = torch.device("cuda", 0)
NUM_OUT, NUM_IN, GROUP_SIZE = 512, 256, 64


def from_awq(has_zeros):
    scales = torch.empty(NUM_IN // GROUP_SIZE, NUM_OUT, dtype=torch.float16, device=GPU)
    words = torch.empty(NUM_IN, NUM_OUT // 8, dtype=torch.int32, device=GPU)
    zeros = torch.empty(NUM_IN // GROUP_SIZE, NUM_OUT // 8, dtype=torch.int32, device=GPU) if has_zeros else None
    return awq.read(awq.AwqTensors(words, zeros, scales))


def from_gptq(bits):
    scales = torch.empty(NUM_IN // GROUP_SIZE, NUM_OUT, dtype=torch.float16, device=GPU)
    words = torch.empty(NUM_IN * bits // 32, NUM_OUT, dtype=torch.int32, device=GPU)
    return gptq.read(gptq.GptqTensors(words, None, scales), GptqFormat(bits, is_symmetric=True))


FORMATS = {
    "awq": lambda: from_awq(has_zeros=True),
    "awq without zeros": lambda: from_awq(has_zeros=False),
    **{f"gptq {bits} bits": lambda bits=bits: from_gptq(bits) for bits in GPTQ_BITS},
}


@pytest.mark.parametrize("name", FORMATS)
def test_codes_stay_where_their_words_are(name):
    with FakeTensorMode():
        weight = FORMATS[name]()
        parts = weight.codes, weight.scales, weight.zeros
    assert {part.device for part in parts} == {GPU}


@pytest.mark.parametrize("name", FORMATS)
def test_they_are_laid_out_there(name):
    pytest.importorskip("triton")
    from expertmesh.kernels.triton.backend import interleave_outputs
    from expertmesh.kernels.triton.layout import join, stage

    with FakeTensorMode():
        parts = [stage(interleave_outputs(FORMATS[name](), FORMATS[name]()), GPU) for _ in range(2)]
        joined = join(parts, GPU)
    for matrices in (*parts, joined):
        assert {part.device for part in (matrices.words, matrices.scales, matrices.zeros)} == {GPU}
