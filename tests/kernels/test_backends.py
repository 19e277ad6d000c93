import pytest
import torch
from pretended_gpus import pretend_gpus

from expertmesh.kernels import backends
from expertmesh.kernels.backends import choose_backend, create_backend
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.int4pack import has_fast_bfloat16
from expertmesh.kernels.native.isa import names_of, usable_variants
from expertmesh.kernels.native.library import load_default

CPU = torch.device("cpu")
META = torch.device("meta")


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", CPU, "cpu"),
        ("cpu", CPU, "cpu"),
        ("cpu-a8", CPU, "cpu-a8"),
        ("reference", CPU, "reference"),
        ("auto", META, "reference"),
    ],
)
def test_backends_by_name(name, device, expected):
    backend = create_backend(name, device)
    assert (backend.name, backend.device) == (expected, device)


def test_what_does_not_exist_or_fit_is_refused():
    with pytest.raises(
        ValueError, match="'cuda' is unknown; use one of auto, cpu, cpu-a8, triton, triton-blas, reference"
    ):
        create_backend("cuda", CPU)
    with pytest.raises(ValueError, match="backend cpu cannot run on meta; use reference"):
        create_backend("cpu", META)
    with pytest.raises(ValueError, match="backend cpu-a8 cannot run on meta; use reference"):
        create_backend("cpu-a8", META)
    with pytest.raises(ValueError, match="backend triton cannot run on cpu; use cpu"):
        create_backend("triton", CPU)
    with pytest.raises(ValueError, match="backend triton-blas cannot run on cpu; use cpu"):
        create_backend("triton-blas", CPU)


@pytest.mark.skipif(load_default() is None, reason="needs the C kernels")
@pytest.mark.parametrize(("isa", "expected"), [("auto", names_of(usable_variants())), ("avx2", ("avx2",))])
def test_the_c_kernels_tell_their_instruction_set_and_suit_its_products(isa, expected):
    backend = create_backend("cpu", CPU, isa)
    assert backend.isa in expected
    assert backend.is_deterministic
    assert (backend.activation_dtype == torch.bfloat16) == (backend.isa in ("avx512-bf16", "amx"))


def test_without_the_c_kernels_torch_decides_and_no_row_is_sure_of_its_bits():
    backend = CpuBackend(is_native=False)
    assert (backend.isa, backend.is_deterministic) == ("", False)
    assert (backend.activation_dtype == torch.bfloat16) == has_fast_bfloat16()


@pytest.mark.parametrize(("device", "dtype"), [(CPU, torch.float32), (META, torch.bfloat16)])
def test_the_reference_has_no_instruction_set_and_is_narrow_where_no_processor_computes(device, dtype):
    backend = create_backend("reference", device)
    assert (backend.isa, backend.is_deterministic, backend.activation_dtype) == ("", False, dtype)


def test_an_instruction_set_that_does_not_exist_or_has_no_use_is_refused():
    with pytest.raises(ValueError, match="'sse2' is unknown; use one of auto, avx2"):
        create_backend("cpu", CPU, "sse2")
    with pytest.raises(ValueError, match="backend reference has no choice of instruction sets, so 'avx2' cannot be"):
        create_backend("reference", CPU, "avx2")


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), "reference"), ((7, 5), "triton"), ((12, 0), "triton")])
def test_auto_is_triton_on_a_gpu_that_is_not_too_old(monkeypatch, capability, expected):
    pytest.importorskip("triton")
    pretend_gpus(monkeypatch, "a", "b", capability=capability)
    assert choose_backend(torch.device("cuda", 1)) == expected
    assert choose_backend(torch.device("cuda", 2)) == "reference"


def test_auto_is_the_reference_where_triton_is_not_installed(monkeypatch):
    pretend_gpus(monkeypatch, "a")
    gpu = torch.device("cuda")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert choose_backend(gpu) == "reference"
    with pytest.raises(ValueError, match="needs the package triton; use reference"):
        create_backend("triton", gpu)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "opened"), [("auto", "triton"), ("triton", "triton"), ("triton-blas", "triton-blas")])
def test_triton_opens_on_a_gpu(name, opened):
    backend = create_backend(name, torch.device("cuda"))
    assert (backend.name, backend.device.type) == (opened, "cuda")
    assert (backend.isa, backend.is_deterministic, backend.activation_dtype) == ("", False, torch.bfloat16)
