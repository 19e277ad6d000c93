import logging
from pathlib import Path

import pytest
import torch
from isas import USABLE

from expertmesh.kernels.native.isa import VARIANTS
from expertmesh.kernels.native.library import load, load_default
from expertmesh.kernels.native.matrix import NativeMatrix
from expertmesh.kernels.native.prebuilt import compile_ahead, find
from expertmesh.kernels.quantize import round_to_nearest

NOWHERE = Path("/nonexistent")
NO_COMPILER = "/nonexistent/cc"
needs_compiler = pytest.mark.skipif(load_default() is None, reason="needs a C compiler and AVX2")


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_without_a_compiler_there_is_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert load(VARIANTS, NO_COMPILER, tmp_path, NOWHERE) is None
    (warning,) = warnings_of(caplog)
    assert "cannot run /nonexistent/cc" in warning


def test_a_processor_without_avx2_is_named(tmp_path, caplog):
    assert load((), "cc", tmp_path, NOWHERE) is None
    assert "the processor lacks AVX2, FMA or F16C" in warnings_of(caplog)[0]


@needs_compiler
def test_a_compiler_that_does_not_know_the_best_builds_the_next(tmp_path, caplog):
    old = tmp_path / "old-cc"
    old.write_text(
        '#!/bin/sh\ncase "$*" in *avx512*|*amx*|*vnni*) echo unknown flag >&2; exit 1;; *) exec cc "$@";; esac\n'
    )
    old.chmod(0o755)
    library = load(USABLE, str(old), tmp_path, NOWHERE)
    assert library is not None
    assert library.isa == "avx2"
    assert not warnings_of(caplog)


@needs_compiler
def test_the_default_is_the_best_instruction_set():
    best = load_default()
    assert best is not None
    assert best.isa == USABLE[0].isa
    assert load_default(best.isa).isa == best.isa


@needs_compiler
def test_prebuilt_kernels_need_no_compiler_and_multiply_like_those_compiled_here(tmp_path):
    least = USABLE[-1:]
    compile_ahead("cc", tmp_path / "prebuilt", least)
    assert find(tmp_path / "prebuilt", least[0]) is not None
    prebuilt = load(USABLE, NO_COMPILER, NOWHERE, tmp_path / "prebuilt")
    compiled = load(least, "cc", tmp_path, NOWHERE)
    weight = round_to_nearest(torch.randn(96, 256), 4, 64)
    rows = torch.randn(5, 256)
    products = [NativeMatrix.pack(library, weight).multiply(rows) for library in (prebuilt, compiled)]
    assert torch.equal(*products)
