"""What a layer's experts ask of a GPU: how many launches, and nothing of its host. Runs no kernel."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from expertmesh.kernels.triton import kernels
from expertmesh.kernels.triton.ahead import FORMATS, device_of
from expertmesh.kernels.triton.backend import TritonExperts, TritonLinear

DEVICE = device_of("sm_90")

# Of these torch makes or looks at memory, and launches nothing.
NO_LAUNCHES = ("empty", "view", "slice", "select", "detach", "unsqueeze", "alias", "_unsafe_view", "squeeze")


class Launches(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if not name.startswith(NO_LAUNCHES):
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


class Kernel:
    """Stands for a kernel: notes that it was launched on a grid."""

    def __init__(self, name: str, names: list[str]) -> None:
        self._name, self._names = name, names

    def __getitem__(self, grid):
        assert all(type(size) is int and size > 0 for size in grid)
        return lambda *args, **options: self._names.append(self._name)


@pytest.fixture
def launches(monkeypatch):
    launches = Launches()
    for name in ("schedule", "grouped_linear", "combine"):
        monkeypatch.setattr(kernels, name, Kernel(name, launches.names))
    return launches


def without_values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Make a tensor on meta, where none has values that could be read."""
    return torch.empty(shape, dtype=dtype, device="meta")


def experts_without_values(name: str, min_rows_to_unpack: int | None = None) -> TritonExperts:
    """Lay out an expert on meta."""
    form = FORMATS[name]
    return TritonExperts(form.lay_out(2 * 14336, 4096), form.lay_out(4096, 14336), DEVICE, min_rows_to_unpack)


@pytest.mark.parametrize("num_rows", [1, 16, 4096])
@pytest.mark.parametrize("name", ["4 bits g128", "bfloat16"])
def test_a_layer_takes_four_launches_and_reads_nothing(name, num_rows, launches):
    hidden = without_values(num_rows, 4096, dtype=torch.bfloat16)
    slots = without_values(num_rows, 2, dtype=torch.int32)
    experts = experts_without_values(name)
    with launches:
        total = experts.run_chosen(hidden, slots, without_values(num_rows, 2))
    assert launches.names == ["schedule", "grouped_linear", "grouped_linear", "combine"]
    assert (total.shape, total.dtype) == (hidden.shape, torch.float32)


def test_the_sums_go_where_they_are_wanted(launches):
    hidden, out = without_values(3, 4096, dtype=torch.bfloat16), without_values(3, 4096)
    slots, weights = without_values(3, 2, dtype=torch.int32), without_values(3, 2)
    assert experts_without_values("4 bits g128").run_chosen(hidden, slots, weights, out) is out


def test_sums_in_memory_that_is_there_are_those_of_a_recording(launches):
    hidden, out = without_values(3, 4096, dtype=torch.bfloat16), without_values(3, 4096)
    slots, weights = without_values(3, 1, dtype=torch.int32), without_values(3, 1)
    experts_without_values("4 bits g128", min_rows_to_unpack=1).run_chosen(hidden, slots, weights, out)
    assert launches.names == ["schedule", "grouped_linear", "grouped_linear", "combine"]


@pytest.mark.parametrize(("num_in", "expected"), [(1024, ["grouped_linear"]), (2048, ["grouped_linear", "combine"])])
def test_a_matrix_takes_a_launch_and_one_more_where_k_is_split(num_in, expected, launches):
    linear = TritonLinear(FORMATS["4 bits g128"].lay_out(96, num_in), DEVICE)
    with launches:
        linear(without_values(3, num_in, dtype=torch.bfloat16))
    assert launches.names == expected
