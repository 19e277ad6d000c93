import pytest
import torch

from expertmesh.kernels import backends
from expertmesh.kernels.backends import choose_backend, create_backend

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
    with pytest.raises(ValueError, match="'cuda' is unknown; use one of auto, cpu, cpu-a8, triton, reference"):
        create_backend("cuda", CPU)
    with pytest.raises(ValueError, match="backend cpu cannot run on meta; use reference"):
        create_backend("cpu", META)
    with pytest.raises(ValueError, match="backend cpu-a8 cannot run on meta; use reference"):
        create_backend("cpu-a8", META)
    with pytest.raises(ValueError, match="backend triton cannot run on cpu; use cpu"):
        create_backend("triton", CPU)


def test_auto_is_triton_on_a_gpu_where_it_is_installed(monkeypatch):
    pytest.importorskip("triton")
    gpu = torch.device("cuda")
    assert choose_backend(gpu) == "triton"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert choose_backend(gpu) == "reference"
    with pytest.raises(ValueError, match="needs the package triton; use reference"):
        create_backend("triton", gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["auto", "triton"])
def test_triton_opens_on_a_gpu(name):
    backend = create_backend(name, torch.device("cuda"))
    assert (backend.name, backend.device.type) == ("triton", "cuda")
