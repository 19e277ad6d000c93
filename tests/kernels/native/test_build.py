import subprocess
import sys

import pytest

from expertmesh.kernels.native import build
from expertmesh.kernels.native.isa import VARIANTS
from expertmesh.kernels.native.library import load_default

needs_compiler = pytest.mark.skipif(load_default() is None, reason="needs a C compiler and AVX2")
# Any compiles as well as another.
LEAST = VARIANTS[-1]

BUILD_AND_MULTIPLY = """
import sys
from pathlib import Path
import torch
from expertmesh.kernels.native.isa import usable_variants
from expertmesh.kernels.native.library import load
from expertmesh.kernels.native.matrix import NativeMatrix
from expertmesh.kernels.quantize import round_to_nearest
library = load(usable_variants(), "cc", Path(sys.argv[1]), Path("/nonexistent"))
matrix = NativeMatrix.pack(library, round_to_nearest(torch.eye(32), 4, 32))
print(matrix.multiply(torch.ones(1, 32)).sum().item())
"""


@needs_compiler
def test_a_library_is_compiled_once(tmp_path):
    library = build.build("cc", tmp_path, LEAST)
    written = library.stat().st_mtime_ns
    assert list(tmp_path.iterdir()) == [library]
    assert build.build("cc", tmp_path, LEAST) == library
    assert library.stat().st_mtime_ns == written


@needs_compiler
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:99] + b"?" + b[100:]])
def test_a_damaged_file_is_compiled_anew(tmp_path, damage):
    library = build.build("cc", tmp_path, LEAST)
    intact = library.read_bytes()
    library.write_bytes(damage(intact))
    assert build.build("cc", tmp_path, LEAST) == library
    assert len(library.read_bytes()) == len(intact)


@needs_compiler
def test_processes_may_build_at_the_same_time(tmp_path):
    command = [sys.executable, "-c", BUILD_AND_MULTIPLY, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=200)[0] for process in processes]
    assert [float(answer) for answer in answers] == pytest.approx([32.0, 32.0], rel=1e-3)
    assert len(list(tmp_path.iterdir())) == 1


def compiler_script(tmp_path, text):
    script = tmp_path / "compiler"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return str(script)


@needs_compiler
def test_every_variant_has_a_library_of_its_own():
    assert len({build.file_name(variant, "cc 12") for variant in VARIANTS}) == len(VARIANTS)
    assert build.file_name(LEAST, "cc 12") != build.file_name(LEAST, "cc 13")


def test_a_failing_compiler_is_quoted_and_leaves_nothing_behind(tmp_path):
    compiler = compiler_script(tmp_path, 'case "$*" in --version) echo 1;; *) echo no space >&2; exit 1;; esac')
    with pytest.raises(build.BuildError, match="failed: no space"):
        build.build(compiler, tmp_path / "cache", LEAST)
    assert not list((tmp_path / "cache").iterdir())


@needs_compiler
def test_a_library_that_others_may_have_written_is_compiled_anew(tmp_path, caplog):
    library = build.build("cc", tmp_path, LEAST)
    library.chmod(0o770)
    assert build.build("cc", tmp_path, LEAST) == library
    assert library.stat().st_mode & 0o777 == 0o700
    assert f"not used: others may write {library}" in caplog.text


@needs_compiler
def test_a_library_is_kept_elsewhere_than_where_others_may_write(tmp_path, caplog):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    library = build.build("cc", shared, LEAST)
    assert library.parent.stat().st_mode & 0o777 == 0o700
    assert not list(shared.iterdir())
    assert f"not in {shared}: others may write {shared}" in caplog.text


@pytest.mark.parametrize(
    ("base", "expected"), [("/some/where", "/some/where/expertmesh"), ("", "/home/x/.cache/expertmesh")]
)
def test_the_cache_follows_the_environment(monkeypatch, base, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", "/home/x")
    assert str(build.default_directory()) == expected
