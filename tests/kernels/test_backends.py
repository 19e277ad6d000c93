import pytest
import torch

from expertmesh.kernels.backends import create_backend

CPU = torch.device("cpu")
META = torch.device("meta")


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [("auto", CPU, "cpu"), ("cpu", CPU, "cpu"), ("reference", CPU, "reference"), ("auto", META, "reference")],
)
def test_backends_by_name(name, device, expected):
    backend = create_backend(name, device)
    assert (backend.name, backend.device) == (expected, device)


def test_what_does_not_exist_or_fit_is_refused():
    with pytest.raises(ValueError, match="'cuda' is unknown; use one of auto, cpu, reference"):
        create_backend("cuda", CPU)
    with pytest.raises(ValueError, match="backend cpu cannot run on meta; use reference"):
        create_backend("cpu", META)
