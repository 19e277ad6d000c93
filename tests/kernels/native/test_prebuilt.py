import pytest

from expertmesh.kernels.native import prebuilt
from expertmesh.kernels.native.build import DIGEST_BYTES, BuildError, file_name
from expertmesh.kernels.native.isa import VARIANTS

SEALED_EMPTY_FILE = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@pytest.fixture
def libraries(tmp_path):
    """A directory with an (empty, intact) library for every variant."""
    directory = tmp_path / "prebuilt"
    directory.mkdir()
    for variant in VARIANTS:
        (directory / file_name(variant)).write_bytes(SEALED_EMPTY_FILE)
    assert len(SEALED_EMPTY_FILE) == DIGEST_BYTES
    return directory


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_is_found(libraries, variant):
    assert prebuilt.find(libraries, variant) == libraries / file_name(variant)


def test_a_damaged_library_is_passed_over(libraries):
    (libraries / file_name(VARIANTS[0])).write_bytes(b"cut short")
    assert prebuilt.find(libraries, VARIANTS[0]) is None


def test_without_a_directory_nothing_is_found(tmp_path):
    assert prebuilt.find(tmp_path / "none", VARIANTS[0]) is None


def test_compiling_without_a_compiler_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="cannot run /nonexistent/cc"):
        prebuilt.compile_ahead("/nonexistent/cc", tmp_path)
