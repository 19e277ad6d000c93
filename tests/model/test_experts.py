import pytest
import torch

from expertmesh.errors import ComputeError
from expertmesh.kernels.backend import DeviceFFN
from expertmesh.kernels.moe import run_chosen
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights
from expertmesh.model.experts import LayerCall, LocalExperts, run_experts

WIDTH = 8


def experts(num_experts: int) -> list[ExpertWeights]:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(num_experts, 3, WIDTH, WIDTH, generator=generator)
    return [ExpertWeights(*(DenseWeight(matrix) for matrix in expert)) for expert in matrices]


class OnDevice(DeviceFFN):
    """Other experts behind the interface of those of a GPU."""

    def __init__(self, ffn, num_experts):
        self._ffn, self._num_experts, self.num_bytes = ffn, num_experts, ffn.num_bytes

    def __call__(self, x, num_rows, row_weights):
        return self._ffn(x, num_rows, row_weights)

    def run_chosen(self, hidden, topk_slots, topk_weights, out=None, nonfinite=None):
        total = run_chosen(self._ffn, self._num_experts, hidden, topk_slots.numpy(), topk_weights.numpy())
        if not total.isfinite().all():
            nonfinite.fill_(1)
        return total


def run(weights: list[ExpertWeights], topk_ids: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    layer = ReferenceBackend(torch.device("cpu")).experts(weights)
    hidden = torch.full((len(topk_ids), WIDTH), value)
    local = LocalExperts([layer, layer], len(weights))
    return run_experts(local, LayerCall(1, hidden, topk_ids, torch.full(topk_ids.shape, 0.5)))


def test_values_that_are_not_finite_name_layer_and_experts():
    weights = experts(4)
    weights[2].w_down.data[0, 0] = torch.nan
    with pytest.raises(ComputeError, match=r"layer 1, experts \[1, 2\]"):
        run(weights, torch.tensor([[0, 3], [1, 2]]))
    assert run(weights, torch.tensor([[0, 3], [1, 3]])).isfinite().all()


def test_experts_are_not_blamed_for_what_they_are_given():
    with pytest.raises(ComputeError, match=r"layer 1: its experts are given values that are not finite"):
        run(experts(4), torch.tensor([[0, 3]]), torch.nan)


def test_experts_on_a_device_are_looked_at_after_the_last_layer():
    weights = experts(4)
    weights[2].w_down.data[0, 0] = torch.nan
    backend = ReferenceBackend(torch.device("cpu"))
    whole, broken = OnDevice(backend.experts(experts(4)), 4), OnDevice(backend.experts(weights), 4)
    local = LocalExperts([whole, broken, whole], 4)
    calls = [
        LayerCall(layer, torch.ones(1, WIDTH), torch.tensor([[1, 2]]), torch.full((1, 2), 0.5)) for layer in range(3)
    ]
    assert run_experts(local, calls[0]).isfinite().all()
    assert not run_experts(local, calls[1]).isfinite().all()
    with pytest.raises(ComputeError, match="layer 1: values that are not finite, from its experts or before"):
        run_experts(local, calls[2])
    assert run_experts(local, calls[2]).isfinite().all()
