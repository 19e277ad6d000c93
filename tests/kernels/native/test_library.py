import logging
from pathlib import Path

import pytest
import torch

from expertmesh.kernels.native.library import load, load_default
from expertmesh.kernels.native.matrix import NativeMatrix
from expertmesh.kernels.native.prebuilt import KINDS, compile_ahead, find
from expertmesh.kernels.quantize import round_to_nearest

NOWHERE = Path("/nonexistent")
NO_COMPILER = "/nonexistent/cc"
needs_compiler = pytest.mark.skipif(load_default() is None, reason="needs a C compiler and AVX2")


def test_without_a_compiler_there_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert load(NO_COMPILER, tmp_path, NOWHERE) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot run /nonexistent/cc" in caplog.text


@needs_compiler
def test_prebuilt_kernels_need_no_compiler_and_multiply_like_those_compiled_here(tmp_path):
    compile_ahead("cc", tmp_path / "prebuilt", KINDS[-1:])
    assert find(tmp_path / "prebuilt") is not None
    prebuilt, compiled = load(NO_COMPILER, NOWHERE, tmp_path / "prebuilt"), load("cc", tmp_path, NOWHERE)
    weight = round_to_nearest(torch.randn(96, 256), 4, 64)
    rows = torch.randn(5, 256)
    products = [NativeMatrix.pack(library, weight).multiply(rows) for library in (prebuilt, compiled)]
    assert torch.equal(*products)
