"""AWQ packing against autoawq's own unpacking, where that package is installed (pip install --no-deps autoawq)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from expertmesh.kernels import awq
from expertmesh.kernels.quantize import dequantize, round_to_nearest


@pytest.fixture(scope="module")
def packing_utils() -> ModuleType:
    """One file of autoawq, loaded by itself: the whole package needs a GPU's libraries."""
    package = importlib.util.find_spec("awq")
    if package is None or package.origin is None:
        pytest.skip("autoawq is not installed")
    path = Path(package.origin).parent / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("awq_packing_utils", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("num_out", "num_in", "group_size"), [(64, 128, 32), (8, 64, 64), (256, 256, 128)])
def test_autoawq_reads_what_we_pack(packing_utils: ModuleType, num_out: int, num_in: int, group_size: int):
    generator = torch.Generator().manual_seed(num_out)
    weight = round_to_nearest(torch.randn(num_out, num_in, generator=generator), 4, group_size)
    packed = awq.pack(weight)
    codes, zeros = packing_utils.unpack_awq(packed.qweight, packed.qzeros, 4)
    codes, zeros = packing_utils.reverse_awq_order(codes, zeros, 4)
    assert torch.equal((codes & 0xF).T.to(torch.uint8), weight.codes)
    assert torch.equal((zeros & 0xF).T.to(torch.uint8), weight.zeros)
    theirs = packing_utils.dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, 4, group_size)
    assert torch.equal(theirs.T, dequantize(weight, torch.float16))
