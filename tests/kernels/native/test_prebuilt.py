import pytest

from expertmesh.kernels.native import prebuilt
from expertmesh.kernels.native.build import DIGEST_BYTES, BuildError

SEALED_EMPTY_FILE = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
V3 = "avx2 fma f16c bmi1 bmi2 movbe abm"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.fixture
def libraries(tmp_path):
    """A directory with an (empty, intact) library for every kind of processor."""
    directory = tmp_path / "prebuilt"
    directory.mkdir()
    for kind in prebuilt.KINDS:
        (directory / kind.library).write_bytes(SEALED_EMPTY_FILE)
    assert len(SEALED_EMPTY_FILE) == DIGEST_BYTES
    return directory


def cpu_info(tmp_path, flags):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    return file


def library_of(name):
    return next(kind.library for kind in prebuilt.KINDS if kind.name == name)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [(V3, "v3"), (f"{V3} avx_vnni", "v3-vnni"), (V4, "v4"), (f"{V4} avx512_vnni avx_vnni", "v4-vnni")],
)
def test_the_best_library_that_the_processor_runs_is_found(libraries, tmp_path, flags, kind):
    assert prebuilt.find(libraries, cpu_info(tmp_path, flags)) == libraries / library_of(kind)


def test_a_damaged_library_is_passed_over(libraries, tmp_path):
    (libraries / library_of("v4")).write_bytes(b"cut short")
    assert prebuilt.find(libraries, cpu_info(tmp_path, V4)) == libraries / library_of("v3")


@pytest.mark.parametrize("flags", ["", "avx2 fma", "avx512_vnni"])
def test_a_processor_of_no_kind_finds_nothing(libraries, tmp_path, flags):
    assert prebuilt.find(libraries, cpu_info(tmp_path, flags)) is None


def test_without_a_directory_or_a_list_of_features_nothing_is_found(libraries, tmp_path):
    assert prebuilt.find(tmp_path / "none") is None
    assert prebuilt.find(libraries, tmp_path / "none") is None


def test_the_names_of_the_libraries_differ():
    assert len({kind.library for kind in prebuilt.KINDS}) == len(prebuilt.KINDS)


def test_compiling_without_a_compiler_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="cannot run /nonexistent/cc"):
        prebuilt.compile_ahead("/nonexistent/cc", tmp_path)
