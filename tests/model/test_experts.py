import pytest
import torch
from device_ffn import OnDevice

from expertmesh.errors import ComputeError
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights
from expertmesh.model.experts import DeviceExperts, LayerCall, LocalExperts, PartOnDevice, run_experts

WIDTH = 8


def experts(num_experts: int) -> list[ExpertWeights]:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(num_experts, 3, WIDTH, WIDTH, generator=generator)
    return [ExpertWeights(*(DenseWeight(matrix) for matrix in expert)) for expert in matrices]


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


class Noted(DeviceExperts):
    """Experts of three layers that cannot be asked by the host, and what was counted of them."""

    def __init__(self, *layers: OnDevice) -> None:
        self.counted: list[list[int]] = []
        self._local = LocalExperts(layers, 4)

    def run(self, call, nonfinite, out=None):
        return self._local.run_on_device(call, nonfinite, out)

    def count(self, topk_ids):
        self.counted.append(topk_ids.ravel().tolist())


def calls(expert: int = 1) -> list[LayerCall]:
    weights = torch.full((1, 2), 0.5)
    return [LayerCall(layer, torch.ones(1, WIDTH), torch.tensor([[expert, 2]]), weights) for layer in range(3)]


def whole_and_broken() -> tuple[OnDevice, OnDevice]:
    weights = experts(4)
    weights[2].w_down.data[0, 0] = torch.nan
    backend = ReferenceBackend(torch.device("cpu"))
    return OnDevice(backend.experts(experts(4)), 4), OnDevice(backend.experts(weights), 4)


def test_experts_on_a_device_are_looked_at_after_the_last_layer():
    whole, broken = whole_and_broken()
    noted = Noted(whole, broken, whole)
    part = PartOnDevice(noted, 3)
    first, second, third = calls()
    assert run_experts(part, first).isfinite().all()
    assert not run_experts(part, second).isfinite().all()
    assert not noted.counted
    with pytest.raises(ComputeError, match="layer 1: values that are not finite, from its experts or before"):
        run_experts(part, third)
    assert noted.counted == [[1, 2, 1, 2, 1, 2]]


def test_what_a_failed_part_left_is_not_seen_by_the_next(monkeypatch):
    whole, broken = whole_and_broken()
    layers = [broken, whole, whole]
    noted = Noted(*layers)
    failed = PartOnDevice(noted, 3)
    run_experts(failed, calls(0)[0])  # marked, and chosen
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(OnDevice, "run_chosen", lambda *_: 1 / 0)
        run_experts(failed, calls(0)[1])
    layers[0].run_chosen = whole.run_chosen
    part = PartOnDevice(noted, 3)
    assert all(run_experts(part, call).isfinite().all() for call in calls())
    assert noted.counted == [[1, 2, 1, 2, 1, 2]]
